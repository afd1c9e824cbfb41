"""CPLID: insulators seen from a drone, cropped by their boxes; normal ones, and ones with a missing cap.

Tao et al., "Detection of Power Line Insulator Defects Using Aerial Images Analyzed With Convolutional Neural
Networks", IEEE Transactions on Systems, Man, and Cybernetics: Systems, 2018. A warning to whoever trains on
it: the normal pictures are photographs, but the defective ones are composites, insulators cut out and pasted
on other backgrounds. A detector may find the seam, or the unusual background, and never look at the cap.

Layout: ``Normal_Insulators/{images,labels}`` and
``Defective_Insulators/{images,labels/insulator,labels/defect}``, VOC boxes in XML; read from the repository's
list of files, not checked against the pictures.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import numpy as np

from attnad.datasets.base import Dataset, Record, Source
from attnad.datasets.download import find_root
from attnad.datasets.images import DataError, MissingDataError, read_image

SOURCE = Source(
    name="cplid",
    title="CPLID: insulators from a drone, composites with a missing cap",
    kind="real",
    licence="none stated; citation asked for",
    size="about 600 MB",
    url="https://github.com/InsulatorData/InsulatorDataSet",
    how="python -m attnad data get cplid",
    categories=("insulator",),
    fetch=("git", "https://github.com/InsulatorData/InsulatorDataSet"),
)

Box = tuple[int, int, int, int]


def load(category: str, split: str, size: int, seed: int, root: str | Path | None = None) -> Dataset:
    """``train`` holds the insulators of a seeded 80 % of the normal pictures, ``test`` the others and the
    defective.

    The mask is the box of the defect, coarse as it is. Insulators without a defect in the composite pictures
    are left out: they are neither normal photographs nor defective.

    Raises:
        MissingDataError: the data are not there.
        DataError: a label that cannot be read.
    """
    home = find_root(SOURCE, root)
    normal = home / "Normal_Insulators"
    pictures = sorted((normal / "images").glob("*.jpg"))
    if not pictures:
        raise MissingDataError(f"{normal / 'images'}: no picture in it. To get the data: {SOURCE.how}")
    order = np.random.default_rng(seed).permutation(
        len(pictures)
    )  # of pictures, so that none is on both sides
    cut = round(0.8 * len(pictures))
    chosen = order[:cut] if split == "train" else order[cut:]
    records = []
    for i in sorted(chosen):
        path = pictures[i]
        for box in boxes(normal / "labels" / f"{path.stem}.xml"):
            records.append(Record(0, "good", str(path), partial(_read, path, box, None)))
    if split == "test":
        bad = home / "Defective_Insulators"
        for path in sorted((bad / "images").glob("*.jpg")):
            defects = boxes(bad / "labels" / "defect" / f"{path.stem}.xml")
            for box in boxes(bad / "labels" / "insulator" / f"{path.stem}.xml"):
                within = [d for d in defects if _centre_within(d, box)]
                if within:
                    records.append(Record(1, "missing_cap", str(path), partial(_read, path, box, within)))
    return Dataset(SOURCE.name, category, split, records, size)


def boxes(path: Path) -> list[Box]:
    """The boxes (left, upper, right, lower) of a VOC label, in pixels.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not a VOC label.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file. To get the data: {SOURCE.how}")
    try:
        found = ElementTree.parse(path).getroot().findall("object/bndbox")
        corners = [[float(b.findtext(k, "")) for k in ("xmin", "ymin", "xmax", "ymax")] for b in found]
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a VOC label ({error}); download it again") from None
    for x0, y0, x1, y1 in corners:
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            raise DataError(f"{path}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} is empty or outside")
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in corners]


def _centre_within(inner: Box, outer: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def _read(path: Path, box: Box, defects: list[Box] | None, size: int):
    image = read_image(path, size, box)
    if defects is None:
        return image, None, None
    mask = np.zeros((1, size, size), dtype=bool)
    for x0, y0, x1, y1 in defects:
        across, down = size / (box[2] - box[0]), size / (box[3] - box[1])
        rows = slice(max(0, int((y0 - box[1]) * down)), int(np.ceil((y1 - box[1]) * down)))
        mask[0, rows, max(0, int((x0 - box[0]) * across)) : int(np.ceil((x1 - box[0]) * across))] = True
    return image, mask, None
