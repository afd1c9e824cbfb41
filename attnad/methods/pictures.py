"""What goes into a detector and what comes out: pictures, their frozen features, scores and maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from attnad.datasets.base import Dataset, Sample

if TYPE_CHECKING:
    from attnad.methods.base import Detector


@dataclass
class Prediction:
    """What a detector says about N pictures; higher means more anomalous.

    Attributes:
        scores: (N,) float.
        maps: (N, H, W) float32 at the resolution of the pictures; None if the method makes no maps.
    """

    scores: np.ndarray
    maps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class Frozen:
    """The output of a detector's frozen part for N pictures, computed once (`Detector.precompute`).

    Attributes:
        tensors: each (N, ...), on the CPU.
        part: which part of which network this is; another detector refuses it.
        size: (H, W) of the pictures, at which `Detector.predict` returns its maps; None leaves them small.
    """

    tensors: list[Tensor]
    part: str
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> Frozen:
        """Those of some pictures: a slice, or an array or list of numbers or of bools.

        Raises:
            TypeError: a single number, which would lose the axis of the pictures.
        """
        if not isinstance(rows, slice) and np.ndim(rows) == 0:
            raise TypeError(f"[{rows}]: take [[{rows}]], features of one picture are a set of one")
        return Frozen([tensor[rows] for tensor in self.tensors], self.part, self.size)


Pictures = Dataset | Sequence[Sample] | Tensor | np.ndarray
P = TypeVar("P", bound=Pictures)


class Shared(Generic[P]):
    """Pictures, and what the frozen part of each detector makes of them: computed once for all alike.

    Args:
        train: normal pictures.
        tests: any number of other sets.
        most: how many frozen parts are kept of each set; the oldest goes.

    Calling it with a detector returns the `Frozen` of each set, ready for its `fit` and `predict`.
    """

    def __init__(self, train: P, *tests: P, most: int = 12):
        self.sets, self.most = (train, *tests), most
        self.kept: list[dict[tuple, Frozen]] = [{} for _ in self.sets]

    def __call__(self, detector: Detector) -> list[Frozen]:
        found = []
        for index, (pictures, kept) in enumerate(zip(self.sets, self.kept, strict=True)):
            training = index == 0
            # A block of one's own is named by its address: kept here, so that nothing else gets that address.
            own = getattr(detector, "attention", None)
            alike = detector.frozen_name(), detector.shown(training), own
            if alike not in kept:
                if len(kept) >= self.most:
                    del kept[next(iter(kept))]
                kept[alike] = detector.precompute(pictures, training)
            found.append(kept[alike])
        return found


def stacked(dataset: Pictures, indices: list[int] | None = None) -> Tensor:
    """The pictures at `indices`, or all of them: (B, 3, H, W) float32."""
    if isinstance(dataset, Tensor):
        return (dataset if indices is None else dataset[indices]).float()
    items = dataset if indices is None else (dataset[i] for i in indices)
    return torch.from_numpy(np.asarray([getattr(item, "image", item) for item in items], dtype=np.float32))
