"""What trains a gate, and does it help? DifferNet and Mahalanobis with gates that learned in different ways.

    ATTNAD_DATA=FOLDER python benchmarks/signals.py [--data SET/CATEGORY ...] [--signals NAME ...]

Every run has its control without attention: same data, same normalisation, same seed of the flow. A signal
that comes out of a training of gates is trained anew for each seed. Sizes are those of the quick profile,
the normalisation is batch normalisation unless the signal says otherwise. Choices were made on ELPV mono and
the generated vari-grip; ELPV poly and Magnetic Tile are there to confirm, once.

``data/results/signals.csv`` has one row for each run, ``signals_scores.npz`` each test picture's label and
score; runs that are there are left out.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import shlex
import time
from pathlib import Path

import numpy as np
import torch

from attnad import benchmark, datasets, metrics
from attnad.attention import CBAM, SqueezeExcitation
from attnad.cells import COLUMNS
from attnad.methods import DifferNet, Mahalanobis, Shared
from attnad.methods.files import replaced
from attnad.methods.pictures import stacked
from attnad.pretext import ConstantGate, FromIdentity, is_pasted, train_gates, which
from attnad.results import DATA, provenance
from attnad.sizes import SIZES

FILE = DATA / "results" / "signals.csv"
FIELDS = ("signal", *COLUMNS, "right", "spread")
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
    question = which(assets()) if signal == "which asset" else is_pasted(stacked(load(data)[0]))
    gates, history = train_gates(BLOCKS.get(kind, ConstantGate), question, seed=seed)
    return gates, float(np.mean([entry["right"] for entry in history[-len(history) // 5 :]]))


@functools.cache
def load(data: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Pictures to train on and to test on: those of the benchmark."""
    return benchmark.plan(["DifferNet"], data=[data], profile="quick")[0].data(SIZE)


@functools.cache
def shared(data: str) -> Shared:
    return Shared(*(stacked(part) for part in load(data)))


def run(signal: str, kind: str, data: str, seed: int) -> list[tuple[dict, np.ndarray]]:
    """Rows of both judges, and labels and scores (2, N) of the test pictures of each."""
    arguments, known = SIGNALS[signal][kind], provenance()
    more: dict = {}
    if arguments is None:
        gates, right = trained(signal, kind, "" if signal == "which asset" else data, seed)
        arguments, more = {"attention": gates}, {"right": round(right, 3)}
    labels, found = load(data)[1].labels, []
    words = ["python", "benchmarks/signals.py", "--data", data, "--signals", signal, "--attention", kind]
    for judge in (DifferNet, Mahalanobis):
        if judge is Mahalanobis and arguments.get("train_attention"):
            continue  # it has no likelihood to train a gate with
        allowed = {k: v for k, v in arguments.items() if judge is DifferNet or k == "attention"}
        if judge is Mahalanobis and signal == "none, standardized once":
            continue  # it always does that
        start = time.perf_counter()
        detector = judge(**SIZES["quick"][judge.__name__] | allowed, seed=seed)
        train, test = shared(data)(detector)
        scores = detector.fit(train).predict(test).scores
        if judge is DifferNet:
            more["spread"] = round(detector.history[-1]["spread"], 4)
        name, _, category = data.partition("/")
        row = dict.fromkeys(FIELDS, "") | {
            "signal": signal, "method": judge.__name__, "attention": kind, "dataset": name,
            "attention_points": "+".join(detector.extractor.points), "backbone": detector.backbone,
            "weights": detector.weights, "category": category, "seed": seed, "profile": "quick",
            "protocol": "last", "image_auroc": round(metrics.image_auroc(labels, scores), 4),
            "epochs": detector.epochs, "image_size": SIZE, "train": len(train),
            "test_normal": int((labels == 0).sum()), "test_anomalous": int(labels.sum()),
            "seconds": round(time.perf_counter() - start, 1),
            "command": shlex.join([*words, "--seeds", str(seed)]),
        }  # fmt: skip
        found.append((row | more | known, np.stack([labels.astype(np.float32), scores.astype(np.float32)])))
    return found


def key(row: dict) -> str:
    """Names a run: the key of its scores too."""
    names = ("signal", "method", "attention", "dataset", "category", "seed")
    return " | ".join(str(row[name]) for name in names)


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
    packed_file = chosen.out.with_name(chosen.out.stem + "_scores.npz")
    if chosen.out.exists():
        with chosen.out.open(newline="", encoding="utf8") as file:
            rows = {key(row): row for row in csv.DictReader(file)}
        with np.load(packed_file) as file:
            scores = dict(file)
    for data in chosen.data:
        for seed in chosen.seeds:
            for signal in chosen.signals:
                for kind in set(chosen.attention) & set(SIGNALS[signal]):
                    first = {"signal": signal, "method": "DifferNet", "attention": kind, "seed": seed}
                    name, _, category = data.partition("/")
                    if key(first | {"dataset": name, "category": category}) in rows:
                        continue
                    for row, numbers in run(signal, kind, data, seed):
                        rows[key(row)], scores[key(row)] = row, numbers
                        print(key(row), row["image_auroc"], row["right"], f"{row['seconds']} s", flush=True)
                    write(chosen.out, packed_file, rows, scores)


def write(out: Path, packed_file: Path, rows: dict[str, dict], scores: dict[str, np.ndarray]) -> None:
    packed, text = io.BytesIO(), io.StringIO(newline="")
    np.savez_compressed(packed, **scores)
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    for path, content in ((packed_file, packed.getvalue()), (out, text.getvalue().encode())):
        with replaced(path) as partial:
            partial.write_bytes(content)


if __name__ == "__main__":
    main()
