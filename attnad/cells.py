"""One run of the benchmark: one method with one attention on one category with one seed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnad import datasets, metrics, results, weights
from attnad.datasets.base import Dataset
from attnad.methods import Detector
from attnad.methods.pictures import Shared
from attnad.sizes import METHODS, SIZES

LOOKS = 10  # at the test set for the protocol "best": ten to fifteen, or all epochs if fewer than twenty

FIGURES = ("image_auroc", "average_precision", "f1_max", "pixel_auroc", "aupro")
COLUMNS = (
    "method", "attention", "attention_points", "gates", "options", "backbone", "weights", "dataset",
    "category", "seed", "profile", "protocol", *FIGURES, "epochs", "image_size", "train", "test_normal",
    "test_anomalous", "seconds", "device", "python", "versions", "commit", "date", "command", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run, by names only, so that it can be written down and sent to another machine.

    Attributes:
        method: a key of `METHODS`.
        attention: a key of `attnad.attention.ATTENTION`, or ``"none"``.
        points: where it goes, joined by ``+``; empty for every place that the method has.
        dataset, category: as `attnad.datasets.load` knows them; behind a colon its options may follow, e.g.
            ``"glass_insulator:clutter=0,scale=1.6"``.
        seed: of weights, training and drawn pictures.
        profile: the sizes, a key of `SIZES`.
        options: further arguments of the method, as JSON; they come after those of `SIZES`.
        train, test: at most so many pictures to train on, and of each kind to test on; 0 for all.
    """

    method: str
    attention: str
    points: str
    dataset: str
    category: str
    seed: int
    profile: str
    options: str
    train: int
    test: int

    @property
    def name(self) -> str:
        """Names the cell and nothing else, e.g. in a file of many cells."""
        return " ".join(str(value) or "-" for value in dataclasses.astuple(self))

    def command(self) -> str:
        """What runs this cell again."""
        words = [
            "python",
            "-m",
            "attnad",
            "benchmark",
            "--methods",
            self.method,
            "--attention",
            self.attention,
        ]
        words += ["--points", self.points] if self.points else []
        words += ["--data", f"{self.dataset}/{self.category}", "--seeds", str(self.seed)]
        words += ["--profile", self.profile, "--train", str(self.train), "--test", str(self.test)]
        chosen = [f"{name}={json.dumps(value)}" for name, value in json.loads(self.options).items()]
        words += ["--set", *chosen] if chosen else []
        return shlex.join(words)

    def detector(self) -> Detector:
        """The untrained detector of this cell."""
        arguments = SIZES[self.profile].get(self.method, {}) | json.loads(self.options)
        if self.attention != "none":
            arguments["attention"] = self.attention
            if self.points:
                arguments["attention_points"] = self.points.split("+")
        return METHODS[self.method](**arguments, seed=self.seed)

    def data(self, size: int) -> tuple[Dataset, Dataset]:
        """Pictures to train on and to test on; where not all are taken, the same ones in every cell."""
        category, _, knobs = self.category.partition(":")
        options = settings(knobs.split(",") if knobs else [])
        train, test = (
            datasets.load(self.dataset, category, split, size=size, **options) for split in ("train", "test")
        )
        return few(train, test, self.train, self.test)


def settings(texts: Iterable[str]) -> dict[str, Any]:
    """``["epochs=3", "weights=imagenet"]`` -> ``{"epochs": 3, "weights": "imagenet"}``.

    Raises:
        ValueError: a text without ``=``.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text}: write it as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:  # a bare word is a text
            found[name] = value
    return found


def few(train: Dataset, test: Dataset, count: int, each: int) -> tuple[Dataset, Dataset]:
    """`count` pictures to train on and `each` of both kinds to test on, always the same ones; 0 for all."""
    rng = np.random.default_rng(0)
    if count:
        train = train[np.sort(rng.permutation(len(train))[:count])]
    if each:
        kinds = [rng.permutation(np.flatnonzero(test.labels == kind))[:each] for kind in (0, 1)]
        test = test[np.sort(np.concatenate(kinds))]
    return train, test


@dataclass
class Outcome:
    """What a cell gave.

    Attributes:
        rows: of the table, one for each protocol (``last``, ``best``), or one that tells an error.
        labels, scores: of each test picture.
        warnings: that came up on the way.
    """

    rows: list[dict]
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)


# Of the cells before: seeds and attentions often share the frozen part.
_shared: dict[tuple, Shared[Dataset]] = {}


def shared(cell: Cell, size: int) -> Shared[Dataset]:
    """The pictures of a cell, with what was frozen for the cells before it; of one category at a time."""
    # "distilled" weights are those in one folder at a time.
    category = cell.dataset, cell.category, cell.train, cell.test, weights.DISTILLED
    key = (*category, size)
    if key not in _shared:
        if any(other[:-1] != category for other in _shared):
            _shared.clear()
        _shared[key] = Shared(*cell.data(size), most=4)
    return _shared[key]


def run(cell: Cell, checkpoint: Path | None = None) -> Outcome:
    """Train and test one cell.

    The protocol ``last`` is the detector after its last epoch. ``best`` is the epoch with the highest image
    AUROC *on the test set*, out of those that were looked at: all if there are fewer than twenty, else ten to
    fifteen, ten of a hundred. So it is at most what a paper reports that keeps the best of all its epochs.
    No one who has no labelled defects can have that detector. ``seconds`` are those of the whole cell, with
    the looks, and with the epochs of a training that was interrupted.

    Args:
        cell: what to run.
        checkpoint: a file from which an interrupted training goes on.
    """
    begin, detector = time.perf_counter(), cell.detector()
    provenance = results.provenance(str(detector.device))  # before the work: someone may commit meanwhile
    size = detector.image_size
    pictures = shared(cell, size)
    train, test = pictures.sets
    fitted, tested = pictures(detector) if detector.cache else (train, test)

    seen: set[int] = set()

    def look(detector: Detector, epoch: int) -> dict | None:
        seen.add(epoch)
        left = detector.epochs - 1 - epoch
        if left == 0 or left % max(1, detector.epochs // LOOKS):  # the last one is judged below
            return None
        return metrics.evaluate(detector.predict(tested), test)

    detector.fit(fitted, on_epoch=look, checkpoint=checkpoint)
    prediction = detector.predict(tested)
    last = metrics.evaluate(prediction, test)
    looks = [entry for entry in detector.history if "image_auroc" in entry]
    best = max([*looks, last], key=lambda entry: entry["image_auroc"])
    before = sum(entry["seconds"] for entry in detector.history if entry["epoch"] not in seen)
    known = _row(cell) | {
        "attention_points": "+".join(getattr(getattr(detector, "extractor", None), "points", ())),
        "gates": getattr(detector, "gates", None) or "",
        "backbone": getattr(detector, "backbone", ""),
        "weights": getattr(detector, "weights", ""),
        "epochs": detector.epochs, "image_size": size, "train": len(train),
        "test_normal": int((test.labels == 0).sum()), "test_anomalous": int(test.labels.sum()),
        "seconds": round(before + time.perf_counter() - begin, 1),
    } | provenance  # fmt: skip
    rows = [
        known | {"protocol": protocol} | {name: round(figures.get(name, float("nan")), 4) for name in FIGURES}
        for protocol, figures in (("last", last), ("best", best))
    ]
    return Outcome(rows, test.labels.astype(np.uint8), prediction.scores.astype(np.float32))


def _row(cell: Cell) -> dict:
    row = dict.fromkeys(COLUMNS, "")
    for name in ("method", "attention", "options", "dataset", "category", "seed", "profile"):
        row[name] = getattr(cell, name)
    return row | {"attention_points": cell.points, "command": cell.command(), "protocol": "last"}


def begun(checkpoint: Path) -> Path:
    """The empty file that stands beside a checkpoint from the moment its cell begins."""
    return checkpoint.with_suffix(".begun")


def attempt(cell: Cell, checkpoint: Path | None = None) -> tuple[Cell, Outcome]:
    """`run`, but an error becomes a row that tells it, and the bars of a detector stay out of the sweep's."""
    try:
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            begun(checkpoint).touch()
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            outcome = run(cell, checkpoint)
        messages = (str(one.message) for one in caught if issubclass(one.category, UserWarning))
        return cell, dataclasses.replace(outcome, warnings=list(dict.fromkeys(messages)))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
        known = results.provenance() | {"device": ""}  # it may not have come to one
        return cell, Outcome([_row(cell) | known | {"error": " ".join(said.split())}])
