"""SimpleNet and RD++ with and without attention, beside two maps that know nothing.

``python benchmarks/pixel_methods.py [--tiles FOLDER] [--seeds 2]`` appends one row for each run to
``data/results/pixel_methods.csv``. Sizes are those of a laptop without a GPU.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from attnad import datasets, metrics
from attnad.methods import RDPP, Prediction, SimpleNet
from attnad.results import DATA, provenance

SIZE = 128
SMALL = {"backbone": "efficientnet_lite0", "image_size": SIZE, "cache": True, "device": "cpu"}
METHODS = {
    # The published noise is too small for the features of this backbone, see SimpleNet's docstring.
    "SimpleNet": lambda **k: SimpleNet(**SMALL, dim=128, hidden=128, noise=1.0, batch_size=1, epochs=8, **k),
    "RD++": lambda **k: RDPP(**SMALL, points=64, epochs=12, batch_size=8, **k),
}
COLUMNS = (
    "method", "attention", "gates", "attention_points", "backbone", "weights", "dataset", "category", "seed",
    "protocol", "image_auroc", "pixel_auroc", "aupro", "epochs", "image_size", "train", "test_normal",
    "test_anomalous", "seconds", "device", "python", "versions", "commit", "date",
)  # fmt: skip


def edge_magnitude(images: np.ndarray) -> Prediction:
    """How fast the brightness changes, blurred like the detectors' maps."""
    maps = []
    for image in images:
        grey = image.mean(0)
        maps.append(ndimage.gaussian_filter(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)), 4))
    maps = np.array(maps, dtype=np.float32)
    return Prediction(maps.max(axis=(1, 2)), maps)


def centre_prior(images: np.ndarray) -> Prediction:
    """The same hill in the middle of each picture: where photographers put things."""
    axis = np.linspace(-1, 1, images.shape[-1])
    hill = np.exp(-2 * (axis[:, None] ** 2 + axis**2)).astype(np.float32)
    maps = np.repeat(hill[None], len(images), axis=0)
    return Prediction(maps.max(axis=(1, 2)), maps)


def sets(tiles: str | None, count: int = 100, tests: int = 40):
    """(train, test) of each data set, small."""
    options = {"train_count": count, "test_count": tests}
    yield tuple(datasets.load("powerline", split=s, size=SIZE, **options) for s in ("train", "test"))
    if tiles:
        train, test = (
            datasets.load("magnetic_tile", split=s, size=SIZE, root=tiles) for s in ("train", "test")
        )
        rng = np.random.default_rng(0)
        of = [np.flatnonzero(test.labels == label) for label in (0, 1)]
        chosen = np.concatenate([rng.permutation(part)[:tests] for part in of])
        yield train[rng.permutation(len(train))[:count]], test[chosen]


def record(file: Path, test, prediction: Prediction, **known) -> None:
    """Append one run to the file and say so."""
    figures = metrics.evaluate(prediction, test)
    row = dict.fromkeys(COLUMNS, "") | {
        "dataset": test.name, "category": test.category, "protocol": "last", "image_size": SIZE,
        "test_normal": int((test.labels == 0).sum()), "test_anomalous": int(test.labels.sum()),
    } | known | provenance()  # fmt: skip
    row |= {name: round(figures[name], 4) for name in ("image_auroc", "pixel_auroc", "aupro")}
    new = not file.exists()
    with file.open("a", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)
    said = ("method", "attention", "dataset", "seed", "image_auroc", "aupro", "seconds")
    print(*(row[name] for name in said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", help="folder of the Magnetic Tile data set")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    arguments = parser.parse_args()
    file = DATA / "results" / "pixel_methods.csv"
    done = set()
    if file.exists():
        with file.open() as lines:
            done = {(r["method"], r["attention"], r["dataset"], r["seed"]) for r in csv.DictReader(lines)}
    for train, test in sets(arguments.tiles):
        pictures = np.stack([sample.image for sample in train])
        tested = np.stack([sample.image for sample in test])
        for method, dumb in (("edge magnitude", edge_magnitude), ("centre prior", centre_prior)):
            if (method, "", test.name, "0") not in done:
                record(file, test, dumb(tested), method=method, seed=0, train=0, seconds=0)
        for method, attention, seed in itertools.product(
            arguments.methods, ("none", "se", "cbam"), range(arguments.seeds)
        ):
            if (method, attention, test.name, str(seed)) in done:
                continue
            started = time.perf_counter()
            detector = METHODS[method](attention=None if attention == "none" else attention, seed=seed)
            detector.fit(pictures)
            seconds = round(time.perf_counter() - started, 1)
            record(
                file, test, detector.predict(tested), method=method, attention=attention, seed=seed,
                gates=detector.gates or "", attention_points=" ".join(detector.extractor.points),
                backbone=detector.backbone, weights=detector.weights, epochs=detector.epochs,
                train=len(train), seconds=seconds,
            )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
