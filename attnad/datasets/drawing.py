"""A small painter for the generators: shaded rods, plates and glass, on a canvas that knows its masks.

Everything is computed with smooth edges (each pixel holds the share of it that a shape covers), so there is
no need to draw larger and shrink. Coordinates are pixels, x to the right and y down; angles are in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnad.datasets.fields import clip, polygon, wave


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
        self._texture = 1 + 0.07 * grain
        self._x = np.arange(self.width, dtype=np.float32)[None, :]
        self._y = np.arange(self.height, dtype=np.float32)[:, None]

    def window(self, points: list | np.ndarray, margin: float):
        """The slice of the canvas around some points, and the pixel coordinates in it; None if outside."""
        xs, ys = zip(*(points if isinstance(points, list) else points.tolist()), strict=True)
        x0, y0 = max(math.floor(min(xs) - margin), 0), max(math.floor(min(ys) - margin), 0)
        x1 = min(math.ceil(max(xs) + margin) + 1, self.width)
        y1 = min(math.ceil(max(ys) + margin) + 1, self.height)
        if x0 >= x1 or y0 >= y1:
            return None
        return (slice(y0, y1), slice(x0, x1)), self._x[:, x0:x1], self._y[y0:y1]

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

    def shade(self, flat, slope, colour, gloss: float, texture, ambient: float = 0.45):
        """Colour of a curved surface.

        Args:
            flat: the part of normal times light that lies in the picture plane.
            slope: length of the normal's part in the picture plane, 0 where the surface faces the camera.
            colour: (3,).
            gloss: strength of the highlight.
            texture: multiplies the colour.
            ambient: share of the light that comes from everywhere.
        """
        nz = np.sqrt(np.maximum(1 - slope * slope, 0))
        lz = self.light[2]
        lit = nz * lz
        lit += clip(flat, -1, 1)
        # The highlight: the normal along the vector half-way between light and camera, to the 16th power.
        nz += lit
        shine = nz * (1 / math.sqrt(2 + 2 * lz))
        for _ in range(4):
            shine *= shine
        shine *= gloss
        tone = np.maximum((1 - ambient) * lit, 0.12 * lit)
        tone += ambient
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
                side).
            rust: (strength, field), or None.
            part: see `blend`.
            shadow: how much it darkens what is close behind it.
        """
        points, radii = _pieces(points, radius)
        widest = max(radii)
        soft = 2 + min(0.45 * widest, 8.0)
        found, painted = self.window(points, widest + soft), self.window(points, widest + 1)
        if found is None:
            return
        where = found[0]
        y0, x0 = where[0].start, where[1].start
        shape = (where[0].stop - y0, where[1].stop - x0)
        # Of the nearest piece at each pixel: distance to the surface, the rod's radius, light, way along it.
        best, flat = np.full(shape, 1e6, np.float32), np.zeros(shape, np.float32)
        phase = np.zeros(shape, np.float32)
        wide = radii[0] if min(radii) == widest else np.ones(shape, np.float32)
        lx, ly, _ = self.light
        travelled = 0.0
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            length = math.hypot(b[0] - a[0], b[1] - a[1])
            found = self.window([a, b], max(ra, rb) + soft)
            if found is not None:
                (rows, columns), x, y = found
                inner = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
                ux, uy = ((b[0] - a[0]) / length, (b[1] - a[1]) / length) if length else (1.0, 0.0)
                x, y = x - a[0], y - a[1]
                along, aside = x * ux + y * uy, y * ux - x * uy
                t = clip(along, 0, length)
                along -= t  # what lies beyond the ends
                distance = along * along
                distance += aside * aside
                np.sqrt(distance, out=distance)
                r = ra + t * ((rb - ra) / length) if ra != rb else ra
                distance -= r
                closer = distance < best[inner]
                np.copyto(best[inner], distance, where=closer)
                if isinstance(wide, np.ndarray):
                    np.copyto(wide[inner], r, where=closer)
                if twist:
                    t += travelled
                    t *= twist[0] / widest
                    np.copyto(phase[inner], t + aside * (0.5 * twist[1] / r), where=closer)
                along *= ux * lx + uy * ly
                aside *= ux * ly - uy * lx
                along += aside
                along /= r
                np.copyto(flat[inner], along, where=closer)
            travelled += length
        if shadow:
            dark = clip(1 - best * (1 / soft), 0, 1)
            dark *= self.solid[where]
            dark *= -shadow
            dark += 1
            self.rgb[channels(where)] *= dark
        if painted is None:
            return
        where = painted[0]
        rows, columns = where
        inner = slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0)
        best, texture = best[inner], self._texture[where]
        if twist:
            texture = texture * (0.78 + 0.3 * wave(phase[inner]))
        wide = wide[inner] if isinstance(wide, np.ndarray) else wide
        surface = self.shade(flat[inner], best / wide + 1, colour, gloss, texture)
        self._paint(where, clip(0.5 - best, 0, 1), surface, rust, part)

    def plate(self, points, colour, rust=None, part="other", gloss=0.0, bevel=2.0, shadow=0.45):
        """A flat plate: a polygon with lit and shaded edges.

        Args:
            points: (n, 2) pixels, the corners.
            bevel: width of the edges in pixels.
            colour, rust, part, shadow: as in `stroke`; ``gloss`` brightens the end that faces the light.
        """
        corners, _ = _rounded(points, 0)
        found = self.window(corners, bevel + 2)
        if found is None:
            return
        where, x, y = found
        height, width = len(y), x.shape[1]
        lx, ly, _ = self.light
        length = math.hypot(lx, ly) + 1e-6
        lx, ly = lx / length, ly / length
        step = max(1, round(bevel))
        ix, iy = round(lx * step), round(ly * step)
        # A wider window, so that it can be moved by two steps.
        beyond = polygon(corners, where[1].start - 2 * step, where[0].start - 2 * step,
                         width + 4 * step, height + 4 * step)  # fmt: skip
        alpha, facing, averted, dark = (
            beyond[2 * step + k * iy :, 2 * step + k * ix :][:height, :width] for k in (0, 1, -1, -2)
        )
        if shadow:
            self.rgb[channels(where)] *= 1 - shadow * dark * self.solid[where]
        # Bright on the edges that face the light, dark on the others.
        tone = 0.28 * np.maximum(alpha - facing, 0) - 0.224 * np.maximum(alpha - averted, 0)
        tone += 0.5 + 0.45 * self.light[2]
        if gloss:
            slant = gloss / (abs(lx) * (width - 1) + abs(ly) * (height - 1) + 1)
            middle = lx * float(x[0, 0] + x[0, -1]) / 2 + ly * float(y[0, 0] + y[-1, 0]) / 2
            tone += (x * lx + (y * ly - middle)) * slant
        tone *= self._texture[where]
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


def _rounded(points, radius) -> tuple[list, list]:
    """Points and their radii as lists of floats, in steps of 1/256 pixel.

    Sines and exponentials differ in the last bit between versions of numpy; their pictures must not.
    """
    points = [(round(256 * x) / 256, round(256 * y) / 256) for x, y in np.asarray(points).tolist()]
    radii = np.asarray(radius).tolist()
    radii = radii if isinstance(radii, list) else [radii] * len(points)
    return points, [max(round(256 * r), 1) / 256 for r in radii]


def _pieces(points, radius, longest: float = 120.0) -> tuple[list, list]:
    """A line and its radii with long pieces cut into short ones, whose windows hold fewer pixels."""
    points, radii = _rounded(points, radius)
    points, radii = (points * 2, radii * 2) if len(points) == 1 else (points, radii)
    line, widths = points[:1], radii[:1]
    for (ax, ay), (bx, by), ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        n = max(1, math.ceil(math.hypot(bx - ax, by - ay) / longest))
        line += [(ax + (bx - ax) * k / n, ay + (by - ay) * k / n) for k in range(1, n + 1)]
        widths += [ra + (rb - ra) * k / n for k in range(1, n + 1)]
    return line, widths


def channels(where) -> tuple:
    """The index of all channels of a window."""
    return (slice(None), *where)


def tint(colour) -> np.ndarray:
    """A colour (3,) in the shape that multiplies fields of pixels: (3, 1, 1) float32."""
    return np.asarray(colour, dtype=np.float32).reshape(3, 1, 1)
