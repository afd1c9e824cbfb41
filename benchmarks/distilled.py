"""Are distilled features worth having? Random against distilled against the teacher's own.

    ATTNAD_DATA=FOLDER python benchmarks/distilled.py [--only alexnet resnet18 ...] [--sets mono poly ...]

Every network describes every picture at two scales (128 and 64 px) by its last level, averaged over
positions, and three detectors judge by that. ``data/results/distilled.csv`` gets one row for each network,
attention, data set and detector; runs that are in the file are left out. More channels alone can win, so
everything is measured twice: with all channels, and with as many as the teacher's level at stride 16 has,
112 a scale, after standardising each channel and a random projection (orthonormal, seed 0, the same for all
networks of one width). The column ``features`` has the number, both scales together; ``weights`` is "random"
(seed 0), "distilled", or "imagenet" (the teacher's own).
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnad import datasets, metrics
from attnad.cells import COLUMNS
from attnad.methods import DifferNet, Mahalanobis, NearestNeighbor
from attnad.methods.pictures import Frozen, Prediction
from attnad.pdn import load_teacher
from attnad.results import DATA, provenance
from attnad.seeding import seeded
from attnad.weights import distilled_file

FILE = DATA / "results" / "distilled.csv"
FIELDS = (*COLUMNS, "features")
TEACHER, WIDTH, SIZE = "efficientnet_lite0", 112, 128
NETWORKS = [
    (TEACHER, None, "imagenet"),
    *[
        (architecture, attention, weights)
        for architecture in ("alexnet", "resnet18")
        for attention in (None, "se", "cbam")
        for weights in ("random", "distilled")
    ],
    ("pdn_s", None, "random"),
    ("pdn_s", None, "distilled"),
]
QUICK = {"hidden": 128, "epochs": 30, "batch_size": 64, "lr": 1e-3, "normalize": "standardize", "cache": True}
JUDGES = {"Mahalanobis": Mahalanobis, "NearestNeighbor": NearestNeighbor, "DifferNet": DifferNet}
SETS = [
    ("elpv", "mono"), ("elpv", "poly"), ("powerline", "glass_insulator"), ("wafer", "chip"),
    ("magnetic_tile", "magnetic_tile"),
]  # fmt: skip


def described(
    architecture: str, attention: str | None, weights: str, images: np.ndarray, size: int
) -> list[Tensor]:
    """(N, 3, H, W) -> the last level at each of two scales, averaged over positions: (N, C) each."""
    if architecture == "pdn_s":
        with seeded(0):
            network = load_teacher("distilled" if weights == "distilled" else None, "S")
        with torch.no_grad():
            parts = [
                [network(F.interpolate(batch, (s, s), mode="bilinear", antialias=True)).mean((2, 3))
                 for s in (size, size // 2)]
                for batch in torch.from_numpy(images).split(16)
            ]  # fmt: skip
        return [torch.cat(scale) for scale in zip(*parts, strict=True)]
    detector = Mahalanobis(
        architecture, None if weights == "random" else weights, attention, image_size=size, scales=2,
        rotations="none", device="cpu",
    )  # fmt: skip
    return [tensor[:, 0] for tensor in detector.precompute(images).tensors]


def narrowed(train: list[Tensor], test: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Every scale standardised by the training pictures and turned into `WIDTH` numbers."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for a, b in zip(train, test, strict=True):
        mean, std = a.mean(0), a.std(0)
        std = torch.where(std > 1e-6, std, 1.0)
        noise = np.random.default_rng(0).normal(size=(a.shape[1], WIDTH))
        turn = torch.from_numpy(np.linalg.qr(noise)[0]).float()  # orthonormal columns
        for part, x in zip(parts, (a, b), strict=True):
            part.append((x - mean) / std @ turn)
    return parts


def judged(method: str, train: list[Tensor], test: list[Tensor]) -> Prediction:
    """What a detector says that is given these features instead of its own backbone's."""
    sizes = QUICK if method == "DifferNet" else {"batch_size": 64}
    stand_in = TEACHER if train[0].shape[1] == WIDTH else "alexnet"  # of as many channels; it never runs
    detector = JUDGES[method](stand_in, None, scales=2, rotations="none", device="cpu", **sizes)
    frozen = [Frozen([x[:, None] for x in part], detector.frozen_name()) for part in (train, test)]
    return detector.fit(frozen[0]).predict(frozen[1])


def done(path: Path) -> set[tuple[str, ...]]:
    """The runs that are in the file."""
    if not path.exists():
        return set()
    with path.open(newline="", encoding="utf8") as lines:
        return {_key(row) for row in csv.DictReader(lines)}


def _key(row: dict) -> tuple[str, ...]:
    names = ("method", "backbone", "attention", "weights", "dataset", "category", "image_size", "features")
    return tuple(str(row[name]) for name in names)


def rows(architecture: str, attention: str | None, weights: str) -> Iterator[tuple[dict, bool]]:
    """What is known of each run before it begins, and whether it uses all channels."""
    known = {
        "backbone": architecture, "attention": attention or "none", "weights": weights, "seed": 0,
        "protocol": "last", "image_size": SIZE,
    }  # fmt: skip
    if attention is not None:
        known["gates"] = "distilled" if weights == "distilled" else "untrained"
    for method in JUDGES:
        known |= {"method": method, "epochs": QUICK["epochs"] if method == "DifferNet" else 0}
        if architecture not in ("pdn_s", TEACHER):  # which have as many as no other backbone, or 112
            yield known | {"features": 2 * 256}, True
        yield known | {"features": 2 * WIDTH}, False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="networks")
    parser.add_argument("--sets", nargs="+", help="categories")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    recorded = done(chosen.out)
    for name, category in SETS:
        if chosen.sets and category not in chosen.sets:
            continue
        train, test = (datasets.load(name, category, split, SIZE) for split in ("train", "test"))
        told = {
            "dataset": name, "category": category, "train": len(train),
            "test_normal": int((test.labels == 0).sum()), "test_anomalous": int(test.labels.sum()),
        }  # fmt: skip
        images = [np.stack([sample.image for sample in part]) for part in (train, test)]
        for network in NETWORKS:
            if (chosen.only and network[0] not in chosen.only) or not available(*network):
                continue
            runs = [(row | told, wide) for row, wide in rows(*network) if _key(row | told) not in recorded]
            if runs:
                features = [described(*network, part, SIZE) for part in images]
            for row, wide in runs:
                started = time.perf_counter()
                prediction = judged(row["method"], *(features if wide else narrowed(*features)))
                row["image_auroc"] = round(metrics.image_auroc(test.labels, prediction.scores), 4)
                row["seconds"] = round(time.perf_counter() - started, 1)
                row["command"] = f"python benchmarks/distilled.py --only {network[0]} --sets {category}"
                _append(chosen.out, row | provenance())


def available(architecture: str, attention: str | None, weights: str) -> bool:
    """Whether there are such weights; those that are still to be distilled are left out."""
    return weights != "distilled" or distilled_file(architecture, attention).exists()


def _append(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf8") as out:
        writer = csv.DictWriter(out, FIELDS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    said = ("backbone", "attention", "weights", "dataset", "category", "method", "features", "image_auroc")
    print(*(row[name] for name in said), flush=True)


if __name__ == "__main__":
    main()
