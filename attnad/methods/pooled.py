"""Detectors that see a picture as one vector: features of several scales and rotations, averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from attnad.attention import Attention
from attnad.frozen import CHUNK
from attnad.methods.pictures import Frozen
from attnad.methods.pyramid import PyramidDetector


class PooledDetector(PyramidDetector):
    """What DifferNet and its baselines share: the embedding (`embed`) of rotated views of a picture.

    Args:
        backbone, weights: see `attnad.backbones.make_backbone`; its last level is averaged over positions.
        attention: name or constructor of an attention block, None for none.
        attention_points: where it goes; None for every point of the backbone.
        train_attention: let the method's loss train the blocks (the rest of the backbone never is).
        image_size: pictures are resized to this many pixels, squared.
        scales: the picture is seen at ``image_size``, half of it, a quarter, ...
        rotations: ``"any"`` angle, ``"right"`` angles only, or ``"none"``.
        train_views: rotations of each picture in a training step, drawn at random.
        test_views: rotations of each picture in testing, equally spaced.
        cached_views: with ``cache``, rotations of each picture that are drawn once and then chosen from.
        epochs, batch_size, cache, seed, device: see `Detector`.
    """

    def __init__(
        self, backbone: str, weights: str | None, attention: Attention | None,
        attention_points: Iterable[str] | None, train_attention: bool, image_size: int, scales: int,
        rotations: str, train_views: int, test_views: int, cached_views: int, epochs: int,
        batch_size: int, cache: bool, seed: int, device: str,
    ):  # fmt: skip
        super().__init__(
            backbone, weights, None, attention, attention_points, train_attention, image_size, epochs,
            batch_size, cache, seed, device,
        )  # fmt: skip
        if rotations not in ("any", "right", "none"):
            raise ValueError(f"rotations={rotations!r}: use 'any', 'right' or 'none'")
        self.scales, self.rotations = scales, rotations
        self.train_views, self.test_views, self.cached_views = train_views, test_views, cached_views
        self.width = scales * self.extractor.channels[-1]  # D, the length of an embedding

    def angles(self, count: int, generator: torch.Generator | None = None) -> list[float]:
        """`count` angles in degrees: drawn at random with a generator, equally spaced without."""
        if self.rotations == "none":
            return [0.0]
        if self.rotations == "right":
            count = min(count, 4)
        if generator is None:
            spaced = [360.0 * i / count for i in range(count)]
            return [90.0 * round(a / 90) for a in spaced] if self.rotations == "right" else spaced
        if self.rotations == "right":
            return (90.0 * torch.randperm(4, generator=generator)[:count]).tolist()
        return (360 * torch.rand(count, generator=generator) - 180).tolist()

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """(B, 3, H, W) -> what the backbone's frozen part makes of each scale, tensors (B, V, ...)."""
        images = self.resized(images)
        count = self._views_in_training()
        turns = [
            (image, angle)
            for image in images
            for angle in (self.angles(count, generator) if training else self.angles(self.test_views))
        ]
        state: list[list[Tensor]] = [[] for _ in range(self.scales)]
        for first in range(0, len(turns), CHUNK):  # 64 views of 24 pictures at once would fill the memory
            views = torch.stack([_rotated(image, angle) for image, angle in turns[first : first + CHUNK]])
            for scale in range(self.scales):
                size = self.image_size // 2**scale
                scaled = F.interpolate(views, (size, size))  # nearest, as in the authors' code
                scaled = scaled.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
                x = self.extractor.frozen_part(scaled)[-1]
                state[scale].append(x if self.gates_are_trained() else x.mean(dim=(2, 3)))
        return [torch.cat(parts).unflatten(0, (len(images), -1)) for parts in state]

    def embed(self, state: list[Tensor]) -> Tensor:
        """What `frozen` returned, tensors (B, V, ...) -> (B, V, D), D = scales * channels."""
        b, v = state[0].shape[:2]
        pooled = []
        for tensor in state:
            x = tensor.flatten(0, 1)
            if x.dim() == 4:
                x = self.extractor.trained_part([x])[-1].mean(dim=(2, 3))
            pooled.append(x)
        return torch.cat(pooled, dim=1).unflatten(0, (b, v))

    @torch.no_grad()
    def embed_all(self, state: Frozen) -> Tensor:
        """`embed` for all that was precomputed: (N, V, D), on the CPU."""
        chunks = torch.arange(len(state)).split(self.batch_size)
        return torch.cat([self.embed([t[c].to(self.device) for t in state.tensors]).cpu() for c in chunks])

    def frozen_name(self) -> str:
        return f"{super().frozen_name()}, {self.scales} scales, {self.rotations} rotations"

    def shown(self, training: bool) -> str:
        if self.rotations == "none":
            return ""
        if not training:
            return f"{self.test_views} views"
        return f"{self._views_in_training()} views, seed {self.seed}"

    def _views_in_training(self) -> int:
        return self.cached_views if self.cache else self.train_views


def mean_and_std(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) -> mean and standard deviation (D,); 1 for a feature that never varied."""
    std = embedding.std(0)
    return embedding.mean(0), torch.where(std > 1e-6, std, 1.0)


def shrunk_precision(standard: Tensor) -> Tensor:
    """Standardised embeddings (M, D) -> inverse (D, D) of their covariance, in double precision.

    Shrunk as Ledoit and Wolf (2004) propose, since D may exceed the number of pictures.
    """
    from sklearn.covariance import LedoitWolf  # here, since scikit-learn is slow to import

    return torch.from_numpy(LedoitWolf(assume_centered=True).fit(standard.numpy()).precision_)


def _rotated(image: Tensor, angle: float) -> Tensor:
    """(3, H, W) turned about its middle, corners black; right angles without resampling."""
    if angle % 90 == 0:
        return torch.rot90(image, round(angle / 90), dims=(-2, -1))
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], device=image.device)
    # What torchvision's rotate does, without the one operation of it that ONNX cannot say.
    grid = F.affine_grid(turn, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, mode="nearest", align_corners=False)[0]
