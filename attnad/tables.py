"""The files of a sweep: a table with a row for each run, and beside it each test picture's score."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from attnad.cells import COLUMNS, Cell, Outcome
from attnad.methods.files import replaced


class Table:
    """The file of a sweep, ``NAME.csv``, and each test picture's score beside it in ``NAME_scores.npz``.

    Both are written anew after each cell and put in place in one step: a reader, or a sweep that goes on
    after a power cut, never finds half of one.
    """

    def __init__(self, path: str | Path, cells: Sequence[Cell]):
        self.path, self.cells = Path(path), cells
        self.wanted = dict.fromkeys(cell.command() for cell in cells)
        self.rows: dict[str, list[dict]] = {}
        rows, self.scores = read_table(self.path)
        for row in rows:
            self.rows.setdefault(row["command"], []).append(row)

    def missing(self) -> list[Cell]:
        """The cells that have not been run, or failed."""
        return [c for c in self.cells if all(row["error"] for row in self.rows.get(c.command(), []))]

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Keep what a cell gave, on disk."""
        self.rows[cell.command()] = outcome.rows
        if outcome.scores is not None and outcome.labels is not None:
            self.scores[cell.command()] = np.stack([outcome.labels.astype(np.float32), outcome.scores])
        order = [*(c for c in self.rows if c not in self.wanted), *(c for c in self.wanted if c in self.rows)]
        scores = {name: self.scores[name] for name in order if name in self.scores}
        write_table(self.path, COLUMNS, [row for command in order for row in self.rows[command]], scores)


def scores_path(path: Path) -> Path:
    """Where the single scores of a table lie: ``NAME_scores.npz`` beside ``NAME.csv``."""
    return path.with_name(path.stem + "_scores.npz")


def read_table(path: Path) -> tuple[list[dict], dict[str, np.ndarray]]:
    """What `write_table` wrote: the rows and the scores; nothing of either where there is no file."""
    rows, scores = [], {}
    if path.exists():
        with path.open(newline="", encoding="utf8") as file:
            rows = list(csv.DictReader(file))
    if scores_path(path).exists():
        with np.load(scores_path(path), allow_pickle=False) as packed:
            scores = dict(packed)
    return rows, scores


def write_table(
    path: Path, columns: Sequence[str], rows: Iterable[dict], scores: dict[str, np.ndarray]
) -> None:
    """Write a table and its scores, each in one step; the scores first: a row is never without its own."""
    packed, text = io.BytesIO(), io.StringIO(newline="")
    np.savez_compressed(packed, **scores)  # type: ignore[arg-type]  # no run is called allow_pickle
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for file, content in ((scores_path(path), packed.getvalue()), (path, text.getvalue().encode())):
        with replaced(file) as partial:
            partial.write_bytes(content)
