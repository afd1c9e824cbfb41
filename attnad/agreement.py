"""How far a map can be believed: where it lies, and whether it hangs on what was learned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from attnad.explain import check
from attnad.methods.base import Detector


def agreement(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """How well each map agrees with a mask; by chance, each number would be the mask's share of the picture.

    A map that is the same everywhere points nowhere, and gets exactly that.

    Args:
        maps: (N, H, W), at least 0.
        masks: (N, H, W) bool, each with pixels inside and outside.

    Returns:
        (N,) each: ``energy``, the share of the map's sum that lies inside; ``pointing``, 1 if its highest
        value does (Zhang et al., IJCV 2018, without their tolerance of 15 pixels); ``overlap``, the average
        precision of telling inside from outside by the map; ``chance``.

    Raises:
        ValueError: another shape, negative values, or a mask that is empty or full.
    """
    from sklearn.metrics import average_precision_score

    masks = np.asarray(masks, bool)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape}: both must be (N, H, W)")
    if not np.isfinite(maps).all() or maps.min(initial=0) < 0:
        raise ValueError("a map must be finite and at least 0: subtract the smallest value of all maps first")
    chance = masks.mean(axis=(1, 2))
    if ((chance == 0) | (chance == 1)).any():
        raise ValueError("a mask is empty or full: there is nothing to agree with; leave that picture out")
    rows = []
    for map_, mask in zip(maps.astype(float), masks, strict=True):
        map_ = map_ if map_.any() else np.ones_like(map_)
        highest = mask[map_ == map_.max()].mean()
        rows.append(
            (map_[mask].sum() / map_.sum(), highest, average_precision_score(mask.ravel(), map_.ravel()))
        )
    energy, pointing, overlap = np.array(rows).reshape(-1, 3).T
    return {"energy": energy, "pointing": pointing, "overlap": overlap, "chance": chance}


def cascade(detector: Detector, seed: int = 0) -> Iterator[tuple[str, Detector]]:
    """The detector with more and more of it made random, from the top down (Adebayo et al., NeurIPS 2018).

    An explanation that does not change when the weights are destroyed does not explain what was learned.
    Random: the values within each weight tensor in a random order, so that only what they meant is lost.
    Buffers (statistics, memory banks) stay. The parameters above the extractor come first, together, under
    the name ``head`` (if there are any), then each step of the extractor from the last to the first.

    Yields:
        (what was made random last, a copy of the detector): the same copy every time, so use it at once.

    Raises:
        TypeError: the detector has no feature extractor.
    """
    changed = copy.deepcopy(check(detector))
    generator = torch.Generator().manual_seed(seed)
    inside = {id(p) for p in changed.extractor.parameters()}
    parts = [("head", [p for p in changed.parameters() if id(p) not in inside])]
    parts += [(name, list(step.parameters())) for name, step in reversed(changed.extractor.steps())]
    for name, parameters in parts:
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
        if parameters:
            yield name, changed


def similarity(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Are two maps (H, W) the same? ``spearman``: rank correlation; ``ssim``: structural similarity.

    Each map is stretched from 0 to 1 first. A map that is the same everywhere has no ranks: correlation 0.
    SSIM is that of Wang et al. (2004), Gaussian window of 1.5 pixels.
    """
    one, other = (_stretched(np.asarray(map_, float)) for map_ in (one, other))
    flat = one.min() == one.max() or other.min() == other.max()
    rank = 0.0 if flat else float(spearmanr(one.ravel(), other.ravel()).statistic)
    blur = partial(gaussian_filter, sigma=1.5, truncate=3.5)
    mean_1, mean_2 = blur(one), blur(other)
    var_1, var_2 = blur(one**2) - mean_1**2, blur(other**2) - mean_2**2
    covariance = blur(one * other) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    ssim /= (mean_1**2 + mean_2**2 + c1) * (var_1 + var_2 + c2)
    return {"spearman": rank, "ssim": float(ssim.mean())}


def _stretched(map_: np.ndarray) -> np.ndarray:
    """From 0 to 1; all zero if it is the same everywhere."""
    low, high = map_.min(), map_.max()
    return (map_ - low) / (high - low) if high > low else np.zeros_like(map_)
