"""Sizes: pictures to what a method wants, feature maps to the pixels of the picture, maps to one number."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def resize(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, size, size), bilinear, averaged where that makes them smaller."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def upsample(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear.

    Args:
        maps: on the grid of a feature map.
        size: (H, W) in pixels.
        align_corners: let the middles of the corner cells coincide instead of the corners themselves.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=align_corners)[:, 0]


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """(B, H, W) convolved with a Gaussian of `sigma` pixels, mirrored at the border as SciPy does.

    A blur along one axis is a linear map of that axis, so it is one small matrix product: much faster on
    a CPU than a convolution with one channel.
    """
    if sigma == 0:
        return maps
    rows, columns = (_blur(n, sigma).to(maps) for n in maps.shape[-2:])
    return rows @ maps @ columns.T


@lru_cache(maxsize=16)
def _blur(length: int, sigma: float) -> Tensor:
    """(length, length): the matrix that blurs a column of `length` pixels."""
    return torch.from_numpy(gaussian_filter1d(np.eye(length), sigma, axis=0)).float()


def peak(maps: Tensor) -> Tensor:
    """(B, H, W) -> (B,), the highest value: a picture is as anomalous as its most anomalous place."""
    return maps.flatten(1).amax(dim=1)
