"""FastFlow, CFLOW-AD, CS-Flow and PatchCore with and without attention, on real pictures, sizes of a laptop.

``python benchmarks/flow_methods.py [--tiles FOLDER] [--seeds 2]`` appends one row for each run to
``data/results/flow_methods.csv``; runs that are there already are left out.
"""

from __future__ import annotations

import argparse
import csv
import time

import numpy as np

from attnad import datasets, metrics
from attnad.methods import CFlow, CSFlow, FastFlow, PatchCore
from attnad.results import DATA, provenance

SIZE = 128
SMALL = {"backbone": "efficientnet_lite0", "image_size": SIZE, "device": "cpu"}
METHODS = {
    "PatchCore": lambda **k: PatchCore(**SMALL, coreset=0.05, **k),
    "FastFlow": lambda **k: FastFlow(**SMALL, levels=("stride8", "stride16"), cache=True, epochs=20, **k),
    "CFLOW-AD": lambda **k: CFlow(**SMALL, levels=("stride16",), cache=True, epochs=16, lr=6e-3, **k),
    "CS-Flow": lambda **k: CSFlow(**SMALL, hidden=64, cache=True, epochs=12, **k),
}
COLUMNS = (
    "method", "attention", "gates", "attention_points", "backbone", "weights", "dataset", "category", "seed",
    "protocol", "image_auroc", "pixel_auroc", "aupro", "epochs", "image_size", "train", "test_normal",
    "test_anomalous", "seconds", "device", "python", "versions", "commit", "date",
)  # fmt: skip


def pictures(part) -> np.ndarray:
    """All pictures of a data set, read once: (N, 3, H, W)."""
    return np.stack([sample.image for sample in part])


def sets(tiles: str | None, count: int, tests: int):
    """(train, test) of each data set: `count` pictures to train on, `tests` of each kind to test on."""
    options = ([("magnetic_tile", None, tiles)] if tiles else []) + [("elpv", "mono", None)]
    for name, category, root in options:
        arguments = {"category": category, "size": SIZE, "root": root}
        train, test = (datasets.load(name, split=split, **arguments) for split in ("train", "test"))
        rng = np.random.default_rng(0)
        few = [rng.permutation(np.flatnonzero(test.labels == label))[:tests] for label in (0, 1)]
        yield train[rng.permutation(len(train))[:count]], test[np.concatenate(few)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", help="folder of the Magnetic Tile data set")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=190)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--attention", nargs="*", default=["none", "se", "cbam"])
    arguments = parser.parse_args()
    file = DATA / "results" / "flow_methods.csv"
    done = set()
    if file.exists():
        with file.open() as lines:
            done = {(r["method"], r["attention"], r["dataset"], r["seed"]) for r in csv.DictReader(lines)}
    for train, test in sets(arguments.tiles, arguments.train, arguments.test):
        images = {"train": pictures(train), "test": pictures(test)}
        for seed in range(arguments.seeds):
            for attention in arguments.attention:
                frozen: dict = {}  # what the same untouched backbone made of the same pictures
                for method in arguments.methods:
                    if (method, attention, test.name, str(seed)) in done:
                        continue
                    chosen = None if attention == "none" else attention
                    detector = METHODS[method](attention=chosen, seed=seed)
                    points = " ".join(detector.extractor.points)
                    part, started = detector.frozen_name(), time.perf_counter()
                    if part not in frozen:
                        frozen[part] = {s: detector.precompute(images[s], s == "train") for s in images}
                    detector.fit(frozen[part]["train"])
                    seconds = time.perf_counter() - started
                    figures = metrics.evaluate(detector.predict(frozen[part]["test"]), test)
                    row = dict.fromkeys(COLUMNS, "") | {
                        "method": method, "attention": attention, "gates": detector.gates or "",
                        "attention_points": points, "backbone": detector.backbone,
                        "weights": detector.weights, "dataset": test.name, "category": test.category,
                        "seed": seed, "protocol": "last", "epochs": detector.epochs, "image_size": SIZE,
                        "train": len(train), "test_normal": int((test.labels == 0).sum()),
                        "test_anomalous": int(test.labels.sum()), "seconds": round(seconds, 1),
                    }  # fmt: skip
                    figures = {k: round(figures[k], 4) for k in ("image_auroc", "pixel_auroc", "aupro")}
                    row |= figures | provenance()
                    file.parent.mkdir(exist_ok=True)
                    new = not file.exists()
                    with file.open("a", newline="") as out:
                        writer = csv.DictWriter(out, COLUMNS)
                        if new:
                            writer.writeheader()
                        writer.writerow(row)
                    print(method, attention, test.name, seed, figures, row["seconds"], flush=True)


if __name__ == "__main__":
    main()
