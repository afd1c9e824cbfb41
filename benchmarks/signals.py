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
import copy
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
from attnad.datasets import powerline
from attnad.datasets.scenery import camera, landscape
from attnad.methods import DifferNet, Mahalanobis, Shared
from attnad.methods.pictures import stacked
from attnad.pretext import (
    ConstantGate,
    FromIdentity,
    Question,
    how_turned,
    is_pasted,
    same_object,
    train_gates,
    where_is_the_object,
    which,
)
from attnad.results import DATA, provenance
from attnad.sizes import SIZES
from attnad.tables import read_table, write_table

FILE = DATA / "results" / "signals.csv"
FIELDS = ("key", "signal", "control", *COLUMNS, "right", "spread")
DATASETS = (
    "elpv/mono", "powerline/vari_grip:clutter=0,scale=1.6", "elpv/poly", "magnetic_tile/magnetic_tile",
)  # fmt: skip
ASSETS = datasets.SOURCES["powerline"].categories
BLOCKS = {"se": SqueezeExcitation, "cbam": CBAM}
FRESH = {"se": "fresh_se", "cbam": "fresh_cbam", "constant": ConstantGate}
SIZE = SIZES["quick"]["DifferNet"]["image_size"]
AB3 = {"attention_points": ["AB3"]}
LAST = AB3 | {"train_attention": True}  # all before a trained gate is computed once
WHITE, ONCE, BARE = ({"normalize": way} for way in ("whiten", "standardize", None))
# signal -> attention -> arguments of the detector; None where gates have to be trained first
SIGNALS: dict[str, dict[str, dict | None]] = {
    "none": {"none": {}},
    "none, not normalized": {"none": BARE},
    "none, standardized once": {"none": ONCE},
    "none, whitened once": {"none": WHITE},
    "untrained": {kind: {"attention": f"fresh_{kind}"} for kind in BLOCKS},
    "untrained, at AB3": {kind: AB3 | {"attention": f"fresh_{kind}"} for kind in BLOCKS},
    "distilled": {kind: {"attention": kind} for kind in BLOCKS},
    "distilled, shuffled": {kind: {"attention": f"shuffled_{kind}"} for kind in BLOCKS},
    "distilled, whitened once": {kind: WHITE | {"attention": kind} for kind in BLOCKS},
    "likelihood": {kind: LAST | {"attention": f"fresh_{kind}"} for kind in BLOCKS},
    "likelihood, at AB1 to AB3": {
        kind: {"attention": block, "train_attention": True} for kind, block in FRESH.items()
    },
    "likelihood, not normalized": {kind: LAST | BARE | {"attention": FRESH[kind]} for kind in FRESH},
    "likelihood, standardized once": {kind: LAST | ONCE | {"attention": FRESH[kind]} for kind in FRESH},
    "likelihood, whitened once": {kind: LAST | WHITE | {"attention": FRESH[kind]} for kind in FRESH},
    "likelihood, from identity": {
        kind: LAST | {"attention": lambda channels, block=block: FromIdentity(block(channels))}
        for kind, block in BLOCKS.items()
    },
    "likelihood, constant gate": {"constant": LAST | {"attention": ConstantGate}},
    "likelihood, stopped early": dict.fromkeys(BLOCKS),
    "which asset": dict.fromkeys(FRESH),
    "outline of the object": dict.fromkeys(FRESH),
    "any background": dict.fromkeys(FRESH),
    "cut and paste": dict.fromkeys(FRESH),
    "how far turned": dict.fromkeys(FRESH),
}
CONTROL = {  # of all others: "none"
    "likelihood, not normalized": "none, not normalized",
    "likelihood, standardized once": "none, standardized once",
    "likelihood, whitened once": "none, whitened once",
    "distilled, whitened once": "none, whitened once",
}
GENERATED = ("which asset", "outline of the object", "any background")  # learned there, for all data
EARLY = 4  # epochs of few steps each, after which a gate stops to follow the likelihood


@functools.cache
def assets(size: int = SIZE) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Normal pictures (60, 3, H, W) of each generated asset, and where the object is (60, 1, H, W)."""
    drawn = [[powerline.picture(asset, i, size=size, split="train") for i in range(60)] for asset in ASSETS]
    return tuple(
        [torch.stack([torch.from_numpy(p[part]) for p in asset]) for asset in drawn] for part in (0, 2)
    )


@functools.cache
def backgrounds() -> torch.Tensor:
    """(200, 3, H, W) photographed with nothing in front, with the same camera as the objects."""
    rng = np.random.default_rng(0)
    scenes = [camera(rng, landscape(rng, SIZE, rng.uniform()), None) for _ in range(200)]
    return torch.from_numpy(np.stack(scenes))


def question(signal: str, data: str) -> Question:
    """What gates are trained with."""
    match signal:
        case "which asset":
            return which(assets()[0])
        case "outline of the object":
            # The last features have a stride of 32: larger pictures for more of them.
            return where_is_the_object(*map(torch.cat, assets(2 * SIZE)))
        case "any background":
            return same_object(*map(torch.cat, assets()), backgrounds())
        case "cut and paste":
            return is_pasted(pictures(data)[1].sets[0])
        case "how far turned":
            return how_turned(pictures(data)[1].sets[0])
    raise ValueError(f"{signal}: no question trains these gates")


@functools.cache
def trained(signal: str, kind: str, data: str, seed: int):
    """Gates, and the share of right answers in the last fifth of their training; `data` is "" for any."""
    gates, history = train_gates(BLOCKS.get(kind, ConstantGate), question(signal, data), seed=seed)
    return gates, round(float(np.mean([entry["right"] for entry in history[-len(history) // 5 :]])), 3)


def stopped_early(kind: str, data: str, seed: int):
    """The gate at AB3 that a flow's likelihood has trained for `EARLY` epochs."""
    sizes = SIZES["quick"]["DifferNet"] | LAST | {"epochs": EARLY}
    detector = DifferNet(**sizes | {"attention": FRESH[kind]}, seed=seed, device="cpu")
    train, _ = pictures(data)[1](detector)
    ((_, block),) = detector.fit(train).extractor.blocks_in_order()
    return lambda channels: copy.deepcopy(block)


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
    if signal == "likelihood, stopped early":
        arguments = AB3 | {"attention": stopped_early(kind, data, seed)}
    elif arguments is None:
        gates, right = trained(signal, kind, "" if signal in GENERATED else data, seed)
        arguments = {"attention": gates}
    cell, shared, labels = pictures(data)
    words = ["python", "benchmarks/signals.py", "--data", data, "--signals", signal, "--attention", kind]
    found = []
    for judge in (DifferNet, Mahalanobis):
        if judge is Mahalanobis and arguments.get("train_attention"):
            continue  # it has no likelihood to train a gate with
        if judge is Mahalanobis and "normalize" in arguments:
            continue  # it always does both
        allowed = {k: v for k, v in arguments.items() if judge is DifferNet or k in ("attention", *AB3)}
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
    found, scores = read_table(chosen.out)
    rows = {row["key"]: row for row in found}
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
