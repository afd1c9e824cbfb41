"""Does a recorded row come out again? Draw rows, run their commands here, and compare.

    ATTNAD_DATA=FOLDER python benchmarks/rerun.py [--rows 5] [--most SECONDS] [--seed 0] [--methods ...]

``data/results/reruns.csv`` gets a line for each: what was recorded, what came out now, and the versions,
Python and processor of both times. On the machine and with the versions of the record the two should agree;
under other versions their differences say how far the numbers of this book hold elsewhere.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from attnad.cells import FIGURES
from attnad.results import DATA, provenance

FILE = DATA / "results" / "reruns.csv"
TABLES = (
    "benchmark",
    "signals",
    "distilled",
    "distillations",
    "simplenet_attempts",
)  # those with one run a row
TOLD = ("image_auroc", "aupro", *provenance())  # of both times
OUTCOME = {*FIGURES, *TOLD, "seconds", "right", "spread"}


def read(path: Path) -> pd.DataFrame:
    """As texts: what names a row must be equal to the letter."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def again(row: pd.Series) -> pd.Series:
    """The row that its command gives here and now.

    Raises:
        RuntimeError: the command failed, or gave no such row.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.csv"
        words = [sys.executable, *shlex.split(row["command"])[1:], "--out", str(out)]
        done = subprocess.run(words, cwd=DATA.parent, capture_output=True, text=True)
        if done.returncode or not out.exists():
            raise RuntimeError(f"{row['command']}\n{done.stderr[-2000:]}")
        found = read(out)
    same = [name for name in row.index if name not in OUTCOME]
    found = found[(found[same] == row[same]).all(axis=1)]
    if len(found) != 1:
        raise RuntimeError(f"{row['command']}: {len(found)} such rows")
    return found.iloc[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--methods", nargs="+", help="only rows of these")
    parser.add_argument("--rows", type=int, default=5, help="of each table")
    parser.add_argument("--most", type=float, default=120, help="leave out what took more seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    for table in chosen.tables:
        rows = read(DATA / "results" / f"{table}.csv")
        rows = rows[
            (rows["protocol"] == "last") & (rows["seconds"].replace("", "inf").astype(float) <= chosen.most)
        ]
        if chosen.methods:
            rows = rows[rows["method"].isin(chosen.methods)]
        for _, row in rows.sample(min(chosen.rows, len(rows)), random_state=chosen.seed).iterrows():
            now = again(row)
            line = {"table": table, "command": row["command"], "method": row["method"]}
            for name in TOLD:
                line |= {f"{name}_recorded": row[name], f"{name}_again": now[name]}
            pd.DataFrame([line]).to_csv(chosen.out, mode="a", header=not chosen.out.exists(), index=False)
            print(
                *(line[name] for name in ("image_auroc_recorded", "image_auroc_again", "command")), flush=True
            )


if __name__ == "__main__":
    main()
