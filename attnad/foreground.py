"""Where is the object? Masks from features of a pretrained network, and anomaly maps weighted by them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnad.backbones import make_backbone
from attnad.maps import resize, upsample
from attnad.methods.pictures import Pictures, Prediction, stacked


class Foreground:
    """A line through feature space that has the object on one side and the background on the other.

    Every position of the grid has a vector x, the features of all levels one behind the other. It is called
    foreground where ``(x - mean) . direction > threshold``. The direction is

    - without masks of the object: the first principal component of the vectors of normal pictures. Of its
      two ends that is the background which is found more at the border of the pictures; the threshold is
      Otsu's (1979). Nothing but normal pictures is needed; that the component finds the *object* is a hope,
      to be checked.
    - with masks: what logistic regression learns from them, the smallest segmenter there is.

    Args:
        backbone, weights: see `attnad.backbones.make_backbone`.
        levels: which of its levels are read; the grid is that of the first.
        image_size: pictures are resized to this many pixels, squared.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        weights: str | None = "imagenet",
        levels: tuple[str, ...] = ("stride8", "stride16"),
        image_size: int = 128,
    ):
        extractor = make_backbone(backbone, weights, levels=levels)
        self.extractor = extractor.to(memory_format=torch.channels_last)
        self.image_size = image_size
        self.direction = torch.zeros(0)

    def fit(self, images: Pictures, objects: np.ndarray | None = None) -> Foreground:
        """Learn the direction from normal pictures.

        Args:
            images: N pictures: a data set, samples, or (N, 3, H, W) in [0, 1].
            objects: (N, H, W), true on the object; None to do without.

        Returns:
            self.

        Raises:
            ValueError: no pictures, or masks of another number.
        """
        levels = self._levels(images)  # (N, C_k, h_k, w_k) each
        if objects is not None and len(objects) != len(levels[0]):
            raise ValueError(f"{len(levels[0])} pictures, but {len(objects)} masks")
        self.spreads = [level.std() for level in levels]  # a level of large numbers must not drown the other
        x = self._joined(levels)  # (N, h, w, C)
        self.mean = x.mean(dim=(0, 1, 2))
        if objects is None:
            flat = (x - self.mean).flatten(0, 2)
            self.direction = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -1]
            values = (x - self.mean) @ self.direction  # (N, h, w)
            border = torch.ones(values.shape[1:], dtype=torch.bool)
            border[1:-1, 1:-1] = False
            if values[:, border].mean() > values[:, ~border].mean():
                self.direction, values = -self.direction, -values
            self.threshold = otsu(values.numpy())
        else:
            from sklearn.linear_model import LogisticRegression  # here, since it is slow to import

            _, h, w, _ = x.shape
            shares = F.adaptive_avg_pool2d(torch.as_tensor(objects).float()[:, None], (h, w))
            inside = (shares > 0.5).flatten().numpy()
            line = LogisticRegression(C=0.01, max_iter=300).fit((x - self.mean).flatten(0, 2).numpy(), inside)
            self.direction = torch.from_numpy(line.coef_[0]).float()
            self.threshold = -float(line.intercept_[0])
        return self

    def features(self, images: Pictures) -> Tensor:
        """N pictures -> (N, h, w, C) on the grid of the first level.

        Raises:
            RuntimeError: `fit` was not called.
        """
        if len(self.direction) == 0:
            raise RuntimeError("there is no direction yet: call fit() first")
        return self._joined(self._levels(images))

    def values(self, images: Pictures) -> Tensor:
        """N pictures -> (N, h, w), above 0 for foreground; errors as for `features`."""
        return (self.features(images) - self.mean) @ self.direction - self.threshold

    def masks(self, images: Pictures) -> np.ndarray:
        """N pictures of H x W -> (N, H, W) float32: 1 foreground, 0 background, soft at the edge."""
        height, width = stacked(images, [0]).shape[-2:]
        return as_masks(self.values(images), (height, width))

    def _levels(self, images: Pictures) -> list[Tensor]:
        if len(images) == 0:
            raise ValueError("there are no pictures")
        return self.extractor.in_chunks(resize(stacked(images), self.image_size))

    def _joined(self, levels: list[Tensor]) -> Tensor:
        """Levels (N, C_k, h_k, w_k) -> (N, h, w, C) on the grid of the first."""
        grid = levels[0].shape[-2:]
        same = [
            F.interpolate(level / spread, grid, mode="bilinear")
            for level, spread in zip(levels, self.spreads, strict=True)
        ]
        return torch.cat(same, dim=1).permute(0, 2, 3, 1)


def as_masks(values: Tensor, size: tuple[int, int], grow: int = 0) -> np.ndarray:
    """What `Foreground.values` says, as masks of pictures.

    Args:
        values: (N, h, w), above 0 for foreground.
        size: (H, W) of the pictures.
        grow: the foreground is widened by so many cells of the grid in all directions.

    Returns:
        (N, H, W) float32.
    """
    grid = F.max_pool2d((values > 0).float(), 2 * grow + 1, 1, grow)
    return upsample(grid, size).numpy()


def otsu(values: np.ndarray, bins: int = 256) -> float:
    """The threshold that splits numbers into two heaps whose means are far apart (Otsu, 1979).

    It maximises ``n1 * n2 * (mean1 - mean2)^2`` over the edges of a histogram; the middle of equal ones.
    """
    counts, edges = np.histogram(values, bins)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    n1, n2 = below[:-1], below[-1] - below[:-1]
    apart = total[:-1] / np.maximum(n1, 1) - (total[-1] - total[:-1]) / np.maximum(n2, 1)
    between = n1 * n2 * apart**2
    return float(edges[1:-1][between == between.max()].mean())


def weighted(prediction: Prediction, masks: np.ndarray | float, zero: float = 0.0) -> Prediction:
    """Maps multiplied by masks, and the highest value of each as the new score.

    With ``masks=1.0`` the maps stay, and the scores become their maxima: what to compare with, since some
    methods take the maximum before they blur their map.

    Args:
        prediction: of N pictures, with maps (N, H, W).
        masks: (N, H, W), or (H, W) for all, in [0, 1].
        zero: the value of a map where nothing is anomalous, to which the background is set: the smallest
            value on normal training pictures. Lower values are raised to it.

    Raises:
        ValueError: a prediction without maps, or masks that do not fit them.
    """
    if prediction.maps is None:
        raise ValueError("this method makes no maps: there is nothing to weight")
    masks = np.asarray(masks, dtype=np.float32)
    if masks.shape not in ((), prediction.maps.shape[1:], prediction.maps.shape):
        raise ValueError(f"masks {masks.shape} do not fit maps {prediction.maps.shape}")
    maps = zero + masks * np.maximum(prediction.maps - np.float32(zero), 0)
    return Prediction(maps.max(axis=(1, 2)), maps.astype(np.float32))


def iou(masks: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(N,) area that both have over area that one has, of masks (N, H, W) cut at 1/2 and true ones.

    Where neither has any, they agree: 1.
    """
    masks, objects = np.asarray(masks) > 0.5, np.asarray(objects, dtype=bool)
    both, either = (masks & objects).sum(axis=(1, 2)), (masks | objects).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)
