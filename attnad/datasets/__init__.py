"""Data sets: real, generated and your own, all yielding the same `Sample`.

::

    train = datasets.load("elpv", category="mono", split="train")
    train[0].image.shape            # (3, 256, 256), float32 in [0, 1]
"""

from __future__ import annotations

import inspect
from pathlib import Path

from attnad.datasets import (
    cplid,
    elpv,
    folder,
    insplad_fault,
    insplad_seg,
    magnetic_tile,
    mvtec_ad,
    powerline,
    wafer,
)
from attnad.datasets.base import Dataset, Record, Sample, Source
from attnad.datasets.commands import cli
from attnad.datasets.download import download
from attnad.datasets.images import DataError, MissingDataError
from attnad.datasets.report import check

_ALL = (powerline, wafer, elpv, magnetic_tile, insplad_fault, insplad_seg, mvtec_ad, cplid, folder)
MODULES = {module.SOURCE.name: module for module in _ALL}
SOURCES = {name: module.SOURCE for name, module in MODULES.items()}

__all__ = [
    "SOURCES", "DataError", "Dataset", "MissingDataError", "Record", "Sample", "Source", "check", "cli",
    "download", "load",
]  # fmt: skip


def load(
    name: str,
    category: str | None = None,
    split: str = "train",
    size: int = 256,
    seed: int = 0,
    root: str | Path | None = None,
    **options,
) -> Dataset:
    """One category and split of a data set.

    Args:
        name: a key of `SOURCES`, e.g. ``"elpv"``, ``"powerline"``, ``"folder"``.
        category: the kind of object; None takes the first that the data set has.
        split: ``"train"`` has normal pictures only; ``"test"`` has both kinds.
        size: side of the square pictures, in pixels.
        seed: of the split where the data set comes without one; of everything where it is generated.
        root: the folder of the data; where None, see `attnad.datasets.download.find_root`.
        **options: what this data set understands beyond that; see the ``load`` of its module.

    Raises:
        DataError: a name, category, split or option that does not exist, or files that cannot be used.
        MissingDataError: the data are not there; the message says how to get them.
    """
    if name not in MODULES:
        raise DataError(f"There is no data set {name!r}; there are: {', '.join(SOURCES)}")
    source = SOURCES[name]
    if category is None and source.categories:
        category = source.categories[0]
    source.check_category(category)
    if split not in source.splits:
        raise DataError(f"{name} has no split {split!r}; it has: {', '.join(source.splits)}")
    if size < 8:
        raise DataError(f"size={size}: pictures need at least 8 pixels a side")
    module = MODULES[name]
    known = list(inspect.signature(module.load).parameters)[5:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"it has: {', '.join(known)}" if known else "it has none"
        raise DataError(f"{name} has no option {', '.join(unknown)}; {has}")
    return module.load(category, split, size, seed, root, **options)
