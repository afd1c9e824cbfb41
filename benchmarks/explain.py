"""Does attention move Grad-CAM towards the object, or the defect? With intervals, beside chance.

``python benchmarks/explain.py magnetic_tile`` (which is looked for in ``ATTNAD_DATA``), ``... powerline`` or
``... wafer`` trains DifferNet without attention, with SE and with CBAM (sizes "quick") and writes one row for
each attention, layer, target and number to ``data/results/explain.csv``, in place of the rows of this data
set that are there. ``gain`` is the difference to no attention, picture by picture; its interval is that of
`attnad.comparison.mean_interval`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from attnad import comparison, datasets, explain, metrics
from attnad.agreement import agreement
from attnad.cells import few
from attnad.methods import CollapseWarning, DifferNet
from attnad.methods.pictures import Shared
from attnad.results import DATA, provenance
from attnad.sizes import SIZES

FILE = DATA / "results" / "explain.csv"
SIZE = SIZES["quick"]["DifferNet"]["image_size"]
ATTENTION = (None, "se", "cbam")
NUMBERS = ("energy", "pointing", "overlap", "chance")


def run(train, test, seeds: int) -> tuple[dict, dict]:
    """Numbers (N,) by (attention, layer, target, number, seed), and (labels, scores) by (attention, seed)."""
    anomalous = [sample for sample in test if sample.label]
    defects = np.stack([sample.image for sample in anomalous])
    masks = {"defect": np.stack([sample.mask[0] for sample in anomalous])}
    if anomalous[0].object_mask is not None:
        masks["object"] = np.stack([sample.object_mask[0] for sample in anomalous])
    numbers, scores, shared = {}, {}, Shared(train, test)
    for attention in ATTENTION:
        for seed in range(seeds):
            detector = DifferNet(**SIZES["quick"]["DifferNet"], attention=attention, seed=seed, device="cpu")
            fitted, tested = shared(detector)
            detector.fit(fitted)
            scores[attention, seed] = test.labels, detector.predict(tested).scores
            behind = detector.extractor.points[-1] if attention else None  # without a gate, both are one
            for where, layer in (("before the gate", None), ("behind the gate", behind)):
                maps = explain.grad_cam(detector, defects, layer)
                for target, mask in masks.items():
                    # A defect too small for this size has no pixel left; one may also fill the picture.
                    there = mask.any(axis=(1, 2)) & ~mask.all(axis=(1, 2))
                    for number, values in agreement(maps[there], mask[there]).items():
                        numbers[attention, where, target, number, seed] = values
            auroc = metrics.image_auroc(*scores[attention, seed])
            print(test.category, attention, seed, f"AUROC {auroc:.3f}", flush=True)
    return numbers, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=["magnetic_tile", "powerline", "wafer"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--test", type=int, default=60, help="of each kind, of each category")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", CollapseWarning)  # the AUROC of the row shows it
    categories = datasets.SOURCES[chosen.dataset].categories
    # Two categories cannot say how much categories differ: each of them stands for itself.
    groups = [categories] if len(categories) > 2 else [[category] for category in categories]
    tables = [measured(chosen, group) for group in groups]
    command = (
        f"python benchmarks/explain.py {chosen.dataset} --seeds {chosen.seeds} --train {chosen.train} "
        f"--test {chosen.test}"
    )
    table = pd.concat(tables).round(4).assign(**provenance(), command=command)
    if chosen.out.exists():
        before = pd.read_csv(chosen.out)
        table = pd.concat([before[~before.dataset.isin(table.dataset)], table])
    table.to_csv(chosen.out, index=False)


def measured(chosen: argparse.Namespace, categories: Sequence[str]) -> pd.DataFrame:
    """The rows of a group of categories."""
    numbers, scores = {}, {}
    for category in categories:
        parts = [datasets.load(chosen.dataset, category, split, size=SIZE) for split in ("train", "test")]
        found, scored = run(*few(*parts, chosen.train, chosen.test), chosen.seeds)
        numbers |= {(category, *key): values for key, values in found.items()}
        scores |= {(category, *key): values for key, values in scored.items()}
    whole = len(datasets.SOURCES[chosen.dataset].categories) == len(categories)
    name = chosen.dataset if whole else f"{chosen.dataset}/{categories[0]}"
    rows = []
    for attention, where, target in dict.fromkeys(key[1:4] for key in numbers):
        for number in NUMBERS:
            of = {(k[0], k[5]): v for k, v in numbers.items() if k[1:5] == (attention, where, target, number)}
            plain = {key: numbers[key[0], None, where, target, number, key[1]] for key in of}
            own = comparison.mean_interval(of, within=(0, 1))
            gain = comparison.mean_interval({key: of[key] - plain[key] for key in of}, within=(-1, 1))
            these = {(c, seed): v for (c, a, seed), v in scores.items() if a == attention}
            apart = comparison.difference(
                {(c, seed): (*v, scores[c, None, seed][1]) for (c, seed), v in these.items()}
            )
            auroc = np.mean([metrics.image_auroc(*v) for v in these.values()])
            rows.append({
                "dataset": name, "attention": attention or "none", "layer": where, "target": target,
                "number": number, "mean": own.mean, "low": own.low, "high": own.high,
                "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "auroc": auroc,
                "auroc_gain": apart.mean, "auroc_gain_low": apart.low, "auroc_gain_high": apart.high,
                "categories": apart.categories, "seeds": chosen.seeds, "train": chosen.train,
                "test_each": chosen.test, "image_size": SIZE,
            })  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
