"""EfficientAD's penalty: pictures of anything, on which its student shall not copy the teacher."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from attnad.datasets.images import open_picture, to_rgb


@functools.cache
def penalty_files(where: str) -> list[Path]:
    """The pictures below a folder, or for ``"free"`` those that come inside installed packages."""
    from attnad.pool import folder_pictures, package_pictures  # which itself needs the methods

    return package_pictures() if where == "free" else folder_pictures([where])


@functools.lru_cache(maxsize=64)  # all of the free ones; of a large folder it keeps none for long
def _read(path: Path, size: int) -> Tensor:
    picture = to_rgb(open_picture(path), path).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def penalty_pictures(penalty: Tensor | str, size: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, H, W) drawn from those that were given; from files they are of twice the side `size`."""
    if isinstance(penalty, Tensor):
        return penalty[torch.randint(len(penalty), (count,), generator=generator)]
    files = penalty_files(penalty)
    chosen = torch.randint(len(files), (count,), generator=generator).tolist()
    return torch.stack([_read(files[index], 2 * size) for index in chosen])


def penalty_crops(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) resized to twice `size`, the middle cut out, three in ten made grey."""
    if pictures.shape[-2:] != (2 * size, 2 * size):
        pictures = F.interpolate(pictures, (2 * size, 2 * size), mode="bilinear", antialias=True)
    crops = TF.center_crop(pictures, [size, size])
    grey = (torch.rand(len(crops), 1, 1, 1, generator=generator) < 0.3).to(crops.device)
    return torch.where(grey, TF.rgb_to_grayscale(crops, 3), crops)
