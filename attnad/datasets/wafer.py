"""Wafer: generated pictures of diced semiconductor wafers, as a stand-in for a private data set.

The Semiconductor Wafer data set of the first paper is not public; its section 4.1 names chips and streets,
and the defects spur, break out, overetch and scratch. Whatever is measured here says nothing about that data
set's figures. Unlike `powerline` this is a controlled scene: one layout, photographed again and again.
"""

from __future__ import annotations

import zlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from attnad.datasets.base import Dataset, Record, Source
from attnad.datasets.drawing import tint
from attnad.datasets.fields import clip, keep_memory, noise
from attnad.datasets.images import DataError

DEFECTS = ("spur", "break_out", "overetch", "scratch")

SOURCE = Source(
    name="wafer",
    title="Wafer: generated chips and streets of a diced wafer",
    kind="generated",
    licence="MIT (made by this package)",
    size="nothing to download",
    url="",
    how="nothing to do: pictures are drawn when they are asked for",
    categories=("chip", "street"),
)

SILICON, METAL, OXIDE, KERF = (126, 112, 128), (214, 196, 140), (92, 118, 128), (34, 32, 36)


def load(
    category: str, split: str, size: int, seed: int, root: str | Path | None = None,
    train_count: int = 200, test_count: int = 60, light: float | None = None, defect_size: float = 1.0,
) -> Dataset:  # fmt: skip
    """Generated pictures of chips or of the streets between them.

    Args:
        category: ``"chip"`` or ``"street"``.
        split: ``"train"`` (normal only) or ``"test"`` (``test_count`` normal, as many anomalous: each defect
        in turn). size: side in pixels.
        seed: of the layout and of every picture.
        root: not used.
        train_count: normal pictures in ``train``.
        test_count: normal pictures in ``test``, and anomalous ones.
        light: 0 dark to 1 bright; None: any.
        defect_size: relative to the usual, above 0 and at most 4.

    Raises:
        DataError: a category that does not exist, or a knob out of range.
    """
    _check(category, light, defect_size)
    knobs = f" light={light}" if light is not None else ""
    knobs += f" defect_size={defect_size}" if defect_size != 1 else ""
    defects = ["good"] * (train_count if split == "train" else test_count)
    if split == "test":
        defects += [DEFECTS[i % len(DEFECTS)] for i in range(test_count)]
    records = [
        Record(
            int(defect != "good"), defect, f"wafer/{category}/{split}/{defect}/{seed}-{i}{knobs}",
            partial(_read, category, split, i, seed, defect, light, defect_size),
        )
        for i, defect in enumerate(defects)
    ]  # fmt: skip
    return Dataset(SOURCE.name, category, split, records, size)


def picture(
    category: str = "chip", index: int = 0, defect: str = "good", size: int = 256, split: str = "test",
    seed: int = 0, light: float | None = None, defect_size: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """One picture with any defect; returns, and raises, what `powerline.picture` does."""
    _check(category, light, defect_size)
    if defect not in ("good", *DEFECTS):
        raise DataError(f"wafer has no defect {defect!r}; it has: good, {', '.join(DEFECTS)}")
    return _read(category, split, index, seed, defect, light, defect_size, size)


def _check(category: str, light: float | None, defect_size: float) -> None:
    SOURCE.check_category(category)
    if light is not None and not 0 <= light <= 1:
        raise DataError(f"light={light}: must be between 0 and 1")
    if not 0 < defect_size <= 4:
        raise DataError(f"defect_size={defect_size}: must be above 0 and at most 4")


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@lru_cache(maxsize=4)
def _layout(category: str, seed: int, size: int) -> tuple[Image.Image, Image.Image, tuple]:
    """The layout without defects, twice as large as asked for; the object's mask; its metal lines.

    All pictures of a seed show this same layout, as all chips of a wafer do.
    """
    rng = _generator(seed, zlib.crc32(b"wafer layout"), len(category))
    s = 2 * size
    base, mask = Image.new("RGB", (s, s), OXIDE), Image.new("L", (s, s))
    draw = ImageDraw.Draw(base)
    lines = []

    def box(x0, y0, x1, y1, fill, outline=None):
        draw.rectangle([x0 * s, y0 * s, x1 * s, y1 * s], fill=fill, outline=outline)

    if category == "chip":
        box(0, 0, 1, 1, KERF)
        box(0.03, 0.03, 0.97, 0.97, (84, 78, 88))
        box(0.09, 0.09, 0.91, 0.91, SILICON, (190, 180, 160))
        ImageDraw.Draw(mask).rectangle([0.03 * s, 0.03 * s, 0.97 * s, 0.97 * s], fill=255)
        for k in np.linspace(0.15, 0.80, 9):  # bond pads all around
            for x, y in ((k, 0.115), (k, 0.835), (0.115, k), (0.835, k)):
                box(x, y, x + 0.05, y + 0.05, METAL, (150, 130, 90))
        for x, y, w, h in ((0.22, 0.22, 0.26, 0.24), (0.54, 0.22, 0.24, 0.14), (0.22, 0.54, 0.18, 0.24)):
            box(x, y, x + w, y + h, OXIDE, (150, 150, 150))  # memories: fine stripes
            for v in np.arange(y + 0.012, y + h - 0.006, 0.012):
                draw.line(
                    [x * s + 3, v * s, (x + w) * s - 3, v * s], fill=(126, 150, 152), width=max(1, s // 300)
                )
        area, count, thick = (0.44, 0.40, 0.80, 0.80), 11, 0.010
    else:
        for x0, x1 in ((0, 0.27), (0.73, 1)):  # the chips on both sides
            box(x0, 0, x1, 1, SILICON)
        for x in (0.262, 0.73):
            box(x, 0, x + 0.008, 1, (190, 180, 160))
        for y in np.arange(-0.04, 1, 0.135):
            for x in (0.14, 0.79):
                box(x, y, x + 0.07, y + 0.075, METAL, (150, 130, 90))
        ImageDraw.Draw(mask).rectangle([0.27 * s, 0, 0.73 * s, s], fill=255)
        for y in np.arange(0.05, 1, 0.3):  # test structures beside the saw's groove
            box(0.33, y, 0.39, y + 0.14, METAL, (150, 130, 90))
        box(0.455, 0, 0.545, 1, KERF)
        box(0.45, 0, 0.455, 1, (150, 146, 150))
        box(0.545, 0, 0.55, 1, (150, 146, 150))
        area, count, thick = (0.57, 0.03, 0.72, 0.97), 7, 0.009
    x0, y0, x1, y1 = area
    for i in range(count):
        if category == "chip":
            y = y0 + (y1 - y0) * i / (count - 1)
            a, b = x0 + rng.uniform(0, 0.08), x1 - rng.uniform(0, 0.08)
            points = [(a, y), (0.5 * (a + b), y), (0.5 * (a + b) + 0.015, y + 0.012), (b, y + 0.012)]
        else:
            x = x0 + (x1 - x0) * (i + 0.5) / count
            points = [(x, y0 + rng.uniform(0, 0.2)), (x, y1 - rng.uniform(0, 0.2))]
        lines.append(points)
        draw.line([(x * s, y * s) for x, y in points], fill=METAL, width=max(1, round(thick * s)))
    return base, mask, tuple(lines)


def _read(
    category: str,
    split: str,
    index: int,
    seed: int,
    defect: str,
    light: float | None,
    defect_size: float,
    size: int,
):
    keep_memory()
    base, inside, lines = _layout(category, seed, size)
    rng = _generator(seed, zlib.crc32(f"wafer/{category}/{split}".encode()), index)
    scene, mask = base.copy(), Image.new("L", base.size)
    # The same draws for every defect, so that a picture and its good twin share the view.
    angle, shift, drawn = rng.normal(0, 0.6), rng.normal(0, 0.008, 2) * size, rng.beta(3, 3)
    fault, lens = rng.spawn(2)
    if category == "street":
        _kerf(scene, rng)
    if defect != "good":
        _PAINT[defect](scene, mask, category, lines, fault, defect_size)
        limit = Image.new("L", mask.size)
        limit.paste(mask, mask=inside if category == "chip" else None)
        mask = limit
    s = size  # the drawing is twice as large: halve it, then turn
    c, w = 0.965 * np.cos(np.radians(angle)), 0.965 * np.sin(np.radians(angle))  # turned, a little closer
    dx, dy = (0.5 * s * (1 - c) + 0.5 * s * w + shift[0], 0.5 * s * (1 - c) - 0.5 * s * w + shift[1])
    view = (float(c), float(-w), float(dx), float(w), float(c), float(dy))
    scene, mask, inside = (
        im.reduce(2).transform((s, s), Image.Transform.AFFINE, view, Image.Resampling.BILINEAR)
        for im in (scene, mask, inside)
    )
    rgb = np.stack([np.asarray(plane, dtype=np.float32) for plane in scene.split()]) / 255
    light = drawn if light is None else light
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = 1 + float(lens.normal(0, 0.05)) * ramp[None, :] + float(lens.normal(0, 0.05)) * ramp[:, None]
    grain = 1 + 0.035 * noise(lens, size, 0.9, 16, 128)
    rgb = rgb * (tilt * grain) * ((0.75 + 0.5 * float(light)) * tint(1 + lens.normal(0, 0.015, 3)))
    rgb += np.float32(lens.uniform(0.004, 0.012)) * lens.standard_normal((size, size), dtype=np.float32)
    image = (clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8) / np.float32(255)
    return image, *((np.asarray(m) > 127)[None] for m in (mask, inside))


def _kerf(scene: Image.Image, rng: np.random.Generator) -> None:
    """The ragged edge that the saw leaves, on good pictures too."""
    draw, s = ImageDraw.Draw(scene), scene.width
    for x in (0.453, 0.547):
        for y, r in zip(rng.uniform(0, 1, 14), rng.uniform(0.003, 0.010, 14), strict=True):
            draw.polygon(_blob(rng, x * s, y * s, r * s, 7), fill=KERF)


def _blob(rng, x: float, y: float, radius: float, corners: int = 12) -> list[tuple[float, float]]:
    t = np.arange(corners) * 2 * np.pi / corners
    r = radius * rng.uniform(0.55, 1.2, corners)
    return list(zip((x + r * np.cos(t)).tolist(), (y + r * np.sin(t)).tolist(), strict=True))


def _spur(scene, mask, category, lines, rng, amount):
    """Metal that sticks out of a line, towards its neighbour or across it."""
    s = scene.width
    (x0, y0), (x1, y1) = lines[rng.integers(1, len(lines) - 1)][:2]
    t, length, half = rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.045) * amount, rng.uniform(0.011, 0.016)
    x, y, sign = x0 + t * (x1 - x0), y0 + t * (y1 - y0), rng.choice([-1, 1])
    tip = [(x + sign * length * k, y + w) if category == "street" else (x + w, y + sign * length * k)
           for k, w in ((0, -half), (0.7, -0.6 * half), (1.0, 0), (0.8, 0.8 * half),
                        (0, 1.1 * half))]  # fmt: skip
    corners = [(a * s, b * s) for a, b in tip]
    for picture, fill in ((scene, METAL), (mask, 255)):
        ImageDraw.Draw(picture).polygon(corners, fill=fill)


def _break_out(scene, mask, category, lines, rng, amount):
    """Material that the saw has broken out of an edge."""
    s, radius, along = scene.width, rng.uniform(0.05, 0.09) * amount, rng.uniform(0.15, 0.85)
    if category == "street":
        x, y = (0.445 if rng.random() < 0.5 else 0.555), along
    else:
        side = rng.integers(4)
        x, y = ((0.06, along), (0.94, along), (along, 0.06), (along, 0.94))[side]
    corners = _blob(rng, x * s, y * s, radius * s, 16)
    ImageDraw.Draw(scene).polygon(corners, fill=(58, 54, 60))
    inner = [(x * s + 0.7 * (a - x * s), y * s + 0.7 * (b - y * s)) for a, b in corners]
    ImageDraw.Draw(scene).polygon(inner, fill=KERF)
    ImageDraw.Draw(scene).line([*corners, corners[0]], fill=(178, 172, 178), width=max(1, s // 256))
    ImageDraw.Draw(mask).polygon(corners, fill=255)


def _overetch(scene, mask, category, lines, rng, amount):
    """A region etched too far: lines thinned away, the layer below shining through in another colour."""
    s, radius = scene.width, rng.uniform(0.06, 0.10) * amount
    points = lines[rng.integers(len(lines))]
    t = rng.uniform(0.25, 0.75)
    x, y = (float(points[0][k] + t * (points[-1][k] - points[0][k])) for k in (0, 1))
    spot = Image.new("L", scene.size)
    ImageDraw.Draw(spot).polygon(_blob(rng, x * s, y * s, radius * s, 16), fill=255)
    soft = spot.filter(ImageFilter.BoxBlur(0.012 * s))
    box = soft.getbbox()
    thin = scene.crop(box).filter(ImageFilter.MinFilter(2 * max(1, s // 200) + 1))
    stained = Image.blend(thin, Image.new("RGB", thin.size, (150, 96, 74)), 0.5)
    scene.paste(stained, box, soft.crop(box))
    mask.paste(255, mask=soft.point(lambda v: 255 if v > 110 else 0))


def _scratch(scene, mask, category, lines, rng, amount):
    """A long thin bright line with a dark lip, slightly bent."""
    s = scene.width
    x, y, angle = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0, np.pi)
    t = np.linspace(-0.5, 0.5, 14) * rng.uniform(0.3, 0.6) * amount
    bend = rng.normal(0, 0.6) * t**2 + rng.normal(0, 0.0015, 14)
    px, py = x + t * np.cos(angle) - bend * np.sin(angle), y + t * np.sin(angle) + bend * np.cos(angle)
    corners = list(zip((px * s).tolist(), (py * s).tolist(), strict=True))
    width = max(2, round(s * 0.006))
    lip = [(a + 0.7 * width, b + 0.7 * width) for a, b in corners]
    ImageDraw.Draw(scene).line(lip, fill=(60, 56, 62), width=width)
    ImageDraw.Draw(scene).line(corners, fill=(238, 234, 228), width=width)
    ImageDraw.Draw(mask).line(
        [(a + 0.35 * width, b + 0.35 * width) for a, b in corners], fill=255, width=2 * width
    )


_PAINT = {"spur": _spur, "break_out": _break_out, "overetch": _overetch, "scratch": _scratch}
