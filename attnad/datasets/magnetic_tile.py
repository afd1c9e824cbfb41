"""Magnetic Tile: real grey pictures of magnetic tiles with five kinds of defect, all masked.

Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer, 2020. Layout, checked
against the real files: ``MT_<kind>/Imgs/*.jpg`` with a mask of the same stem in ``*.png`` beside each;
``MT_Free`` holds the good.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from attnad.datasets.base import Dataset, Record, Source, warn_counts
from attnad.datasets.download import find_root
from attnad.datasets.images import MissingDataError, read_image, read_mask

KINDS = ("blowhole", "break", "crack", "fray", "uneven")
GOOD = 952  # in MT_Free

SOURCE = Source(
    name="magnetic_tile",
    title="Magnetic Tile: surfaces of magnetic tiles",
    kind="real",
    licence="none stated; citation asked for",
    size="30 MB",
    url="https://github.com/abin24/Magnetic-tile-defect-datasets.",
    how="python -m attnad data get magnetic_tile",
    categories=("magnetic_tile",),
    counts={"magnetic_tile": (GOOD - round(GOOD / 5), round(GOOD / 5), 115 + 85 + 57 + 32 + 103)},
    fetch=("git", "https://github.com/abin24/Magnetic-tile-defect-datasets."),
)


def load(category: str, split: str, size: int, seed: int, root: str | Path | None = None) -> Dataset:
    """``test`` is a seeded fifth of the good tiles, as in the DifferNet paper, and all defective ones.

    Tiles have many sizes and shapes; each is squeezed into the square, as the reference codes do.

    Raises:
        MissingDataError: the data are not there.
    """
    home = find_root(SOURCE, root)
    free = home / "MT_Free" / "Imgs"
    if not free.is_dir():
        raise MissingDataError(f"{free}: no such folder. To get the data: {SOURCE.how}")
    good = sorted(free.glob("*.jpg"))
    order = np.random.default_rng(seed).permutation(len(good))
    cut = round(len(good) / 5)
    chosen = order[cut:] if split == "train" else order[:cut]
    entries = [("good", good[i]) for i in sorted(chosen)]
    if split == "test":
        for kind in KINDS:
            entries += [(kind, p) for p in sorted((home / f"MT_{kind.capitalize()}" / "Imgs").glob("*.jpg"))]
    records = [Record(int(kind != "good"), kind, str(p), partial(_read, p, kind)) for kind, p in entries]
    if not records:
        raise MissingDataError(f"{free}: no picture in it. To get the data: {SOURCE.how}")
    warn_counts(SOURCE, category, split, records)
    return Dataset(SOURCE.name, category, split, records, size)


def _read(path: Path, kind: str, size: int):
    image = read_image(path, size)
    return image, None if kind == "good" else read_mask(path.with_suffix(".png"), size, path), None
