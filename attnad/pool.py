"""The pool that students learn from: altered crops of free pictures, and what the teacher says of each.

One picture cropped and altered in a million ways teaches a lot (Asano and Saeed, "The augmented image prior",
ICLR 2023), so some hundred pictures go a long way. A pool is made once and used by many students.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF
from tqdm import tqdm

from attnad.backbones import make_backbone
from attnad.datasets import SOURCES, load
from attnad.datasets.images import DataError, is_picture, open_picture, to_rgb
from attnad.methods.files import write

TEACHER = "efficientnet_lite0"
LEVELS = {"stride8": 40, "stride16": 112, "stride32": 320}  # of the teacher, with their channels
SIZE = 96  # pixels of a crop
SEED = 0  # one pool for all students and seeds
CHUNK = 512  # crops in a file of the pool
LONGEST = 1280  # pixels: larger pictures are made smaller, which is still larger than what is cut from them


def package_pictures() -> list[Path]:
    """The photographs that come inside scikit-learn and, if it is installed, scikit-image."""
    import sklearn

    folders = [Path(sklearn.__file__).parent / "datasets" / "images"]
    try:
        import skimage

        folders.append(Path(skimage.__file__).parent / "data")
    except ImportError:
        pass
    return [path for folder in folders for path in sorted(folder.iterdir()) if is_picture(path)]


def folder_pictures(folders: Sequence[str | Path]) -> list[Path]:
    """Every picture below the folders, in the order of their names.

    Raises:
        DataError: a folder that does not exist or has no picture in it.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        here = [path for path in sorted(folder.rglob("*")) if is_picture(path) and path.is_file()]
        if not here:
            raise DataError(f"{folder}: no pictures there; name a folder that has some")
        found += [path for path in here if not path.is_symlink()]
    return found


def read_pictures(files: Sequence[Path], generated: int = 25) -> list[Tensor]:
    """The files, and `generated` normal training pictures of each kind that the generators know.

    What is transparent gets a colour of its own in each file. Other seeds than the book's: no picture is
    one that a chapter trains or tests on.

    Returns:
        (3, H, W) uint8 each.
    """
    pictures = []
    for index, path in enumerate(tqdm(files, "reading pictures", leave=False)):
        try:
            image = open_picture(path)
        except DataError as error:  # one of thousands: say so and go on
            print(error, file=sys.stderr)
            continue
        if min(image.size) < 32:
            continue
        image.thumbnail((LONGEST, LONGEST))
        paper = "#" + np.random.default_rng(index).bytes(3).hex()
        pictures.append(_tensor(to_rgb(image, path, paper)))
    for name in ("powerline", "wafer"):
        for category in SOURCES[name].categories:
            for sample in load(name, category, "train", size=256, seed=977)[:generated]:
                pictures.append((torch.from_numpy(sample.image) * 255).round().to(torch.uint8))
    return pictures


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def altered_crop(
    pictures: Sequence[Tensor], shares: np.ndarray, size: int, rng: np.random.Generator
) -> Tensor:
    """A square cut from a random picture and altered at random: (3, size, size) uint8.

    Larger pictures are chosen more often (`shares`), and a crop with nothing in it is drawn again. The side
    of the square is anything from 64 pixels to the whole picture.
    """
    for _ in range(4):
        crop = _cut(pictures, shares, size, rng)
        if crop.float().std() > 10:
            break
    if rng.random() < 0.2:
        crop = TF.rotate(crop, float(rng.uniform(-180, 180)), TF.InterpolationMode.BILINEAR)
    x = crop.float() / 255
    if rng.random() < 0.35:
        x = TF.rgb_to_grayscale(x, 3)
    elif rng.random() < 0.5:
        x = TF.adjust_saturation(x, rng.uniform(0.2, 1.8))
        x = x * torch.from_numpy(rng.uniform(0.7, 1.3, (3, 1, 1))).float()
    if rng.random() < 0.7:
        middle = x.mean()
        x = (x - middle) * rng.uniform(0.4, 1.6) + middle + rng.uniform(-0.25, 0.25)
    if rng.random() < 0.05:
        x = 1 - x
    if rng.random() < 0.2:
        x = TF.gaussian_blur(x, [7, 7], [rng.uniform(0.3, 2.0)])
    if rng.random() < 0.3:
        x = x + torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.08), x.shape)).float()
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def _cut(pictures: Sequence[Tensor], shares: np.ndarray, size: int, rng: np.random.Generator) -> Tensor:
    """A random square of a random picture, at a random scale, at times mirrored or turned."""
    picture = pictures[int(rng.choice(len(pictures), p=shares))]
    height, width = picture.shape[1:]
    shorter = min(height, width)
    side = np.exp(rng.uniform(np.log(min(64, shorter)), np.log(shorter)))
    stretch = np.exp(rng.uniform(-0.25, 0.25))
    h, w = min(height, round(side * stretch)), min(width, round(side / stretch))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = TF.resized_crop(picture, top, left, h, w, [size, size], antialias=True)
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    return torch.rot90(crop, int(rng.integers(4)) if rng.random() < 0.5 else 0, dims=(-2, -1))


# --- The pool: crops, and what the teacher says of them -------------------------------------------


def make_pool(folder: Path, files: Sequence[Path], crops: int, size: int = SIZE) -> tuple[list[Path], dict]:
    """Write `crops` altered crops and the teacher's levels of each, in files of `CHUNK`; go on if some exist.

    Args:
        folder: of all pools. This one's name in it depends on the files, the teacher and the size.
        files: pictures, see `read_pictures`.

    Returns:
        the pool's files, and what it was made of.
    """
    made_of = {
        "teacher": TEACHER, "levels": list(LEVELS), "size": size, "seed": SEED, "pictures": len(files),
        "digest": _digest([f"{path.name} {path.stat().st_size}" for path in files]),
    }  # fmt: skip
    pool = folder / f"pool-{_digest([json.dumps(made_of)])[:8]}"
    parts = [pool / f"{index:04d}.safetensors" for index in range(-(-crops // CHUNK))]
    missing = [(index, part) for index, part in enumerate(parts) if not part.exists()]
    if missing:
        teacher = make_backbone(TEACHER, levels=LEVELS).to(memory_format=torch.channels_last)
        pictures = read_pictures(files)
        shares = np.sqrt([picture[0].numel() for picture in pictures])
        shares /= shares.sum()
        for index, part in tqdm(missing, f"pool of {crops} crops", unit="chunk", smoothing=0.1):
            rng = np.random.default_rng([SEED, index])
            images = torch.stack([altered_crop(pictures, shares, size, rng) for _ in range(CHUNK)])
            levels = zip(LEVELS, teacher.in_chunks(images.float() / 255), strict=True)
            stacked = {name: level.half() for name, level in levels}
            write(part, {"images": images, **stacked}, made_of | {"chunk": index})
    return parts, made_of | {"crops": crops}


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
