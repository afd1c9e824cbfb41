"""CS-Flow (Rudolph et al., Fully Convolutional Cross-Scale-Flows for Defect Detection, WACV 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.flows import cross_scale_flow, negative_log_likelihood
from attnad.maps import upsample
from attnad.methods.pyramid import PyramidDetector
from attnad.seeding import seeded

SCALES = 3


class CSFlow(PyramidDetector):
    """One normalizing flow over the feature maps of a picture at three sizes, which exchange what they know.

    With z = f(x) over all scales, channels and positions, D numbers in all, training minimises

        -log p(x) / D = (0.5 * ||z||^2 - log |det df/dx|) / D,

    a picture's score is ``mean(z^2) / 2``, and its map the mean of z^2 over the channels of the finest scale.

    Latent codes and scores equal those of anomalib with the same weights. Its loss does not: it subtracts
    the log-determinants of the whole batch from each picture's term; here, as in the paper, each picture has
    its own. Its map multiplies the three scales; the authors show the finest.

    Attention is never trained by this method: only the flow is (see `gates`). EfficientNet-B5 has
    squeeze-and-excitation of its own, trained on ImageNet, so here ``attention=None`` does not mean none.

    Args:
        backbone, weights, attention, attention_points: see `PyramidDetector`. The paper has EfficientNet-B5
            up to its block 35, 304 channels.
        levels: the one level that is read at all scales: stride 32 of EfficientNet-B5, stride 16 of
            EfficientNet-Lite0, layer 3 of a ResNet.
        image_size: 768 px; the scales are this, a half and a quarter of it.
        steps, hidden, clamp: 4 couplings (kernels 3, 3, 3 and 5), hidden layers of 1024 channels, clamp 3.
        epochs: 240 (the AttentDifferNet paper trains for 100).
        batch_size: 16.
        lr, weight_decay: of Adam (eps 1e-4).
        clip: longer gradients are shortened to this length, 1.
        cache, seed, device: see `Detector`.
    """

    default_levels: ClassVar = {
        "efficientnet_b5": ("stride32",), "efficientnet_lite0": ("stride16",),
        "resnet18": ("layer3",), "wide_resnet50_2": ("layer3",),
    }  # fmt: skip

    def __init__(
        self,
        backbone: str = "efficientnet_b5",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
        image_size: int = 768,
        steps: int = 4,
        hidden: int = 1024,
        clamp: float = 3.0,
        epochs: int = 240,
        batch_size: int = 16,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        clip: float = 1.0,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, False, image_size, epochs, batch_size,
            cache, seed, device,
        )  # fmt: skip
        if len(self.extractor.levels) != 1:
            raise ValueError(f"CS-Flow reads one level at {SCALES} scales, not {self.extractor.levels}")
        self.steps, self.hidden, self.clamp = steps, hidden, clamp
        self.lr, self.weight_decay, self.clip = lr, weight_decay, clip
        shapes = [self.shapes(image_size // 2**scale)[0] for scale in range(SCALES)]
        for finer, coarser in pairwise(shapes):
            if coarser[1] != -(-finer[1] // 2):
                raise ValueError(f"image_size={image_size}: a scale is not half as wide as the one before")
        with seeded(seed):
            self.flow = cross_scale_flow(shapes, steps, hidden, clamp, seed)

    def make_optimizer(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(
            self.trainable(), lr=self.lr, eps=1e-4, weight_decay=self.weight_decay, fused=True
        )
        optimizer.register_step_pre_hook(self._clip)
        return optimizer

    def _clip(self, *_) -> None:
        nn.utils.clip_grad_norm_(self.trainable(), self.clip)

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """(B, 3, H, W) -> the level at three scales, tensors (B, C, h, w)."""
        images, state = self.resized(images), []
        for scale in range(SCALES):
            size = (self.image_size // 2**scale,) * 2
            scaled = F.interpolate(images, size)  # nearest, as in the authors' code
            state += self.extractor.in_chunks(scaled)
        return state

    def frozen_name(self) -> str:
        return f"{super().frozen_name()}, {SCALES} scales"

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        z, log_det = self.flow(state)
        z = torch.cat([scale.flatten(1) for scale in z], dim=1)  # (B, D)
        return negative_log_likelihood(z, log_det).mean()

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        z, _ = self.flow(state)
        scores = 0.5 * torch.cat([scale.flatten(1) for scale in z], dim=1).square().mean(dim=1)
        return scores, upsample(z[0].square().mean(dim=1), (self.image_size,) * 2)
