"""What a detector costs: parameters, bytes, multiply-adds and time for one picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attnad.methods import PatchCore
from attnad.methods.base import Detector


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


def filled(detector: Detector, pictures: int) -> Detector:
    """The detector, ready to be timed; PatchCore's memory as long as after so many pictures, but random."""
    if isinstance(detector, PatchCore):
        _, height, width = detector.shapes(detector.image_size)[0]
        count = round(detector.coreset * pictures * height * width)
        detector.bank = torch.rand(count, detector.bank.shape[1])
    return detector.eval()


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
        One row each: ``trained`` and ``frozen`` parameters, ``gates`` (those of attention), ``megabytes`` (of
        10^6 bytes, as stored), ``gmacs`` (10^9 multiply-adds), ``ms`` (median), ``ms_low`` and ``ms_high``;
        ``ratio``, ``ratio_low`` and ``ratio_high``: the time relative to the first row's in the same turn,
        which a machine that is busy for a while leaves nearly alone.
    """
    runs = _runs(list(detectors.values()), image, repeats, warm_up)
    rows = {}
    for (name, detector), mine in zip(detectors.items(), runs):
        parts, time_, ratio = parameters(detector), Latency.of(mine), Latency.of(mine / runs[0])
        counts = parts.sum()
        rows[name] = {
            "gates": parts[["trained", "frozen"]].sum(axis=1).get("attention", 0),
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
