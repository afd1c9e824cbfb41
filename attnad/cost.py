"""What a detector costs: parameters, bytes, multiply-adds, time for one picture, and hours of training."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attnad import datasets
from attnad.cells import Cell, settings
from attnad.methods.base import Detector
from attnad.sizes import METHODS, SIZES


def parameters(detector: Detector) -> pd.DataFrame:
    """How many numbers are in which part, and which of them training changes.

    Returns:
        One row for each part with parameters or buffers: the detector's own members, with the attention
        blocks as a part of their own. Columns ``trained``, ``frozen`` (parameters), ``buffers`` (other
        stored numbers, such as the statistics of a batch normalisation or a memory bank) and ``bytes``,
        those of the three as they are stored.
    """
    gates = {
        id(p)
        for module in detector.modules()
        for p in getattr(module, "attention_parameters", list)()  # backbones and students have them
    }
    rows: dict[str, dict[str, int]] = {}

    def count(part: str, kind: str, tensor: Tensor) -> None:
        row = rows.setdefault(part, dict.fromkeys(("trained", "frozen", "buffers", "bytes"), 0))
        row[kind] += tensor.numel()
        row["bytes"] += tensor.numel() * tensor.element_size()

    for name, parameter in detector.named_parameters():
        part = "attention" if id(parameter) in gates else name.split(".")[0]
        count(part, "trained" if parameter.requires_grad else "frozen", parameter)
    stored = detector.state_dict()
    for name, buffer in detector.named_buffers():
        if name in stored:
            count(name.split(".")[0], "buffers", buffer)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def multiply_adds(detector: Detector, image: Tensor) -> int:
    """Multiplications with an addition that judging one picture takes, in convolutions and matrix products.

    Counted by PyTorch as the operations run; additions, activations and the like are left out, as usual.

    Args:
        detector: any.
        image: (1, 3, H, W) in [0, 1].
    """
    counter = FlopCounterMode(display=False)
    with counter:
        _judge(detector.to(detector.device).eval(), image.to(detector.device))
    return counter.get_total_flops() // 2  # the counter counts a multiplication and an addition as two


@dataclass
class Latency:
    """Milliseconds from a picture in memory to its score and map.

    Attributes:
        median: of all runs.
        low, high: 95 % interval for the median of such runs (by order statistics).
        runs: (repeats,) all of them.
    """

    median: float
    low: float
    high: float
    runs: np.ndarray

    @classmethod
    def of(cls, runs: np.ndarray) -> Latency:
        # Each run is below the median with probability 1/2, so how many are is binomial.
        ordered = np.sort(runs)
        low = int(stats.binom.ppf(0.025, len(runs), 0.5)) - 1  # at least 95 %: the last that fewer reach
        return cls(float(np.median(runs)), float(ordered[low]), float(ordered[-1 - low]), runs)


def latency(detector: Detector, image: Tensor, repeats: int = 30, warm_up: int = 5) -> Latency:
    """Time what a picture takes, alone, on the detector's device.

    The first `warm_up` runs do not count: memory is still being fetched, kernels still being chosen. On a
    GPU the clock waits for the work to be done, which otherwise only has been asked for.

    Args:
        detector: any.
        image: (1, 3, H, W) in [0, 1].
        repeats: runs that count, at least 6.
    """
    return Latency.of(_runs([detector], image, repeats, warm_up)[0])


def table(
    detectors: Mapping[str, Detector], image: Tensor, repeats: int = 30, warm_up: int = 5
) -> pd.DataFrame:
    """The costs of several detectors side by side; their runs take turns, so that a busy machine is fair.

    Args:
        detectors: by the name of their row; the first one is what the others are compared with.
        image: (1, 3, H, W) in [0, 1], as large as the detectors shall see it.
        repeats, warm_up: as for `latency`.

    Returns:
        One row each: ``trained`` and ``frozen`` parameters, ``megabytes`` (of 10^6 bytes, as stored),
        ``gmacs`` (10^9 multiply-adds), ``ms`` (median), ``ms_low`` and ``ms_high``; ``ratio``, ``ratio_low``
        and ``ratio_high``: the time relative to the first row's in the same turn, which a machine that is
        busy for a while leaves nearly alone.
    """
    runs = _runs(list(detectors.values()), image, repeats, warm_up)
    rows = {}
    for (name, detector), mine in zip(detectors.items(), runs):
        counts, time_, ratio = parameters(detector).sum(), Latency.of(mine), Latency.of(mine / runs[0])
        rows[name] = {
            "trained": counts["trained"],
            "frozen": counts["frozen"],
            "megabytes": counts["bytes"] / 1e6,
            "gmacs": multiply_adds(detector, image) / 1e9,
            "ms": time_.median,
            "ms_low": time_.low,
            "ms_high": time_.high,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


@functools.cache
def training(method: str, profile: str, options: str = "{}") -> dict:
    """What one training of a method is; nothing is downloaded for it, and no gradient computed.

    Returns:
        ``side`` of a picture in pixels, ``batch``, ``epochs`` or ``steps`` (EfficientAD counts in these),
        ``views`` of a picture in an epoch, ``multiply_adds`` for one of them, how many parameters are
        ``trained``, and what trained the ``gates`` of SE (None if the method does not say).

    Raises:
        KeyError: no such method or profile.
    """
    free = {"weights": None, "teacher": None, "test_views": 1, "attention": "se", "device": "cpu"}
    known = inspect.signature(METHODS[method]).parameters
    arguments = SIZES[profile].get(method, {}) | json.loads(options)
    detector = METHODS[method](**arguments | {name: free[name] for name in free if name in known})
    side, steps = detector.image_size, detector.steps if method == "EfficientAD" else 0
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    if not (steps or detector.epochs):  # its memory has to be there
        detector.fit(picture.repeat(2, 1, 1, 1))
    angles = getattr(detector, "angles", lambda views, generator: [0.0])
    if "weights" in known:  # not loaded, but they decide what trained the gates
        detector.weights = arguments.get("weights", known["weights"].default)
    return {
        "side": side, "batch": detector.batch_size, "epochs": detector.epochs, "steps": steps,
        "views": len(angles(getattr(detector, "train_views", 1), torch.Generator())),
        "multiply_adds": multiply_adds(detector, picture),
        "trained": sum(p.numel() for p in detector.trainable()), "gates": getattr(detector, "gates", None),
    }  # fmt: skip


def hours(cell: Cell, speed: float = 1.2e12) -> float:
    """What a cell would take on one GPU: an estimate, not a measurement.

    It counts multiply-adds: pictures times views times epochs, times three for forward and backward, as if
    all of the network were trained and nothing were cached. Not in it: loading pictures, a badly filled GPU,
    a memory's choice of what it keeps, a teacher's second look at a picture, the looks at the test set.

    Args:
        cell: of `attnad.benchmark`.
        speed: multiply-adds in a second. The default is a bit less than a third of what NVIDIA's T4 promises
            in single precision.

    Raises:
        ValueError: nothing says how many pictures there are to train on.
    """
    known, source = training(cell.method, cell.profile, cell.options), datasets.SOURCES[cell.dataset]
    category, _, knobs = cell.category.partition(":")
    if source.kind == "generated":
        count = settings(knobs.split(",") if knobs else []).get("train_count", 200)
    else:
        count = source.counts.get(category, (cell.train,))[0]
    if not count:
        raise ValueError(
            f"{cell.dataset}/{category}: how many pictures there are is not published; say --train"
        )
    views = known["views"] * min(count, cell.train or count)
    passes = 3 * (known["steps"] * known["batch"] or known["epochs"] * views) or views
    return passes * known["multiply_adds"] / speed / 3600


def _runs(detectors: Sequence[Detector], image: Tensor, repeats: int, warm_up: int) -> np.ndarray:
    """(detectors, repeats) milliseconds, in turns."""
    if repeats < 6:
        raise ValueError(f"repeats={repeats}: an interval for the median takes at least 6 runs")
    runs = np.empty((len(detectors), repeats))
    for detector in detectors:
        detector.to(detector.device).eval()
    for turn in range(-warm_up, repeats):
        for row, detector in zip(runs, detectors):
            seen = image.to(detector.device)
            _wait(detector.device)
            started = time.perf_counter()
            _judge(detector, seen)
            _wait(detector.device)
            if turn >= 0:
                row[turn] = 1000 * (time.perf_counter() - started)
    return runs


@torch.no_grad()
def _judge(detector: Detector, image: Tensor) -> None:
    detector.score(detector._frozen(image, False, torch.Generator()))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
