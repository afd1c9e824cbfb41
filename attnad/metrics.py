"""How good is a detector? AUROC, AUPRO, average precision and F1, at image and at pixel level.

Throughout: label 0 is normal, 1 anomalous; a higher score means more anomalous; results are fractions in
[0, 1]. A figure that the test set cannot define (one class only, no defect pixel) is ``nan``, with a warning
that says why.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def image_auroc(labels, scores) -> float:
    """The probability that a random anomalous image scores above a random normal one; ties count half.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) finite numbers.

    Returns:
        A fraction; ``nan``, with a warning, if all labels are equal.

    Raises:
        ValueError: a score is NaN or infinite, a label is neither 0 nor 1, or the lengths differ.
    """
    labels, scores = _checked(labels, scores)
    if not _two_classes(labels, "image AUROC"):
        return np.nan
    return float(roc_auc_score(labels, scores))


def image_auroc_within(labels, scores, groups, least: int = 1) -> dict:
    """The image AUROC of each group of images: what tells groups apart, and is no defect, cannot help.

    Args:
        labels, scores: as for `image_auroc`.
        groups: (N,) the group of each image, e.g. the panel it was cut from.
        least: groups with fewer normal or fewer anomalous images are left out.

    Returns:
        group -> fraction, in the order of the groups.

    Raises:
        ValueError: as for `image_auroc`.
    """
    labels, scores = _checked(labels, scores)
    parts = {group: np.asarray(groups) == group for group in np.unique(groups)}
    return {
        group: image_auroc(labels[part], scores[part])
        for group, part in parts.items()
        if min(labels[part].sum(), (1 - labels[part]).sum()) >= max(1, least)
    }


def average_precision(labels, scores) -> float:
    """The area under the precision-recall curve, by steps, as scikit-learn defines it.

    Args, result and errors as for `image_auroc`.
    """
    labels, scores = _checked(labels, scores)
    if not _two_classes(labels, "average precision"):
        return np.nan
    return float(average_precision_score(labels, scores))


def f1_max(labels, scores) -> tuple[float, float]:
    """The best F1 any threshold reaches, and that threshold: ``score >= threshold`` means anomalous.

    The threshold is chosen with the test labels in hand, so this is an upper bound and not what a user gets.

    Args and errors as for `image_auroc`.

    Returns:
        ``(f1, threshold)``; of several equally good thresholds the highest. Both ``nan`` with one class only.
    """
    labels, scores = _checked(labels, scores)
    if not _two_classes(labels, "F1"):
        return np.nan, np.nan
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point, recall 0, belongs to no threshold
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(f1[best]), float(thresholds[best])


def pixel_auroc(masks, maps) -> float:
    """AUROC over all pixels of all images together: a large defect counts more than a small one.

    Args:
        masks: (N, H, W) or (N, 1, H, W), true on the defect.
        maps: (N, H, W) finite anomaly scores.

    Returns:
        A fraction; ``nan``, with a warning, if no pixel or every pixel is defective.

    Raises:
        ValueError: a score is NaN or infinite, or the shapes differ.
    """
    masks, maps = _checked_maps(masks, maps)
    if not _two_classes(masks, "pixel AUROC"):
        return np.nan
    defective = maps[masks]
    return _area(maps[~masks], defective, np.full(len(defective), 1 / len(defective)), limit=1.0)


def aupro(masks, maps, limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by that rate.

    At each threshold: the false positive rate over all normal pixels of the data set, and the share of a
    defect's pixels that is found, averaged over all defects of the data set (not per image, and every defect
    counts the same, however small). A defect is a region of pixels that touch at an edge or a corner
    (8 neighbours, as in anomalib). Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021.

    Exact: no grid of thresholds, ties drawn as straight lines. Memory grows linearly with the pixels.

    Args:
        masks: (N, H, W) or (N, 1, H, W), true on the defect.
        maps: (N, H, W) finite anomaly scores.
        limit: the highest false positive rate that counts, in (0, 1].

    Returns:
        A fraction, 1 for maps that separate perfectly and ``limit / 2`` for constant ones; ``nan``, with a
        warning, if no pixel or every pixel is defective.

    Raises:
        ValueError: a score is NaN or infinite, the shapes differ, or the limit is out of range.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit={limit} is not a false positive rate in (0, 1]")
    masks, maps = _checked_maps(masks, maps)
    if not _two_classes(masks, "AUPRO"):
        return np.nan
    shares = []
    for mask in masks[masks.any(axis=(1, 2))]:
        regions, _ = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        regions = regions[mask]
        sizes = np.bincount(regions)
        shares.append(1 / sizes[regions])
    weights = np.concatenate(shares)  # each region's pixels sum to 1, so the total is the number of regions
    return _area(maps[~masks], maps[masks], weights / weights.sum(), limit)


def evaluate(prediction, test, limit: float = 0.3) -> dict[str, float]:
    """All figures of one prediction on one test set.

    Args:
        prediction: has ``scores`` (N,) and ``maps`` (N, H, W) or None.
        test: a `Dataset` of the same N samples. Its anomalous pictures are read if there are maps, and if
            the first of them has a mask.
        limit: of `aupro`.

    Returns:
        ``image_auroc, average_precision, f1_max, f1_threshold, pixel_auroc, aupro``. The last two are ``nan``
        if the method has no maps or the first anomalous sample no mask.

    Raises:
        ValueError: as the single figures do; or an anomalous sample lacks its mask and the first has one.
    """
    labels = test.labels
    f1, threshold = f1_max(labels, prediction.scores)
    figures = {
        "image_auroc": image_auroc(labels, prediction.scores),
        "average_precision": average_precision(labels, prediction.scores),
        "f1_max": f1,
        "f1_threshold": threshold,
        "pixel_auroc": np.nan,
        "aupro": np.nan,
    }
    anomalous = np.flatnonzero(labels)
    if prediction.maps is not None and len(anomalous) and test[int(anomalous[0])].mask is not None:
        masks = _masks(test, np.asarray(prediction.maps).shape[1:])
        figures["pixel_auroc"] = pixel_auroc(masks, prediction.maps)
        figures["aupro"] = aupro(masks, prediction.maps, limit)
    return figures


def _masks(test, shape: tuple[int, ...]) -> np.ndarray:
    masks = np.zeros((len(test), *shape), dtype=bool)
    for i in np.flatnonzero(test.labels):  # no need to read the normal pictures
        sample = test[int(i)]
        if sample.mask is None:
            raise ValueError(f"{sample.path}: an anomalous sample without a mask, though others have one")
        if sample.mask.shape[-2:] != shape:
            raise ValueError(
                f"{sample.path}: its mask is {sample.mask.shape[-2:]} pixels, its anomaly map {shape}. "
                "Load the data set with the size of the maps, or resize the maps."
            )
        masks[i] = sample.mask[0]
    return masks


def _area(normal: np.ndarray, defective: np.ndarray, weights: np.ndarray, limit: float) -> float:
    """The area under (false positive rate, weighted share found) up to ``limit``, divided by ``limit``.

    The curve is a sum of one ramp per defective pixel, and so is its area: the pixel's share rises from 0 to
    its weight while the false positive rate goes from ``a``, the normal pixels above it, to ``b``, those
    above or level with it, and then stays. So one sort of the normal pixels is enough.
    """
    count = len(normal)
    kept = int(np.ceil(limit * count))
    if kept < count:  # normal pixels beyond the limit change nothing
        normal = normal[normal >= np.partition(normal, count - kept)[count - kept]]
    normal = np.sort(normal)
    order = np.argsort(defective)  # neighbouring look-ups stay in the cache
    defective, weights = defective[order], weights[order]
    a = (len(normal) - np.searchsorted(normal, defective, side="right")) / count
    b = (len(normal) - np.searchsorted(normal, defective, side="left")) / count
    full = limit - (a + b) / 2
    cut = (limit - a) ** 2 / (2 * np.maximum(b - a, 1 / count))
    area = np.where(b <= limit, full, np.where(a < limit, cut, 0.0))
    return float(np.sum(weights * area) / limit)


def _checked(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must both be (N,)")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), not {sorted(set(labels.tolist()))}")
    _check_finite(scores, "scores")
    return labels.astype(int), scores


def _checked_maps(masks, maps) -> tuple[np.ndarray, np.ndarray]:
    masks, maps = np.asarray(masks), np.asarray(maps)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if maps.ndim != 3 or masks.shape != maps.shape:
        raise ValueError(f"masks {masks.shape} and maps {maps.shape} must both be (N, H, W)")
    _check_finite(maps, "maps")
    return masks.astype(bool, copy=False), maps


def _check_finite(values: np.ndarray, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        where = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
        raise ValueError(
            f"{name} of {len(where)} of {len(values)} images are NaN or infinite (first: image {where[0]}). "
            "The detector's training has probably diverged: lower its learning rate or train it again."
        )


def _two_classes(labels: np.ndarray, figure: str) -> bool:
    if labels.any() and not labels.all():
        return True
    what = "pixels" if labels.ndim > 1 else "images"
    kind = "anomalous" if labels.size and labels.all() else "normal"
    message = f"{figure} is undefined: all {labels.size} {what} of the test set are {kind}. Returning nan."
    warnings.warn(message, stacklevel=3)
    return False
