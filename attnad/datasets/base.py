"""What every data set yields: a `Dataset` of `Sample`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attnad.datasets.images import DataError


@dataclass(frozen=True)
class Sample:
    """One picture and all that is known about it.

    Attributes:
        image: (3, H, W) float32 in [0, 1]. Not normalised: the backbone knows its weights and does that.
        label: 0 normal, 1 anomalous.
        mask: (1, H, W) bool, True on the defect; None where the data set has no masks.
        category: the kind of object, e.g. ``"glass_insulator"``.
        defect: the kind of defect, ``"good"`` if none.
        path: where the picture came from: a file, or for a generated one what regenerates it.
        object_mask: (1, H, W) bool, True on the inspected object; only the generators know it.
    """

    image: np.ndarray
    label: int
    mask: np.ndarray | None
    category: str
    defect: str
    path: str
    object_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Record:
    """One entry of a data set before its picture is read: what is known, and how to read the rest.

    ``read(size)`` returns ``image, mask, object_mask`` as in `Sample`.
    """

    label: int
    defect: str
    path: str
    read: Callable[[int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]] = field(repr=False)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and what there should be in it.

    Attributes:
        name: what `attnad.datasets.load` calls it.
        title: a line for people.
        kind: ``"real"``, ``"generated"`` or ``"own"``.
        licence: its short name, or what is known of it.
        size: of the download.
        url: where it is described.
        how: what to type or do to get it.
        categories: of objects; the first is the default.
        splits: that `load` knows.
        masks: whether defects are marked in pixels.
        counts: category -> published numbers of (train good, test good, test anomalous).
        fetch: how `attnad.datasets.download` gets it: ``("git" | "drive", address)``; None: by hand.
    """

    name: str
    title: str
    kind: str
    licence: str
    size: str
    url: str
    how: str
    categories: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "test")
    masks: bool = True
    counts: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    fetch: tuple[str, str] | None = None

    def check_category(self, category: str | None) -> None:
        """Raises a `DataError` if there is no such category."""
        if self.categories and category not in self.categories:
            has = ", ".join(self.categories)
            raise DataError(f"{self.name} has no category {category!r}; it has: {has}")


class Dataset(Sequence[Sample]):
    """A sequence of `Sample` of one category and split; pictures are read when they are asked for.

    ``dataset[3]`` is a `Sample`, ``dataset[:8]`` a smaller `Dataset`, and so is ``dataset[indices]``.
    """

    def __init__(self, name: str, category: str, split: str, records: Sequence[Record], size: int):
        self.name, self.category, self.split = name, category, split
        self.records, self.size = list(records), size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Dataset(self.name, self.category, self.split, self.records[index], self.size)
        if isinstance(index, (list, tuple, np.ndarray)):
            index = np.asarray(index)
            indices = np.flatnonzero(index) if index.dtype == bool else index
            records = [self.records[int(i)] for i in indices]
            return Dataset(self.name, self.category, self.split, records, self.size)
        record = self.records[index]
        image, mask, object_mask = record.read(self.size)
        return Sample(image, record.label, mask, self.category, record.defect, record.path, object_mask)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, category={self.category!r}, split={self.split!r}, size={self.size}: "
            f"{int((self.labels == 0).sum())} normal, {int((self.labels == 1).sum())} anomalous)"
        )

    @property
    def labels(self) -> np.ndarray:
        """(N,) int: 0 normal, 1 anomalous; known without reading a picture."""
        return np.array([r.label for r in self.records], dtype=int)

    @property
    def defects(self) -> list[str]:
        """The kind of defect of each picture, ``"good"`` if none."""
        return [r.defect for r in self.records]


def warn_counts(source: Source, category: str, split: str, records: Sequence[Record]) -> None:
    """Warns, naming the first difference, if a split holds other numbers of pictures than were published."""
    if category not in source.counts:
        return
    train, good, bad = source.counts[category]
    normal = sum(r.label == 0 for r in records)
    expected = {"normal": train} if split == "train" else {"normal": good, "anomalous": bad}
    for kind, number in expected.items():
        found = normal if kind == "normal" else len(records) - normal
        if found != number:
            warnings.warn(
                f"{source.name}, {category}, {split}: {found} {kind} pictures on disk, {number} published; "
                "another version of the data, or an incomplete copy",
                stacklevel=4,
            )
            return
