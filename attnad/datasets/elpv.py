"""ELPV: 2,624 real electroluminescence pictures of solar cells, from the pip package ``elpv-dataset``.

Each cell of 300 x 300 grey pixels comes with the probability that it is defective, in four steps (0, 1/3,
2/3, 1), and the type of its module, mono- or polycrystalline. There are no masks.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

from attnad.datasets.base import Dataset, Record, Source
from attnad.datasets.images import DataError, MissingDataError, read_image

LICENCE = (
    "Solar cells: ELPV data set by S. Deitsch, C. Buerhop-Lutz, V. Christlein, S. Berger, A. Maier, "
    "F. Gallwitz, C. Riess and co-workers (ZAE Bayern, FAU Erlangen-Nürnberg), licensed under CC BY-NC-SA "
    "4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/): attribution, non-commercial use, share alike. "
    "Pictures resized."
)

SOURCE = Source(
    name="elpv",
    title="ELPV: solar cells under electroluminescence",
    kind="real",
    licence="CC BY-NC-SA 4.0",
    size="90 MB",
    url="https://github.com/zae-bayern/elpv-dataset",
    how="pip install elpv-dataset",
    categories=("mono", "poly"),
    splits=("train", "test", "uncertain"),
    masks=False,
)

UNCERTAIN = {1: "uncertain_33", 2: "uncertain_67"}


def load(category: str, split: str, size: int, seed: int, root: str | Path | None = None) -> Dataset:
    """The cells of one type.

    ``train`` is a seeded 70 % of the cells with probability 0; ``test`` the rest of them and all cells with
    probability 1; ``uncertain`` the cells in between, where the annotators were not sure (label 1, and
    ``defect`` is ``"uncertain_33"`` or ``"uncertain_67"``): score them apart, they belong to neither side.

    Args:
        category: ``"mono"`` or ``"poly"``.
        split: ``"train"``, ``"test"`` or ``"uncertain"``.
        size: side in pixels.
        seed: of the permutation that splits the good cells.
        root: folder with ``labels.csv`` and ``images/``; the installed package if None.

    Raises:
        MissingDataError: the package is not installed.
    """
    folder = Path(root) if root is not None else package_folder()
    table = folder / "labels.csv"
    if not table.is_file():
        raise MissingDataError(f"{table}: not found. Install the data with: {SOURCE.how}")
    files, grades = [], []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            file, probability, kind = line.split()
            grade = round(3 * float(probability))
        except ValueError:
            raise DataError(
                f"{table}, line {number}: expected 'file probability type', found {line!r}"
            ) from None
        if kind == category:
            files.append(folder / file)
            grades.append(grade)
    steps = np.array(grades)
    good = np.flatnonzero(steps == 0)
    good = good[np.random.default_rng(seed).permutation(len(good))]
    cut = round(0.7 * len(good))
    indices = {
        "train": np.sort(good[:cut]),
        "test": np.concatenate([np.sort(good[cut:]), np.flatnonzero(steps == 3)]),
        "uncertain": np.flatnonzero((steps == 1) | (steps == 2)),
    }[split]
    names = {0: "good", 3: "defective", **UNCERTAIN}
    records = [
        Record(int(steps[i] > 0), names[int(steps[i])], str(files[i]), partial(_read, files[i]))
        for i in indices
    ]
    return Dataset(SOURCE.name, category, split, records, size)


def package_folder() -> Path:
    """Where pip put the pictures; found without importing the package."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise MissingDataError(f"The ELPV data set is not installed. Install it with: {SOURCE.how}")
    return Path(spec.origin).parent / "data"


def _read(path: Path, size: int):
    return read_image(path, size), None, None
