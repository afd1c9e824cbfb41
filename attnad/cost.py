"""What a detector costs: parameters, bytes, multiply-adds and time for one picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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
        if hasattr(module, "attention_parameters")
        for p in module.attention_parameters()
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
        _judge(detector.eval(), image.to(detector.device))
    return counter.get_total_flops() // 2  # the counter counts a multiplication and an addition as two


@dataclass
class Latency:
    """Milliseconds from a picture in memory to its score and map.

    Attributes:
        median: of all runs.
        low, high: interval that contains the median of further such runs with 95 % (by order statistics).
        runs: (repeats,) all of them.
    """

    median: float
    low: float
    high: float
    runs: np.ndarray

    @classmethod
    def of(cls, runs: np.ndarray) -> Latency:
        # Each run is below the median with probability 1/2, so how many are is binomial.
        ordered, n = np.sort(runs), len(runs)
        margin = int(np.ceil(0.98 * np.sqrt(n)))
        low, high = max(0, n // 2 - margin), min(n - 1, (n - 1) // 2 + margin)
        return cls(float(np.median(runs)), float(ordered[low]), float(ordered[high]), runs)


def latency(detector: Detector, image: Tensor, repeats: int = 30, warm_up: int = 5) -> Latency:
    """Time what a picture takes, alone, on the detector's device.

    The first `warm_up` runs do not count: memory is still being fetched, kernels still being chosen. On a
    GPU the clock waits for the work to be done, which otherwise only has been asked for.

    Args:
        detector: any.
        image: (1, 3, H, W) in [0, 1].
        repeats: runs that count, at least 6.
    """
    if repeats < 6:
        raise ValueError(f"repeats={repeats}: an interval for the median takes at least 6 runs")
    detector, image = detector.to(detector.device).eval(), image.to(detector.device)
    runs = []
    for run in range(warm_up + repeats):
        _wait(detector.device)
        started = time.perf_counter()
        _judge(detector, image)
        _wait(detector.device)
        if run >= warm_up:
            runs.append(1000 * (time.perf_counter() - started))
    return Latency.of(np.array(runs))


def table(
    detectors: Mapping[str, Detector], image: Tensor, repeats: int = 30, warm_up: int = 5
) -> pd.DataFrame:
    """The costs of several detectors side by side; their runs take turns, so that a busy machine is fair.

    Args:
        detectors: by the name of their row.
        image: (1, 3, H, W) in [0, 1], as large as the detectors shall see it.

    Returns:
        One row each: ``trained`` and ``frozen`` parameters, ``megabytes`` (of 10^6 bytes, as stored),
        ``gmacs`` (10^9 multiply-adds), ``ms`` (median), ``ms_low`` and ``ms_high``.
    """
    runs: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    rounds = 5
    for turn in range(rounds):
        for name, detector in detectors.items():
            each = max(6, repeats // rounds)
            runs[name].append(latency(detector, image, each, warm_up if turn == 0 else 1).runs)
    rows = {}
    for name, detector in detectors.items():
        counts = parameters(detector).sum()
        time_ = Latency.of(np.concatenate(runs[name]))
        rows[name] = {
            "trained": counts["trained"],
            "frozen": counts["frozen"],
            "megabytes": counts["bytes"] / 1e6,
            "gmacs": multiply_adds(detector, image) / 1e9,
            "ms": time_.median,
            "ms_low": time_.low,
            "ms_high": time_.high,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


@torch.no_grad()
def _judge(detector: Detector, image: Tensor) -> None:
    detector.score(detector._frozen(image, False, torch.Generator()))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
