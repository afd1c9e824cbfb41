"""Anyone's own pictures. Four forms are understood:

::

    root/train/good, root/test/good, root/test/<defect>     as MVTec AD does it
    root/good, root/<defect>, ...                           good pictures are split by a seed
    root/*.png                                              only good pictures
    table.csv                                               columns path, label[, split, defect, mask]

Masks are optional. They are looked for in ``ground_truth`` or ``masks`` (with a folder for each defect or
without) and beside the pictures, and are named as the picture, with ``_mask``, ``_gt`` or ``_label`` after it
or nothing.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from attnad.datasets.base import Dataset, Record, Source, warn_counts
from attnad.datasets.download import find_category, find_root
from attnad.datasets.images import DataError, MissingDataError, is_picture, read_image, read_mask

SOURCE = Source(
    name="folder",
    title="Your own pictures in a folder",
    kind="own",
    licence="yours",
    size="any",
    url="",
    how="put normal pictures in ROOT/good and others beside it, e.g. in ROOT/scratched",
    categories=(),
)

GOOD = ("good", "normal", "ok")
MASK_FOLDERS = ("ground_truth", "masks", "mask")
MASK_ENDINGS = ("_mask", "-mask", "_gt", "_label")


@dataclass(frozen=True)
class Entry:
    """One picture that was found. ``split`` is None where a seed is to decide."""

    path: Path
    defect: str
    split: str | None = None
    mask: Path | None = None


def load(
    category: str | None, split: str, size: int, seed: int, root: str | Path | None = None,
    train_fraction: float = 0.8,
) -> Dataset:  # fmt: skip
    """Your own pictures, in any of the forms above.

    Args:
        category: a folder in ``root`` that has one of these forms; None if ``root`` itself has it.
        split: ``"train"`` or ``"test"``.
        size: side in pixels; pictures are squeezed into the square.
        seed: of the permutation that splits good pictures where the folders do not.
        root: the folder, or the table.
        train_fraction: share of the good pictures for training where the folders do not say.

    Raises:
        MissingDataError: a folder is not there, or there is no picture in it.
        DataError: a table that cannot be read, a mask without its picture.
    """
    if root is None:
        raise DataError('load("folder", ...) needs root=: the folder with your pictures')
    if not 0 < train_fraction < 1:
        raise DataError(f"train_fraction={train_fraction}: must lie between 0 and 1")
    home = Path(root) / category if category else Path(root)
    entries = [e for e in divided(scan(home), seed, train_fraction) if e.split == split]
    if not entries:
        raise MissingDataError(f"{home}: nothing for {split!r} in it; add pictures, or change train_fraction")
    return Dataset(SOURCE.name, category or home.resolve().stem, split, to_records(entries), size)


def load_published(
    source: Source, category: str, split: str, size: int, seed: int, root: str | Path | None = None
) -> Dataset:
    """One category of a published data set laid out like MVTec AD; good pictures first, then by defect.

    Args:
        source: the data set.
        category, split, size, root: as in `attnad.datasets.load`.
        seed: changes nothing, the split is the authors'.

    Raises:
        MissingDataError: the data are not there.
        DataError: a mask without its picture.
    """
    home = find_category(find_root(source, root), category, source)
    records = to_records([e for e in _mvtec(home) if e.split == split])
    if not records:
        raise MissingDataError(f"{home / split}: no picture in it; copy or download it again")
    warn_counts(source, category, split, records)
    return Dataset(source.name, category, split, records, size)


def to_records(entries: list[Entry]) -> list[Record]:
    """What a `Dataset` is made of; good pictures first."""
    ordered = sorted(entries, key=lambda e: (e.defect != "good", e.defect))
    return [
        Record(int(e.defect != "good"), e.defect, str(e.path), partial(_read, e.path, e.mask))
        for e in ordered
    ]


def divided(entries: list[Entry], seed: int, train_fraction: float = 0.8) -> list[Entry]:
    """The same entries, each with its split: undecided good ones by a seeded permutation, all others test."""
    undecided = [e for e in entries if e.split is None and e.defect == "good"]
    order = np.random.default_rng(seed).permutation(len(undecided))
    cut = max(1, round(train_fraction * len(undecided)))
    training = {undecided[i].path for i in order[:cut]}
    return [
        e if e.split else Entry(e.path, e.defect, "train" if e.path in training else "test", e.mask)
        for e in entries
    ]


def scan(home: Path, strict: bool = True) -> list[Entry]:
    """Finds the pictures and masks of one category, whatever form they have.

    Args:
        home: the folder, or the table.
        strict: refuse a mask without its picture; otherwise it is left out, as `report` wants it.

    Raises:
        MissingDataError: nothing is there.
        DataError: a form that is not understood, a mask without its picture.
    """
    try:
        if home.suffix.lower() == ".csv":
            return _table(home)
        if not home.is_dir():
            raise MissingDataError(f"{home}: no such folder")
        folders = subfolders(home)
        if "train" in folders or "test" in folders:
            return _mvtec(home, strict)
        if _good(folders):
            return _siblings(home, folders, strict)
        if pictures_in(home):
            pictures = pictures_in(home)
            return [Entry(p, "good") for p in without_masks(pictures)]
    except (OSError, UnicodeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{home}: cannot be read ({error}); check its name and permissions") from None
    if folders:
        raise DataError(
            f"{home}: has neither a folder 'good' nor 'train' nor pictures. If {folders[0]!r} is a category, "
            f"say category={folders[0]!r}; otherwise put the normal pictures in {home / 'good'}"
        )
    raise MissingDataError(f"{home}: no picture in it")


def _good(folders: list[str]) -> str | None:
    return next((f for f in folders if f.lower() in GOOD), None)


def _mvtec(home: Path, strict: bool = True) -> list[Entry]:
    """root/train/good, root/test/<anything>."""
    if not home.is_dir():
        raise MissingDataError(f"{home}: no such folder")
    train = home / "train"
    if not train.is_dir():
        raise MissingDataError(
            f"{train}: no such folder; the normal pictures are expected in {train / 'good'}"
        )
    good = _good(subfolders(train))
    if good is None:
        raise MissingDataError(f"{train / 'good'}: no such folder; put the normal pictures there")
    entries = [Entry(p, "good", "train") for p in pictures_in(train / good)]
    for kind in subfolders(home / "test") if (home / "test").is_dir() else []:
        pictures = without_masks(pictures_in(home / "test" / kind))
        if kind.lower() in GOOD:
            entries += [Entry(p, "good", "test") for p in pictures]
        else:
            entries += _with_masks(home, kind, home / "test" / kind, pictures, "test", strict)
    return entries


def _siblings(home: Path, folders: list[str], strict: bool) -> list[Entry]:
    """root/good, root/<anything else>."""
    entries = []
    for kind in folders:
        if kind.lower() in MASK_FOLDERS:
            continue
        pictures = without_masks(pictures_in(home / kind))
        if kind.lower() in GOOD:
            entries += [Entry(p, "good") for p in pictures]
        else:
            entries += _with_masks(home, kind, home / kind, pictures, None, strict)
    if not any(e.defect == "good" for e in entries):
        raise MissingDataError(f"{home / 'good'}: no picture in it; put the normal pictures there")
    return entries


def _with_masks(
    home: Path, kind: str, folder: Path, pictures: list[Path], split: str | None, strict: bool
) -> list[Entry]:
    """Entries of one kind of defect, each with its mask if there is one."""
    by_stem = {p.stem: p for p in pictures}
    masks: dict[Path, Path] = {}
    own = [home / name / kind for name in MASK_FOLDERS]
    shared = [home / name for name in MASK_FOLDERS] + [folder, folder / "masks"]
    for place in own + shared:
        for mask in pictures_in(place) if place.is_dir() else []:
            stem = base_stem(mask)
            picture = by_stem.get(stem)
            if picture is None and place != folder:
                picture = by_stem.get(mask.stem)
            if picture is None and place in own and strict:
                raise DataError(
                    f"{mask}: a mask without its picture; expected {folder / stem}.png or the like"
                )
            if picture is not None and picture != mask:
                masks.setdefault(picture, mask)
    return [Entry(p, kind, split, masks.get(p)) for p in pictures]


def _table(path: Path) -> list[Entry]:
    """A table of paths, relative to the table's folder or absolute."""
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    entries = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except csv.Error as error:
        raise DataError(f"{path}: not a table of comma-separated values ({error})") from None
    for number, row in enumerate(rows, start=2):
        values = {str(k).strip().lower(): v.strip() for k, v in row.items() if isinstance(v, str)}
        where = f"{path}, line {number}"
        if not values.get("path"):
            raise DataError(f"{where}: no path; the table needs the columns path and label")
        label = values.get("label", "").lower()
        if label not in ("0", "1", *GOOD, "bad", "defective", "anomalous"):
            raise DataError(f"{where}: label {label!r} must be 0 or good for normal, 1 or bad for anomalous")
        normal = label in ("0", *GOOD)
        split = values.get("split") or None
        if split not in (None, "train", "test"):
            raise DataError(f"{where}: split {split!r} must be train, test or empty")
        if split == "train" and not normal:
            raise DataError(
                f"{where}: an anomalous picture is marked for training; detectors learn from normal ones only"
            )
        if "\0" in "".join(values.values()):
            raise DataError(f"{where}: a zero byte in a name; save the table as plain text")
        mask = path.parent / values["mask"] if values.get("mask") else None
        defect = "good" if normal else values.get("defect") or "defect"
        entries.append(Entry(path.parent / values["path"], defect, split, mask))
    if not entries:
        raise MissingDataError(f"{path}: no row in it")
    return entries


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder; hidden ones, and what a Mac adds to its archives, are left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if is_picture(p) and p.is_file())


def base_stem(mask: Path) -> str:
    """The stem of the picture that a mask belongs to, by its own."""
    for ending in MASK_ENDINGS:
        if mask.stem.lower().endswith(ending):
            return mask.stem[: -len(ending)]
    return mask.stem


def without_masks(pictures: list[Path]) -> list[Path]:
    """Pictures only: ``a_mask.png`` is a mask where there is an ``a.*`` beside it."""
    stems = {p.stem for p in pictures}
    return [p for p in pictures if base_stem(p) == p.stem or base_stem(p) not in stems]


def _read(path: Path, mask: Path | None, size: int):
    image = read_image(path, size)
    return image, None if mask is None else read_mask(mask, size, path), None
