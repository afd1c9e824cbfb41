"""What every method costs in its published sizes, without attention and with SE and CBAM.

    python benchmarks/costs.py [--methods ...]

The sizes are the constructors' defaults, with random weights, which multiply as fast as trained ones:
nothing has to be downloaded. One picture at a time; the three variants of a method take turns
(`attnad.cost.table`), so run it on a machine that does nothing else. ``data/results/costs.csv`` gets one row
for each method and gate, in place of what was there.
"""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
from pathlib import Path

import pandas as pd
import torch

from attnad import cost
from attnad.results import DATA, provenance
from attnad.sizes import METHODS, PICTURES

NAMES = ("DifferNet", "FastFlow", "CFlow", "CSFlow", "PatchCore", "RDPP", "SimpleNet", "EfficientAD")
KINDS = ("none", "se", "cbam")


def built(name: str, attention: str):
    """The published detector; PatchCore with a memory of as many pictures as the profile quick trains on."""
    takes = inspect.signature(METHODS[name]).parameters
    blank = {"weights": None} if "weights" in takes else {}
    detector = METHODS[name](attention=None if attention == "none" else attention, **blank, device="cpu")
    return cost.filled(detector, PICTURES["quick"][0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "costs.csv")
    chosen = parser.parse_args()
    command = shlex.join(["python", "benchmarks/costs.py", *sys.argv[1:]])
    for name in chosen.methods:
        three = {kind: built(name, kind) for kind in KINDS}
        size = three["none"].image_size
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        table = cost.table(three, image, repeats=chosen.turns, warm_up=2).round(4)
        table = table.assign(turns=chosen.turns, threads=torch.get_num_threads())
        table = table.assign(method=name, image_size=size, **provenance("cpu"), command=command)
        table = table.rename_axis("attention").reset_index()
        table = table[["method", *table.columns.drop("method")]]
        if chosen.out.exists():
            recorded = pd.read_csv(chosen.out)
            table = pd.concat([recorded[recorded.method != name], table])
        table.to_csv(chosen.out, index=False)
        print(table[table.method == name].iloc[:, :14].to_string(), flush=True)


if __name__ == "__main__":
    main()
