"""Reading pictures and masks so that a bad file ends in a sentence, not in a traceback."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}


class DataError(ValueError):
    """Something about the data is wrong; the message names the file and the remedy."""


class MissingDataError(DataError, FileNotFoundError):
    """The data are not there; the message says how to get them."""

    __str__ = Exception.__str__  # FileNotFoundError would print the message as an error number


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture (hidden files never are)."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file, of which only the header has been read; whatever goes wrong becomes a sentence."""
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which nobody here reads
            with Image.open(path) as image:
                yield image
    # Pillow's decoders raise nearly anything on broken bytes (OSError, SyntaxError, struct.error,
    # IndexError...), and this is the one place where that must not reach a student.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read as a picture ({reason}); copy it again, convert it, or remove it"
        ) from None


def open_picture(path: str | Path) -> Image.Image:
    """Read a whole picture file, turned upright as its EXIF says, in whatever mode it is stored.

    Raises:
        MissingDataError: there is no such file.
        DataError: the file is empty, truncated, too large, or not a picture.
    """
    with _opened(Path(path)) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image, path: str | Path = "picture", paper: str = "white") -> Image.Image:
    """Any mode to 8-bit RGB: grey is repeated, 16 bits are scaled, what is transparent shows the paper.

    Raises:
        DataError: floating-point or 32-bit pictures, whose range nobody can know.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if image.mode == "F" or low < 0 or high > 65535:
            raise DataError(
                f"{path}: pixels of mode {image.mode!r} from {low:g} to {high:g} have no known range; "
                "save the picture with 8 or 16 bits a channel"
            )
        return Image.fromarray((values.astype(np.float64) / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, paper), layer).convert("RGB")
    return image.convert("RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """An 8-bit RGB picture as (3, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)


def read_image(path: str | Path, size: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """A picture file as (3, size, size) float32 in [0, 1], the whole of it squeezed into the square.

    Args:
        path: the file.
        size: side of the square in pixels.
        box: left, upper, right, lower in pixels of the file: only this part.

    Raises:
        DataError: see `open_picture` and `to_rgb`.
    """
    image = to_rgb(open_picture(path), path)
    return to_array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def read_mask(path: str | Path, size: int, picture: str | Path | None = None) -> np.ndarray:
    """A mask file as (1, size, size) bool: every pixel that is neither black nor transparent is defect.

    A pixel is True if at least half of it was; a defect too small for that keeps every pixel it touches.

    Args:
        path: the mask.
        size: side of the square in pixels.
        picture: the picture that the mask belongs to; their sizes must be the same.

    Raises:
        DataError: the mask cannot be read, or has another size than its picture.
    """
    image = open_picture(path)
    if picture is not None:
        expected = open_size(picture)
        if image.size != expected:
            raise DataError(
                f"{path}: the mask is {image.size[0]} x {image.size[1]} pixels, its picture {picture} "
                f"{expected[0]} x {expected[1]}; a mask must have the size of its picture"
            )
    rgb = to_rgb(image, path, paper="black")
    deep = image.mode.startswith("I")  # up to 65535, where 8 bits would lose small numbers
    mask, one = (np.asarray(image), 257) if deep else (np.asarray(rgb).max(axis=2), 1)
    # JPEG masks are not clean: what is nearly black was black. The cutoff is low because some label editors
    # write class numbers (1, 2, ...) instead of white.
    cutoff = 16 * one if mask.max(initial=0) > 32 * one else 0
    marked = Image.fromarray((mask > cutoff).astype(np.float32))
    share = np.asarray(marked.resize((size, size), Image.Resampling.BOX))
    inside = share >= 0.5
    return (inside if inside.any() else share > 0)[None]


def open_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture as it stands upright.

    Raises:
        DataError: see `open_picture`.
    """
    with _opened(Path(path)) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size
