"""Anyone's own pictures, and every data set that is laid out like MVTec AD.

::

    root/train/good/*.png
    root/test/good/*.png
    root/test/<defect>/<stem>.png
    root/ground_truth/<defect>/<stem>_mask.png      (if there are masks)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attnad.datasets.base import Dataset, Record, Source
from attnad.datasets.images import DataError, MissingDataError, is_picture, read_image, read_mask

SOURCE = Source(
    name="folder",
    title="Your own pictures in a folder",
    kind="own",
    licence="yours",
    size="any",
    url="",
    how="put normal pictures in ROOT/train/good, others in ROOT/test/<defect>",
    categories=(),
)


def load(category: str | None, split: str, size: int, seed: int, root: str | Path | None = None) -> Dataset:
    """Pictures laid out like MVTec AD, or one category (a folder) of them.

    Args:
        category: a folder in ``root`` that has the layout above; None if ``root`` itself has it.
        split: ``"train"`` or ``"test"``.
        size: side in pixels.
        seed: not used where the folders say what is for training.
        root: the folder.

    Raises:
        MissingDataError: a folder is not there, or there is no picture in it.
        DataError: a mask without its picture.
    """
    if root is None:
        raise DataError('load("folder", ...) needs root=: the folder with your pictures')
    home = Path(root) / category if category else Path(root)
    return Dataset("folder", category or home.resolve().name, split, mvtec_records(home, split), size)


def mvtec_records(home: Path, split: str, with_masks: bool = True) -> list[Record]:
    """The records of one category in MVTec's layout; good pictures first, then by defect and name.

    Raises:
        MissingDataError: a folder is not there, or there is no picture in it.
        DataError: a mask without its picture.
    """
    folder = home / split
    if not home.is_dir():
        raise MissingDataError(f"{home}: no such folder")
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: no such folder; pictures are expected in {folder}/good")
    if split == "train" and not (folder / "good").is_dir():
        raise MissingDataError(f"{folder / 'good'}: no such folder; put the normal pictures there")
    kinds = ["good"] if split == "train" else sorted(subfolders(folder), key=lambda k: (k != "good", k))
    records = []
    for kind in kinds:
        pictures = pictures_in(folder / kind)
        if kind == "good" or not with_masks:
            records += [Record(int(kind != "good"), kind, str(p), partial(_read, p, None)) for p in pictures]
            continue
        masks = masks_for(pictures, home / "ground_truth" / kind)
        records += [Record(1, kind, str(p), partial(_read, p, masks.get(p))) for p in pictures]
    if not records:
        raise MissingDataError(f"{folder}: no picture in it (looked for {', '.join(['*.png', '*.jpg'])} and others)")
    return records


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if is_picture(p) and p.is_file())


def masks_for(pictures: list[Path], folder: Path) -> dict[Path, Path]:
    """Which mask belongs to which picture: ``<stem>_mask.png`` or ``<stem>.png`` in ``folder``.

    Raises:
        DataError: a mask without its picture.
    """
    if not folder.is_dir():
        return {}
    by_stem = {p.stem: p for p in pictures}
    masks = {}
    for mask in pictures_in(folder):
        stem = mask.stem
        picture = by_stem.get(stem) or by_stem.get(stem.removesuffix("_mask"))
        if picture is None:
            raise DataError(f"{mask}: a mask without its picture; expected a picture named {stem.removesuffix('_mask')}.*")
        masks[picture] = mask
    return masks


def _read(path: Path, mask: Path | None, size: int):
    image = read_image(path, size)
    return image, None if mask is None else read_mask(mask, size, path), None
