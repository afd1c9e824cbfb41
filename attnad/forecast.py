"""How long a sweep will take, said before it begins: by what was recorded, else by counting multiply-adds."""

from __future__ import annotations

import csv
import functools
import inspect
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from attnad import cost, datasets, results
from attnad.cells import Cell, settings
from attnad.sizes import METHODS, SIZES


def describe(
    cells: Sequence[Cell], waiting: Sequence[Cell], jobs: int, estimate: bool = True
) -> Iterator[str]:
    """The plan in plain words.

    Times are those of the same method, data, sizes and kind of device in ``data/results/``; where there are
    none, `hours`.
    """

    def sizes(command: str) -> str:
        return command.partition(" --profile ")[2]  # with the numbers of pictures and --set

    def length(minutes: float) -> str:
        if minutes < 1:
            return "less than a minute"
        return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"

    yield f"{len(cells)} cells, {len(cells) - len(waiting)} of them done."
    for field in ("method", "attention", "points", "seed"):
        values = dict.fromkeys(str(getattr(cell, field)) or "all" for cell in cells)
        yield f"  {field + ':':11s} {', '.join(values)}"
    yield "  data:       " + ", ".join(dict.fromkeys(f"{cell.dataset}/{cell.category}" for cell in cells))
    known: dict[tuple, list[float]] = {}
    for path in sorted((results.DATA / "results").glob("*.csv")):
        with path.open(newline="", encoding="utf8") as file:
            for row in csv.DictReader(file):
                if row.get("protocol") == "last" and row.get("seconds") and sizes(row["command"]):
                    on_gpu = not row["device"].startswith("cpu")
                    key = row["method"], row["dataset"], sizes(row["command"]), on_gpu
                    known.setdefault(key, []).append(float(row["seconds"]))
    gpu = torch.cuda.is_available()
    times = [known.get((cell.method, cell.dataset, sizes(cell.command()), gpu)) for cell in waiting]
    measured = [float(np.median(seconds)) for seconds in times if seconds]
    if measured:
        minutes = sum(measured) / 60 / max(1, jobs)
        yield f"About {length(minutes)} for {len(measured)} cells, by what they took when recorded."
    others = [cell for cell, seconds in zip(waiting, times) if not seconds]
    if others:
        yield f"For {len(others)} cells no time has been recorded."
    if others and estimate:  # builds the networks, which takes seconds
        try:
            guess = length(60 * sum(hours(cell) for cell in others))
        except Exception as error:  # of wrong arguments, whatever they raise
            yield f"No estimate: {error}"
        else:
            yield f"Estimated from multiply-adds, on one GPU like NVIDIA's T4: {guess}."


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
        "multiply_adds": cost.multiply_adds(detector, picture),
        "trained": sum(p.numel() for p in detector.trainable()), "gates": getattr(detector, "gates", None),
    }  # fmt: skip


def hours(cell: Cell, speed: float = 1.2e12) -> float:
    """What a cell would take on one GPU: an estimate, not a measurement.

    It counts multiply-adds: pictures times views times epochs, times three for forward and backward, as if
    all of the network were trained and nothing were cached. Not in it: loading pictures, a badly filled GPU,
    a memory's choice of what it keeps, a teacher's second look at a picture, the looks at the test set.

    Args:
        cell: of `attnad.benchmark.plan`.
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
