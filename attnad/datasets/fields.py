"""Fields of numbers for the generators: noise, coverage, and what brings a field to size, blurs or grows it.

Only operations that IEEE 754 defines to the last bit, so that a picture is the same everywhere: no sines of
whole fields, no sums in single precision.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image


@cache
def keep_memory() -> None:
    """Lets the C library of Linux keep freed blocks of up to 16 MB, for all of the process.

    It keeps blocks up to the size of the largest that it has seen freed, and hands larger ones back to the
    system. Without this, each step over a whole picture would wait for fresh memory. For those who draw.
    """
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
        coarsest, finest: cells a side of the first and the last grid; ``finest`` is ``coarsest`` doubled some
            times. Mean and deviation are those of the last grid.
    """
    field = rng.random((coarsest, coarsest), dtype=np.float32)
    strength, cells = 1.0, coarsest
    while cells < finest:
        cells, strength = 2 * cells, strength * roughness
        octave = rng.random((cells, cells), dtype=np.float32)
        octave *= strength
        octave += doubled(field)
        field = octave
    field -= field.mean(dtype=np.float64)
    field *= 1 / (math.sqrt((field * field).mean(dtype=np.float64)) + 1e-6)
    return resize(field, size)


def resize(field: np.ndarray, size: int) -> np.ndarray:
    """A square float32 field at another size, smoothly."""
    while 2 * len(field) <= size:
        field = doubled(field)
    if len(field) == size:
        return field
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


def doubled(field: np.ndarray) -> np.ndarray:
    """A square field twice as large, interpolated linearly: several times as fast as Pillow's resize."""
    n = len(field)
    near, far = 0.75 * field, 0.25 * field  # new rows lie a quarter to either side of the old
    tall = np.empty((2 * n, n), field.dtype)
    tall[0], tall[-1] = field[0], field[-1]
    np.add(near[1:], far[:-1], out=tall[2::2])
    np.add(near[:-1], far[1:], out=tall[1:-1:2])
    near, far = 0.75 * tall, 0.25 * tall  # and so do columns
    wide = np.empty((2 * n, 2 * n), field.dtype)
    wide[:, 0], wide[:, -1] = tall[:, 0], tall[:, -1]
    np.add(near[:, 1:], far[:, :-1], out=wide[:, 2::2])
    np.add(near[:, :-1], far[:, 1:], out=wide[:, 1:-1:2])
    return wide


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


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A boolean mask and all pixels within a square ``reach`` pixels around each of its own."""
    for _ in range(2):
        wide = mask.copy()
        for k in range(1, reach + 1):
            wide[k:] |= mask[:-k]
            wide[:-k] |= mask[k:]
        mask = wide.T
    return mask


def wave(turns):
    """Two parabolas that look like a sine of so many turns; unlike a sine, the same on every machine."""
    part = turns - np.floor(turns + 0.5)
    return part * (8 - 16 * np.abs(part))


def clip(field, low: float, high: float):
    """`numpy.clip` without its overhead, which matters in windows of a few hundred pixels."""
    return np.minimum(np.maximum(field, low), high)


def polygon(corners: list, left: int, top: int, width: int, height: int) -> np.ndarray:
    """Share of each pixel (height, width) that a polygon covers, pixel (0, 0) being centred at (left, top).

    Each edge adds what lies to its right, downward edges with the other sign: inside, one of the two remains.
    """
    cover = np.zeros((height, width), np.float32)
    x = np.arange(left, left + width, dtype=np.float32)
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        (ax, ay), (bx, by) = sorted((a, b), key=lambda p: p[1])
        first, last = max(math.floor(ay + 0.5), top), min(math.floor(by + 0.5), top + height - 1)
        if ay == by or first > last:
            continue
        middle = np.arange(first, last + 1, dtype=np.float32)[:, None]
        upper, lower = np.maximum(middle - 0.5, ay), np.minimum(middle + 0.5, by)
        share, slope = lower - upper, (bx - ax) / (by - ay)
        crossing = ax + (0.5 * (upper + lower) - ay) * slope
        ramp = 1 / np.maximum(share * abs(slope), 1)  # an edge that lies flat crosses many pixels in one row
        part = clip(x * ramp + (0.5 - crossing * ramp), 0, 1)
        part *= share if a[1] < b[1] else -share
        cover[first - top : last + 1 - top] += part
    return np.minimum(np.abs(cover), 1)
