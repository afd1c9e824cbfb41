"""Powerline: generated pictures of power line assets in the wild, with object and defect masks.

The laboratory of the book: what is behind the object, the light, the scale, the size of the defect and the
strength of the corrosion are arguments, so that one can be turned while all others stay. A stand-in for
InsPLAD where that is not at hand, and never a replacement: whatever is measured here was measured on
drawings.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from attnad.datasets import fittings
from attnad.datasets.base import Dataset, Record, Source
from attnad.datasets.drawing import Canvas
from attnad.datasets.fields import grown, keep_memory, noise
from attnad.datasets.images import DataError
from attnad.datasets.insulator import glass_insulator
from attnad.datasets.scenery import camera, landscape

ASSETS = {
    "glass_insulator": (glass_insulator, ("missing_cap",)),
    "lightning_rod_suspension": (fittings.lightning_rod_suspension, ("corrosion",)),
    "polymer_insulator_upper_shackle": (fittings.polymer_insulator_upper_shackle, ("corrosion",)),
    "vari_grip": (fittings.vari_grip, ("corrosion", "bird_nest")),
    "yoke_suspension": (fittings.yoke_suspension, ("corrosion",)),
}

SOURCE = Source(
    name="powerline",
    title="Powerline: generated pictures of power line assets",
    kind="generated",
    licence="MIT (made by this package)",
    size="nothing to download",
    url="",
    how="nothing to do: pictures are drawn when they are asked for",
    categories=tuple(ASSETS),
)


@dataclass(frozen=True)
class Look:
    """The knobs of a picture; see `load`."""

    clutter: float | None = None
    light: float | None = None
    scale: float = 1.0
    defect_size: float = 1.0
    corrosion: float | None = None
    annotation: str = "gap"
    roof: bool = False

    def __post_init__(self):
        for knob in ("clutter", "light", "corrosion"):
            value = getattr(self, knob)
            if value is not None and not 0 <= value <= 1:
                raise DataError(f"{knob}={value}: must be between 0 and 1")
        if not 0.2 <= self.scale <= 4:
            raise DataError(f"scale={self.scale}: must be between 0.2 and 4")
        if not 0 < self.defect_size <= 4:
            raise DataError(f"defect_size={self.defect_size}: must be above 0 and at most 4")
        if self.annotation not in ("gap", "area"):
            raise DataError(f"annotation={self.annotation!r}: must be 'gap' or 'area'")


def load(
    category: str, split: str, size: int, seed: int, root: str | Path | None = None,
    train_count: int = 200, test_count: int = 60, clutter: float | None = None, light: float | None = None,
    scale: float = 1.0, defect_size: float = 1.0, corrosion: float | None = None, annotation: str = "gap",
    roof: bool = False,
) -> Dataset:  # fmt: skip
    """Generated pictures of one asset. ``test`` holds ``test_count`` normal and as many anomalous ones.

    Args:
        category: a key of `ASSETS`.
        split: ``"train"`` (normal only) or ``"test"``.
        size: side in pixels; the same scene at any size.
        seed: of everything. A picture is a function of seed, category, split, index and the knobs alone.
        root: not used.
        train_count: normal pictures in ``train``.
        test_count: normal pictures in ``test``, and anomalous ones.
        clutter: 0 a smooth background to 1 towers, wires and branches behind the object; None: any.
        light: 0 dusk to 1 glare; None: any.
        scale: size of the object relative to the usual.
        defect_size: 1 is usual. Glass: discs that are missing (below 1 a remnant of the disc stays).
            Corrosion and nests: how much of the part is affected.
        corrosion: strength of the rust, 0 to 1; None: any.
        annotation: mask of a missing cap: ``"gap"`` the visible gap, ``"area"`` all of where the disc should
            be.
        roof: put a large house with a bright roof behind the object; all else stays as it was. No picture
            has one by default: trained without and tested with it, a detector meets something new that is no
            defect.

    Raises:
        DataError: a category that does not exist, or a knob out of range.
    """
    SOURCE.check_category(category)
    look = Look(clutter, light, scale, defect_size, corrosion, annotation, roof)
    kinds = ASSETS[category][1]
    knobs = "".join(f" {k}={v}" for k, v in vars(look).items() if v != getattr(Look, k))
    defects = ["good"] * (train_count if split == "train" else test_count)
    if split == "test":
        defects += [kinds[i % len(kinds)] for i in range(test_count)]
    records = [
        Record(
            int(defect != "good"), defect, f"powerline/{category}/{split}/{defect}/{seed}-{i}{knobs}",
            partial(_read, category, split, i, seed, defect, look),
        )
        for i, defect in enumerate(defects)
    ]  # fmt: skip
    return Dataset(SOURCE.name, category, split, records, size)


def picture(
    category: str = "glass_insulator", index: int = 0, defect: str = "good", size: int = 256,
    split: str = "test", seed: int = 0, **look,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """One picture, with any defect: the same index with another defect or knob is the same scene.

    Returns:
        image (3, size, size) float32 in [0, 1], defect mask and object mask, both (1, size, size) bool.

    Raises:
        DataError: as `load`; or a defect that this asset does not have.
    """
    SOURCE.check_category(category)
    kinds = ("good", *ASSETS[category][1])
    if defect not in kinds:
        raise DataError(f"{category} has no defect {defect!r}; it has: {', '.join(kinds)}")
    return _read(category, split, index, seed, defect, Look(**look), size)


def _read(category: str, split: str, index: int, seed: int, defect: str, look: Look, size: int):
    keep_memory()
    # hash() differs between processes; a checksum of the names does not.
    key = [seed, zlib.crc32(f"powerline/{category}/{split}".encode()), index]
    # One stream for each of background, view, light, defect, lens, house: turning one knob leaves the
    # others' draws alone.
    behind, view, sun, fault, lens, house = (
        np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(key).spawn(6)
    )
    clutter = behind.uniform(0, 1)
    clutter = clutter if look.clutter is None else look.clutter
    azimuth, height = sun.uniform(-np.pi, 0), sun.uniform(0.45, 0.9)
    light = [np.cos(azimuth), np.sin(azimuth) - 0.3, height]
    scene = landscape(behind, size, clutter, house if look.roof else None)
    canvas = Canvas(scene, light, noise(sun, size, 0.8, 16, 128))
    ASSETS[category][0](canvas, view, fault, defect, look)
    mask = canvas.defect > 0.5
    if defect in ("corrosion", "bird_nest"):  # whoever marks these draws around them, not around each speck
        reach = max(1, round(size * 0.012))
        mask = ~grown(~grown(mask, reach), reach)
    return camera(lens, canvas.rgb, look.light), mask[None], (canvas.object > 0.5)[None]
