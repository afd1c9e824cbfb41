"""A small painter for the generators: noise, shaded rods, plates and glass, on a canvas that knows its masks.

Everything is computed with smooth edges (each pixel holds the share of it that a shape covers), so there is
no need to draw larger and shrink. Coordinates are pixels, x to the right and y down; angles are in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

# The C library of Linux keeps freed blocks up to the size of the largest it has seen freed, and hands larger
# ones back to the system: without this each step over a whole picture would wait for fresh memory.
np.empty(2**24, np.uint8)


def noise(
    rng: np.random.Generator, size: int, roughness: float = 0.6, coarsest: int = 4, finest: int = 256
) -> np.ndarray:
    """(size, size) float32 fractal noise, mean 0 and deviation 1: random grids, each twice as fine as the
    last.

    Args:
        rng: draws the grids; how much it draws does not depend on ``size``.
        size: side in pixels.
        roughness: strength of an octave relative to the one before it.
        coarsest, finest: cells a side of the first and the last grid.
    """
    field = rng.random((coarsest, coarsest), dtype=np.float32)
    strength, cells = 1.0, coarsest
    while cells < finest:
        cells, strength = 2 * cells, strength * roughness
        field = resize(field, cells) + strength * rng.random((cells, cells), dtype=np.float32)
    field = resize(field, size) if size != cells else field
    field = field - field.mean()
    return field * (1 / (float(np.sqrt((field * field).mean())) + 1e-6))


def resize(field: np.ndarray, size: int) -> np.ndarray:
    """A square float32 field at another size."""
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


def unit(angle: float) -> np.ndarray:
    """The unit vector at an angle."""
    return np.array([np.cos(angle), np.sin(angle)])


class Frame:
    """Local coordinates of a thing in the picture: turned by ``angle``, then scaled, then moved.

    With angle 0, local (0, 1) points straight down.
    """

    def __init__(self, origin: Sequence[float] | np.ndarray, angle: float, scale: float, width: float = 1.0):
        """``width`` squeezes local x (a view from the side); a negative one mirrors."""
        self.origin, self.scale = np.asarray(origin, dtype=float), float(scale)
        c, s = np.cos(angle), np.sin(angle)
        self.matrix = np.array([[c, -s], [s, c]]) @ np.diag([width, 1.0])

    def __call__(self, points) -> np.ndarray:
        return self.origin + self.scale * (np.asarray(points, dtype=float) @ self.matrix.T)

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The way back: local coordinates of pixels, x as a row and y as a column."""
        (a, b), (c, d) = (self.matrix / self.scale).tolist()
        dx, dy = x - float(self.origin[0]), y - float(self.origin[1])
        return a * dx + c * dy, b * dx + d * dy


class Canvas:
    """A picture in the making.

    Attributes:
        rgb: (3, H, W) float32, 0 to 1 (and beyond, until the camera clips it).
        solid: (H, W) float32, what foreground covers of each pixel.
        object: (H, W) float32, what the inspected object covers.
        defect: (H, W) float32, what the defect covers.
        grain: (H, W) float32 noise that gives surfaces some life.
        light: unit vector (x, y, z), floats, towards the light; z towards the camera.
    """

    def __init__(self, rgb: np.ndarray, light: Sequence[float], grain: np.ndarray):
        self.rgb = np.ascontiguousarray(rgb, dtype=np.float32)
        self.height, self.width = rgb.shape[1:]
        self.solid, self.object, self.defect = (np.zeros(rgb.shape[1:], np.float32) for _ in range(3))
        length = float(np.linalg.norm(light))
        # Plain floats: a numpy scalar would turn every array it meets into float64.
        self.light = tuple(float(v) / length for v in light)
        self.grain = grain

    def window(self, points: np.ndarray | list, margin: float):
        """The slice of the canvas around some points, and the pixel coordinates in it; None if outside."""
        xs, ys = np.asarray(points).T.tolist()  # few points: plain Python is faster than numpy
        x0, y0 = max(math.floor(min(xs) - margin), 0), max(math.floor(min(ys) - margin), 0)
        x1, y1 = (
            min(math.ceil(max(xs) + margin) + 1, self.width),
            min(math.ceil(max(ys) + margin) + 1, self.height),
        )
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :]
        y = np.arange(y0, y1, dtype=np.float32)[:, None]
        return (slice(y0, y1), slice(x0, x1)), x, y

    def blend(self, where, alpha: np.ndarray, colour: np.ndarray, part: str = "object"):
        """Lay a colour (3, 1, 1) or (3, h, w) over a window; ``part`` is ``"object"``, ``"other"`` or
        ``"air"``."""
        view = self.rgb[channels(where)]
        change = colour - view
        change *= alpha
        view += change
        if part == "air":
            return
        self.defect[where] *= 1 - alpha  # what lies in front hides the defect, and the object
        for field in (self.solid, self.object)[: 2 if part == "object" else 1]:
            np.maximum(field[where], alpha, out=field[where])
        if part != "object":
            self.object[where] *= 1 - alpha

    def shade(self, nx, ny, colour, gloss: float, texture, ambient: float = 0.45):
        """Colour of a surface with normals nx, ny in the picture plane; ``texture`` multiplies it."""
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        lx, ly, lz = self.light
        lit = nx * lx + ny * ly + nz * lz
        # The highlight: the normal along the vector half-way between light and camera, to the 16th power.
        shine = (lit + nz) * (1 / math.sqrt(2 + 2 * lz))
        for _ in range(4):
            shine *= shine
        tone = np.maximum((1 - ambient) * lit, 0.12 * lit) + ambient
        shine *= gloss
        tone *= texture
        shine *= texture
        surface = tone * tint(colour)
        surface += shine
        return surface

    def stroke(self, points, radius, colour, gloss=0.25, twist=None, rust=None, part="object", shadow=0.5):
        """A shaded round rod along a line of points.

        Args:
            points: (n, 2) pixels.
            radius: pixels, one or n of them (a lathe: caps, sockets, wheels).
            colour: (3,).
            gloss: strength of the highlight.
            twist: strands of a cable: (strands that pass in one radius along the rod, strands seen side by
            side). rust: (strength, field) from `rust_field`, or None.
            part: see `blend`.
            shadow: how much it darkens what is close behind it.
        """
        points, radii = _cut(np.asarray(points, dtype=np.float32), np.asarray(radius, dtype=np.float32))
        soft = 2 + min(0.45 * float(radii.max()), 8.0)
        found = self.window(points, float(radii.max()) + soft)
        if found is None:
            return
        where = found[0]
        y0, x0 = where[0].start, where[1].start
        shape = (where[0].stop - y0, where[1].stop - x0)
        best = np.full(shape, 1e6, np.float32)
        nx, ny, phase = (np.zeros(shape, np.float32) for _ in range(3))
        corners, widths = points.tolist(), radii.tolist()
        if len(corners) == 1:
            corners, widths = corners * 2, widths * 2
        travelled, width = 0.0, max(widths)
        for a, b, ra, rb in zip(corners[:-1], corners[1:], widths[:-1], widths[1:], strict=True):
            length = math.hypot(b[0] - a[0], b[1] - a[1])
            found = self.window([a, b], max(ra, rb) + soft)
            if found is not None:
                (rows, columns), x, y = found
                inner = (slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0))
                ux, uy = (b[0] - a[0]) / (length + 1e-6), (b[1] - a[1]) / (length + 1e-6)
                x, y = x - a[0], y - a[1]
                t = clip(x * ux + y * uy, 0, length)
                dx, dy = x - t * ux, y - t * uy
                r = ra + (rb - ra) / (length + 1e-6) * t if ra != rb else ra
                distance = np.sqrt(dx * dx + dy * dy) - r
                turn = t
                if twist:
                    turn = (t + travelled) * (twist[0] / width) + (0.5 * twist[1]) * (dy * ux - dx * uy) / r
                if len(corners) == 2:
                    best, nx, ny, phase = distance, dx / r, dy / r, turn
                else:
                    closer = distance < best[inner]
                    np.copyto(best[inner], distance, where=closer)
                    np.copyto(nx[inner], dx / r, where=closer)
                    np.copyto(ny[inner], dy / r, where=closer)
                    if twist:
                        np.copyto(phase[inner], turn, where=closer)
            travelled += length
        alpha = clip(0.5 - best, 0, 1)
        if shadow:
            self.rgb[channels(where)] *= 1 - self.solid[where] * (shadow * clip(1 - best / soft, 0, 1))
        texture = 1 + 0.07 * self.grain[where]
        if twist:
            texture *= 0.78 + 0.3 * np.sin((2 * np.pi) * phase)
        surface = self.shade(clip(nx, -1, 1), clip(ny, -1, 1), colour, gloss, texture)
        self._paint(where, alpha, surface, rust, part)

    def plate(self, points, colour, rust=None, part="other", gloss=0.0, bevel=2.0, shadow=0.45):
        """A flat plate: a polygon with lit and shaded edges.

        Args:
            points: (n, 2) pixels, the corners.
            bevel: width of the edges in pixels.
            colour, rust, part, shadow: as in `stroke`; ``gloss`` brightens the end that faces the light.
        """
        points = np.asarray(points, dtype=np.float32)
        found = self.window(points, bevel + 2)
        if found is None:
            return
        where, x, y = found
        alpha = polygon(points, where)
        lx, ly, _ = self.light
        lx, ly = (v / (float(np.hypot(lx, ly)) + 1e-6) for v in (lx, ly))
        step = max(1, round(bevel))
        ix, iy = round(lx * step), round(ly * step)
        wide = np.pad(alpha, 2 * step, mode="edge")
        facing, averted, dark = (
            wide[2 * step + k * iy :, 2 * step + k * ix :][: alpha.shape[0], : alpha.shape[1]]
            for k in (1, -1, -2)
        )
        # Bright on the edges that face the light, dark on the others.
        edge = np.maximum(alpha - facing, 0) - 0.8 * np.maximum(alpha - averted, 0)
        if shadow:
            self.rgb[channels(where)] *= 1 - shadow * dark * self.solid[where]
        across = (x - x.mean()) * lx + (y - y.mean()) * ly
        tone = 0.5 + 0.45 * self.light[2] + 0.28 * edge + gloss * across / (float(np.ptp(across)) + 1)
        tone = tone * (1 + 0.06 * self.grain[where])
        self._paint(where, alpha, tone * tint(colour), rust, part)

    def _paint(self, where, alpha, surface, rust, part):
        if rust is not None:
            strength, field = rust
            cover = clip((field[where] + 2.4 * strength - 1.0) * 1.8, 0, 1) * min(1.0, 0.5 + strength)
            brown = RUST[0] + (RUST[1] - RUST[0]) * clip(0.5 + 0.45 * self.grain[where], 0, 1)
            tone = surface[1]
            surface = surface + cover * (brown * (0.35 + 0.9 * tone) - surface)
        self.blend(where, alpha, surface, part)
        if rust is not None:
            self.defect[where] = np.maximum(self.defect[where], alpha * (cover > 0.35))


RUST = np.array([[0.25, 0.12, 0.07], [0.55, 0.30, 0.18]], dtype=np.float32)[:, :, None, None]


def _cut(points: np.ndarray, radius: np.ndarray, longest: float = 120.0) -> tuple[np.ndarray, np.ndarray]:
    """The same line with long pieces cut into short ones, whose windows hold fewer pixels, and its radii."""
    radii = radius if radius.ndim else np.full(len(points), radius)
    lengths = np.hypot(*(points[1:] - points[:-1]).T)
    if not (lengths > longest).any():
        return points, radii
    steps = [
        np.linspace(i, i + 1, int(n), endpoint=False)
        for i, n in enumerate(np.ceil(lengths / longest) + (lengths == 0))
    ]
    at = np.concatenate([*steps, [len(lengths)]])
    index = np.arange(len(points))
    columns = [np.interp(at, index, values).astype(np.float32) for values in (*points.T, radii)]
    return np.stack(columns[:2], axis=1), columns[2]


def clip(field, low: float, high: float):
    """`numpy.clip` without its overhead, which matters in windows of a few hundred pixels."""
    return np.minimum(np.maximum(field, low), high)


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A boolean mask and all pixels within a square ``reach`` pixels around each of its own."""
    for _ in range(2):
        wide = mask.copy()
        for k in range(1, reach + 1):
            wide[k:] |= mask[:-k]
            wide[:-k] |= mask[k:]
        mask = wide.T
    return mask


def channels(where) -> tuple:
    """The index of all channels of a window."""
    return (slice(None), *where)


def tint(colour) -> np.ndarray:
    """A colour (3,) in the shape that multiplies fields of pixels: (3, 1, 1) float32."""
    return np.asarray(colour, dtype=np.float32).reshape(3, 1, 1)


def polygon(points: np.ndarray, where) -> np.ndarray:
    """Coverage (h, w) of a polygon in a window of the canvas, from a drawing four times as large."""
    rows, columns = where
    height, width = rows.stop - rows.start, columns.stop - columns.start
    picture = Image.new("L", (4 * width, 4 * height))
    corners = 4 * (points - [columns.start, rows.start]) + 1.5
    ImageDraw.Draw(picture).polygon([tuple(c) for c in corners.tolist()], fill=255)
    return np.asarray(picture.reduce(4), dtype=np.float32) / 255


def blurred(field: np.ndarray, radius: float) -> np.ndarray:
    """The means of a field over squares of side ``2 radius + 1``, any number; its border is repeated."""
    for _ in range(2):
        total = field * (1 / (1 + 2 * radius))
        for k in range(1, min(math.ceil(radius), len(field) - 1) + 1):
            part = field * (min(1.0, radius - (k - 1)) / (1 + 2 * radius))
            total[k:] += part[:-k]
            total[:k] += part[0]
            total[:-k] += part[k:]
            total[-k:] += part[-1]
        field = total.T
    return field
