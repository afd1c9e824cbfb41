"""What trains a gate, and does it help? DifferNet and Mahalanobis with gates that learned in different ways.

    ATTNAD_DATA=FOLDER python benchmarks/signals.py [--data SET/CATEGORY ...] [--signals NAME ...]

Every run has its control without attention: same data, same normalisation, same seed of the flow. A signal
that comes out of a training of gates is trained anew for each seed. Sizes are those of the quick profile,
the normalisation is batch normalisation unless the signal says otherwise. Choices were made on ELPV mono and
the generated vari-grip; ELPV poly and Magnetic Tile are there to confirm, once.

``data/results/signals.csv`` has one row for each run, ``signals_scores.npz`` each test picture's label and
score by the row's ``key``; runs that are there are left out. ``control`` names the signal to compare with.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import shlex
import time
from pathlib import Path

import numpy as np
import torch

from attnad import benchmark, datasets, metrics
from attnad.attention import CBAM, SqueezeExcitation
from attnad.cells import COLUMNS, Cell
from attnad.methods import DifferNet, Mahalanobis, Shared
from attnad.methods.pictures import stacked
from attnad.pretext import ConstantGate, FromIdentity, is_pasted, train_gates, which
from attnad.results import DATA, provenance
from attnad.sizes import SIZES
from attnad.tables import scores_path, write_table

FILE = DATA / "results" / "signals.csv"
FIELDS = ("key", "signal", "control", *COLUMNS, "right", "spread")
DATASETS = (
    "elpv/mono", "powerline/vari_grip:clutter=0,scale=1.6", "elpv/poly", "magnetic_tile/magnetic_tile",
)  # fmt: skip
ASSETS = [("powerline", name) for name in datasets.SOURCES["powerline"].categories]
BLOCKS = {"se": SqueezeExcitation, "cbam": CBAM}
SIZE = SIZES["quick"]["DifferNet"]["image_size"]
LAST = {"attention_points": ["AB3"], "train_attention": True}  # all before a trained gate is computed once
# signal -> attention -> arguments of the detector; None where gates have to be trained first
SIGNALS: dict[str, dict[str, dict | None]] = {
    "none": {"none": {}},
    "none, standardized once": {"none": {"normalize": "standardize"}},
    "untrained": {kind: {"attention": f"fresh_{kind}"} for kind in BLOCKS},
    "distilled": {kind: {"attention": kind} for kind in BLOCKS},
    "distilled, shuffled": {kind: {"attention": f"shuffled_{kind}"} for kind in BLOCKS},
    "likelihood": {kind: LAST | {"attention": f"fresh_{kind}"} for kind in BLOCKS},
    "likelihood, standardized once": {
        kind: LAST | {"attention": f"fresh_{kind}", "normalize": "standardize"} for kind in BLOCKS
    },
    "likelihood, from identity": {
        kind: LAST | {"attention": lambda channels, block=block: FromIdentity(block(channels))}
        for kind, block in BLOCKS.items()
    },
    "likelihood, constant gate": {"constant": LAST | {"attention": ConstantGate}},
    "which asset": dict.fromkeys((*BLOCKS, "constant")),
    "cut and paste": dict.fromkeys((*BLOCKS, "constant")),
}
CONTROL = {"likelihood, standardized once": "none, standardized once"}  # of all others: "none"


@functools.cache
def assets() -> list[torch.Tensor]:
    """Normal pictures of each generated asset."""
    return [stacked(datasets.load(*pair, "train", SIZE, train_count=60)) for pair in ASSETS]


@functools.cache
def trained(signal: str, kind: str, data: str, seed: int):
    """Gates, and the share of right answers in the last fifth of their training; `data` is "" for any."""
    question = which(assets()) if signal == "which asset" else is_pasted(pictures(data)[1].sets[0])
    gates, history = train_gates(BLOCKS.get(kind, ConstantGate), question, seed=seed)
    return gates, float(np.mean([entry["right"] for entry in history[-len(history) // 5 :]]))


@functools.cache
def pictures(data: str) -> tuple[Cell, Shared, np.ndarray]:
    """A cell of the benchmark with these data, its pictures to train on and to test on, and their labels."""
    (cell,) = benchmark.plan(["DifferNet"], data=[data], profile="quick")
    train, test = cell.data(SIZE)
    return cell, Shared(stacked(train), stacked(test)), test.labels


def key(signal: str, judge: str, kind: str, cell: Cell, seed: int) -> str:
    """Names a run."""
    return " | ".join((signal, judge, kind, cell.dataset, cell.category, str(seed)))


def run(signal: str, kind: str, data: str, seed: int) -> list[tuple[dict, np.ndarray]]:
    """Rows of both judges, and labels and scores (2, N) of the test pictures of each."""
    arguments, known, right = SIGNALS[signal][kind], provenance(), ""
    if arguments is None:
        gates, share = trained(signal, kind, "" if signal == "which asset" else data, seed)
        arguments, right = {"attention": gates}, round(share, 3)
    cell, shared, labels = pictures(data)
    words = ["python", "benchmarks/signals.py", "--data", data, "--signals", signal, "--attention", kind]
    found = []
    for judge in (DifferNet, Mahalanobis):
        if judge is Mahalanobis and arguments.get("train_attention"):
            continue  # it has no likelihood to train a gate with
        allowed = {k: v for k, v in arguments.items() if judge is DifferNet or k == "attention"}
        if judge is Mahalanobis and signal == "none, standardized once":
            continue  # it always does that
        start = time.perf_counter()
        detector = judge(**SIZES["quick"][judge.__name__] | allowed, seed=seed, device="cpu")
        train, test = shared(detector)
        scores = detector.fit(train).predict(test).scores
        row = dict.fromkeys(FIELDS, "") | known | {
            "key": key(signal, judge.__name__, kind, cell, seed), "signal": signal, "right": right,
            "control": "" if kind == "none" else CONTROL.get(signal, "none"),
            "method": judge.__name__, "attention": kind, "dataset": cell.dataset, "category": cell.category,
            "attention_points": "+".join(detector.extractor.points), "backbone": detector.backbone,
            "weights": detector.weights, "seed": seed, "profile": "quick", "protocol": "last",
            "image_auroc": round(metrics.image_auroc(labels, scores), 4),
            "epochs": detector.epochs, "image_size": SIZE, "train": len(train),
            "test_normal": int((labels == 0).sum()), "test_anomalous": int(labels.sum()),
            "seconds": round(time.perf_counter() - start, 1),
            "command": shlex.join([*words, "--seeds", str(seed)]),
        }  # fmt: skip
        if judge is DifferNet:
            row["spread"] = round(detector.history[-1]["spread"], 4)
        found.append((row, np.stack([labels.astype(np.float32), scores.astype(np.float32)])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=DATASETS, metavar="SET/CATEGORY")
    parser.add_argument("--signals", nargs="+", default=SIGNALS, choices=SIGNALS)
    parser.add_argument("--attention", nargs="+", default=("none", *BLOCKS, "constant"))
    parser.add_argument("--seeds", nargs="+", type=int, default=range(3))
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    rows: dict[str, dict] = {}
    scores: dict[str, np.ndarray] = {}
    if chosen.out.exists():
        with chosen.out.open(newline="", encoding="utf8") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        with np.load(scores_path(chosen.out)) as file:
            scores = dict(file)
    for data, seed, signal in itertools.product(chosen.data, chosen.seeds, chosen.signals):
        for kind in (kind for kind in SIGNALS[signal] if kind in chosen.attention):
            if key(signal, "DifferNet", kind, pictures(data)[0], seed) in rows:
                continue
            for row, numbers in run(signal, kind, data, seed):
                rows[row["key"]], scores[row["key"]] = row, numbers
                print(row["key"], row["image_auroc"], row["right"], f"{row['seconds']} s", flush=True)
            write_table(chosen.out, FIELDS, rows.values(), scores)


if __name__ == "__main__":
    main()
