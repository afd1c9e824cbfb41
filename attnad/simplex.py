"""Simplex noise: smooth random clouds, which RD++ lays over pictures as make-believe defects."""

from __future__ import annotations

import numpy as np

# The middles of a cube's twelve edges.
DIRECTIONS = np.array(
    [(x, y, 0) for x in (-1, 1) for y in (-1, 1)]
    + [(x, 0, z) for x in (-1, 1) for z in (-1, 1)]
    + [(0, y, z) for y in (-1, 1) for z in (-1, 1)],
    dtype=float,
)


def octaves(
    shape: tuple[int, int, int], rng: np.random.Generator, count: int = 6, persistence: float = 0.6
) -> np.ndarray:
    """Layers of `simplex_noise`, each twice as fine as the one before and `persistence` times as strong.

    The coarsest has one bump in about 32 px. Returns `shape` float64.
    """
    permutation = rng.permutation(256)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).astype(float)
    layers = (persistence**i * simplex_noise(grid * (2**i / 32), permutation) for i in range(count))
    return sum(layers, start=np.zeros(shape))


def simplex_noise(points: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    """Perlin's simplex noise in three dimensions: smooth, about zero, within [-1, 1].

    Space is cut into tetrahedra; each of a point's four corners has a random direction (one of twelve),
    and pulls the value up on one side of itself and down on the other, with a force that fades.

    Args:
        points: (..., 3) coordinates.
        permutation: of 0 ... 255, which says what direction each corner has.

    Returns:
        (...) values.
    """
    corner = np.floor(points + points.sum(-1, keepdims=True) / 3)  # of the skewed cube around the point
    offset = points - (corner - corner.sum(-1, keepdims=True) / 6)
    # The largest coordinate is stepped along first: that orders the cube's six tetrahedra.
    rank = np.argsort(np.argsort(-offset, axis=-1, kind="stable"), axis=-1)
    total = np.zeros(points.shape[:-1])
    for step in range(4):
        move = (rank < step).astype(float)  # (0, 0, 0), then one coordinate after the other
        delta = offset - move + step / 6
        i, j, k = np.moveaxis((corner + move).astype(int) % 256, -1, 0)
        kind = permutation[(i + permutation[(j + permutation[k]) % 256]) % 256] % 12
        fade = np.maximum(0.5 - (delta**2).sum(-1), 0) ** 4
        total += fade * (delta * DIRECTIONS[kind]).sum(-1)
    return 72 * total  # which brings it into [-1, 1]
