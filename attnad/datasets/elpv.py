"""ELPV: 2,624 real electroluminescence pictures of solar cells, from the pip package ``elpv-dataset``.

Each cell of 300 x 300 grey pixels comes with the probability that it is defective, in four steps (0, 1/3,
2/3, 1), and the type of its module, mono- or polycrystalline. There are no masks.

The cells come from 44 modules (18 mono, 26 poly), which the data set does not name: see `modules`.
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
FOLDS = 3
MODULES = 44
# Module -> its cells, where it has not 60. Two are told by the types before and behind them. In the other
# places so many cells lack in a run of one type; which modules lack them, jumps of brightness and contrast
# tell to a few cells.
CELLS = {20: 54, 30: 53, 31: 57, 36: 72, 40: 48}


def load(
    category: str,
    split: str,
    size: int,
    seed: int,
    root: str | Path | None = None,
    fold: int | None = None,
) -> Dataset:
    """The cells of one type.

    ``train`` is a seeded 70 % of the cells with probability 0; ``test`` the rest of them and all cells with
    probability 1; ``uncertain`` the cells in between, where the annotators were not sure (label 1, and
    ``defect`` is ``"uncertain_33"`` or ``"uncertain_67"``): score them apart, they belong to neither side.

    So good cells of one module are in ``train`` and in ``test``, while most of the defective cells come from
    modules with few good ones: a detector that knows modules, and no defect, has a good AUROC. With `fold`,
    whole modules are tested, of which the training has seen nothing. That takes away what it knows of them,
    but not that defective cells are more frequent in some: for that, compare cells of one module
    (`attnad.metrics.image_auroc_within`).

    Args:
        category: ``"mono"`` or ``"poly"``.
        split: ``"train"``, ``"test"`` or ``"uncertain"``.
        size: side in pixels.
        seed: of the permutation that splits the good cells, or the modules.
        root: folder with ``labels.csv`` and ``images/``; the installed package if None.
        fold: None splits cells by lot. 0, 1 or 2 tests the modules of this third, and trains with the good
            cells of the others; modules of alike shares of defective cells are spread over the thirds.

    Raises:
        MissingDataError: the package is not installed.
        DataError: there is no such fold, or ``labels.csv`` cannot be read.
    """
    if fold is not None and fold not in range(FOLDS):
        raise DataError(f"{SOURCE.name} has no fold {fold!r}; it has: {', '.join(map(str, range(FOLDS)))}")
    cells = [cell for cell in table(root) if cell[2] == category]
    files, steps = [file for file, _, _ in cells], np.array([grade for _, grade, _ in cells])
    good, bad = (np.flatnonzero(steps == grade) for grade in (0, 3))
    between = np.flatnonzero((steps == 1) | (steps == 2))
    if fold is None:
        good = good[np.random.default_rng(seed).permutation(len(good))]
        cut = round(0.7 * len(good))
        train, test = good[:cut], good[cut:]
    else:
        known = modules(root)
        module = np.array([known[file.name] for file in files])
        held_out = np.isin(module, _third(module, steps, fold, seed))
        train = good[~held_out[good]]
        test, bad, between = (part[held_out[part]] for part in (good, bad, between))
    indices = {
        "train": np.sort(train),
        "test": np.concatenate([np.sort(test), bad]),
        "uncertain": between,
    }[split]
    names = {0: "good", 3: "defective", **UNCERTAIN}
    records = [
        Record(int(steps[i] > 0), names[int(steps[i])], str(files[i]), partial(_read, files[i]))
        for i in indices
    ]
    return Dataset(SOURCE.name, category, split, records, size)


def modules(root: str | Path | None = None) -> dict[str, int]:
    """File name of each cell -> the module (0 to 43) that it comes from, as far as the numbering tells.

    Cells are numbered module by module, and a module has 60 of them (see `CELLS` for five that have not).
    Types change at borders only, and there are the published 18 mono and 26 poly ones.

    Args and errors as for `load`; and a `DataError` if the table has not the 2,624 published cells.
    """
    names = [file.name for file, _, _ in table(root)]
    numbers = [module for module in range(MODULES) for _ in range(CELLS.get(module, 60))]
    if len(names) != len(numbers):
        raise DataError(f"labels.csv lists {len(names)} cells; modules are known for {len(numbers)}")
    return dict(zip(names, numbers, strict=True))


def _third(module: np.ndarray, steps: np.ndarray, fold: int, seed: int) -> list[int]:
    """The modules of one fold: ordered by their share of defective cells, each three are dealt by lot."""
    share = {int(m): np.mean(steps[module == m] == 3) for m in np.unique(module)}
    ranked = sorted(share, key=lambda m: (share[m], m))
    rng = np.random.default_rng(seed)
    dealt = np.concatenate([rng.permutation(FOLDS) for _ in range(0, len(ranked), FOLDS)])
    return [m for m, place in zip(ranked, dealt, strict=False) if place == fold]


def table(root: str | Path | None = None) -> list[tuple[Path, int, str]]:
    """(file, thirds of the probability, type) of each cell, in the order of their numbers.

    Args and errors as for `load`.
    """
    folder = Path(root) if root is not None else package_folder()
    labels = folder / "labels.csv"
    if not labels.is_file():
        raise MissingDataError(f"{labels}: not found. Install the data with: {SOURCE.how}")
    cells = []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            file, probability, kind = line.split()
            cells.append((folder / file, round(3 * float(probability)), kind))
        except ValueError:
            raise DataError(
                f"{labels}, line {number}: expected 'file probability type', found {line!r}"
            ) from None
    return cells


def package_folder() -> Path:
    """Where pip put the pictures; found without importing the package."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise MissingDataError(f"The ELPV data set is not installed. Install it with: {SOURCE.how}")
    return Path(spec.origin).parent / "data"


def _read(path: Path, size: int):
    return read_image(path, size), None, None
