"""Other distillations: does a network with gates differ by its gates, or because it was trained anew?

    ATTNAD_DATA=FOLDER python benchmarks/distillations.py --pictures FOLDER [--distillations 1 2]

The networks that ship were distilled once for each attention: none, SE, CBAM. Here AlexNet is distilled again
with other seeds (of its first weights, and of the order of the same crops), else by the recipe of
``attnad/pretrained/README.md``; the weights stay in ``WORK/SEED`` and are not made again if they are there.
Then DifferNet, in the sizes of the quick profile, judges by each of them what it judges in the benchmark.

``data/results/distillations.csv`` has one row for each run, ``distillations_scores.npz`` each test picture's
label and score by the row's ``key``; runs that are there are left out. Distillation 0 is the one that ships,
and its runs are in ``benchmark.csv``.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np

from attnad import benchmark, cells, distill, weights
from attnad.recorded import DATA as DATASETS
from attnad.results import DATA
from attnad.tables import read_table, write_table

FILE = DATA / "results" / "distillations.csv"
FIELDS = ("key", "distillation", *cells.COLUMNS)
RECIPE = ["--steps", "6000", "--crops", "32768", "--bfloat16"]
ARMS = ("none", "se", "cbam")


def distilled(folder: Path, seed: int, arms: list[str], pictures: Path) -> None:
    """Makes the weights that are missing in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        attention = None if arm == "none" else arm
        file = folder / weights.distilled_file("alexnet", attention).name
        if not file.exists():
            words = ["alexnet", *RECIPE, "--seed", str(seed)]
            words += ["--work", str(folder.parent), "--output", str(file)]
            words += ["--pictures", str(pictures)] + (["--attention", arm] if attention else [])
            if distill.cli(words):
                raise SystemExit(f"distilling {file} failed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True, help="folder of those the networks learn by")
    parser.add_argument("--work", type=Path, default=Path("distillations"), help="folder of the weights")
    parser.add_argument("--distillations", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--attention", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--data", nargs="+", default=[*DATASETS], metavar="SET/CATEGORY")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(3))
    parser.add_argument("--train", type=int, help="at most so many pictures; 0 for all")
    parser.add_argument("--test", type=int, help="at most so many of each kind; 0 for all")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    found, scores = read_table(chosen.out)
    rows = {row["key"]: row for row in found}
    for number in chosen.distillations:
        folder = chosen.work / str(number)
        distilled(folder, number, chosen.attention, chosen.pictures)
        weights.DISTILLED = folder  # where "distilled" finds them from now on
        for data in chosen.data:
            plan = benchmark.plan(
                ["DifferNet"], chosen.attention, [data], chosen.seeds, train=chosen.train, test=chosen.test
            )
            for cell in plan:
                key = f"{number} | {cell.command()}"
                if key in rows:
                    continue
                outcome = cells.run(cell)
                row, scores[key] = outcome.rows[0], np.stack([outcome.labels, outcome.scores])
                words = ["python", "benchmarks/distillations.py", "--pictures", "pictures"]
                words += ["--distillations", str(number)]
                words += ["--attention", cell.attention, "--data", data, "--seeds", str(cell.seed)]
                words += ["--train", str(cell.train), "--test", str(cell.test)]
                rows[key] = row | {"key": key, "distillation": number, "command": shlex.join(words)}
                print(key, row["image_auroc"], f"{row['seconds']} s", flush=True)
                write_table(chosen.out, FIELDS, rows.values(), scores)


if __name__ == "__main__":
    main()
