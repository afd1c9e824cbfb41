"""Baselines for honesty: the same averaged features without any training, and maps that know nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from attnad.attention import Attention
from attnad.maps import peak, resize, smooth
from attnad.methods.base import Detector
from attnad.methods.pictures import Frozen
from attnad.methods.pooled import PooledDetector, mean_and_std, shrunk_precision


class _Untrained(PooledDetector):
    """A detector that looks at the training embeddings once, each feature standardised to count alike.

    Arguments as for `PooledDetector`; attention blocks stay as they were initialised.
    """

    mean: Tensor
    std: Tensor
    reference: Tensor

    def __init__(
        self,
        backbone: str = "alexnet",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        image_size: int = 448,
        scales: int = 3,
        rotations: str = "any",
        test_views: int = 64,
        cached_views: int = 8,
        batch_size: int = 24,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, attention, attention_points, False, image_size, scales, rotations,
            cached_views, test_views, cached_views, 0, batch_size, True, seed, device,
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))
        self.register_buffer("reference", torch.zeros(0, self.width))

    @abstractmethod
    def refer(self, embedding: Tensor) -> Tensor:
        """What is kept of the training embeddings, standardised: (N*V, D) -> (?, D)."""

    @abstractmethod
    def distance(self, embedding: Tensor) -> Tensor:
        """Standardised embeddings (M, D) -> their distance to the reference (M,)."""

    def begin(self, state: Frozen | None) -> None:
        assert state is not None  # cache is always on
        embedding = self.embed_all(state).flatten(0, 1)  # (N*V, D)
        mean, std = mean_and_std(embedding)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.reference = self.refer((embedding - mean) / std).float().to(self.device)

    def score(self, state: list[Tensor]) -> tuple[Tensor, None]:
        if len(self.reference) == 0:
            raise ValueError(f"{type(self).__name__} has not seen any normal pictures yet: call fit() first")
        embedding = self.embed(state)  # (B, V, D)
        distance = self.distance(((embedding - self.mean) / self.std).flatten(0, 1))
        return distance.unflatten(0, embedding.shape[:2]).mean(dim=1), None


class Mahalanobis(_Untrained):
    """Squared Mahalanobis distance to the training embeddings, divided by D, mean over views.

    By the inverse of a shrunk covariance, see `shrunk_precision`.
    """

    def refer(self, embedding):
        return shrunk_precision(embedding)  # (D, D)

    def distance(self, embedding):
        return (embedding @ self.reference * embedding).mean(dim=1)


class NearestNeighbor(_Untrained):
    """Euclidean distance to the nearest training embedding, mean over views."""

    def refer(self, embedding):
        return embedding  # (N*V, D)

    def distance(self, embedding):
        return torch.cdist(embedding, self.reference).amin(dim=1)


class _Blind(Detector):
    """A detector that learns nothing: what it says of a picture, it says without having seen another.

    Args:
        image_size: pictures are resized to this many pixels, squared.
        batch_size, seed, device: see `Detector`.
    """

    def __init__(self, image_size: int = 256, batch_size: int = 24, seed: int = 0, device: str = "auto"):
        super().__init__(0, batch_size, False, seed, device)
        self.image_size = image_size

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        return [resize(images, self.image_size)]

    def frozen_name(self) -> str:
        return f"pictures, {self.image_size} px"


class EdgeMagnitude(_Blind):
    """How fast the brightness changes (Sobel), blurred as the maps of the methods are, by 4 pixels."""

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        grey = F.pad(state[0].mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        down = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]], device=grey.device)
        slopes = F.conv2d(grey, torch.stack([down, down.T])[:, None])  # (B, 2, H, W)
        maps = smooth(slopes.norm(dim=1), 4)
        return peak(maps), maps


class CentrePrior(_Blind):
    """The same hill in the middle of each picture: where photographers put things. Every picture scores 1."""

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        axis = torch.linspace(-1, 1, self.image_size, device=state[0].device)
        hill = torch.exp(-2 * (axis[:, None] ** 2 + axis**2))
        maps = hill.repeat(len(state[0]), 1, 1)
        return torch.ones(len(maps), device=maps.device), maps
