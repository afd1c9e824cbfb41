"""FastFlow (Yu et al., Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows, 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.flows import conv_flow
from attnad.maps import peak, upsample
from attnad.methods.pyramid import PyramidDetector
from attnad.seeding import seeded


class FastFlow(PyramidDetector):
    """A normalizing flow over the feature maps of each level, which keeps positions where they are.

    Each level has its own flow z = f(x). Training minimises, summed over levels,

        -log p(x) = 0.5 * ||z||^2 - log |det df/dx| + constant,

    and a position's map value is ``-exp(-0.5 * mean over channels of z^2)``, averaged over the levels. A
    picture's score is its maximum, between -1 and 0.

    Defaults are those for ResNet-18 in the paper and in the public implementations that agree with it; a
    trainable LayerNorm over each level (not in the paper's text) comes first. The paper trains for 500
    epochs, the AttentDifferNet paper, which puts attention in its backbone (FastFlow SE-RN18,
    CBAM-RN18), for 100.

    Maps equal those of anomalib with the same weights.

    Attention: the paper with attention does not say what trains the gates. Here nothing does (they stay as
    the weights brought them, see `gates`), or, with ``train_attention=True``, this likelihood, which can
    be lowered by shrinking what a gate lets through; the LayerNorm takes that way out from under it for a
    common factor of the whole level, not for single channels and places.

    Args:
        backbone, weights, attention, attention_points, train_attention: see `PyramidDetector`.
        levels: layers 1 to 3 of a ResNet, strides 4, 8 and 16 of EfficientNet-Lite0.
        image_size: 256 px.
        steps, hidden_ratio, only_3x3, clamp: 8 couplings with 3x3 kernels, hidden layers as wide as their
            input, clamp 2.
        epochs: 500.
        batch_size: 32.
        lr, weight_decay: of Adam.
        cache, seed, device: see `Detector`.
    """

    trained_by = "likelihood"
    default_levels: ClassVar = {
        "resnet18": ("layer1", "layer2", "layer3"), "wide_resnet50_2": ("layer1", "layer2", "layer3"),
        "efficientnet_lite0": ("stride4", "stride8", "stride16"),
    }  # fmt: skip

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        train_attention: bool = False,
        levels: Iterable[str] | None = None,
        image_size: int = 256,
        steps: int = 8,
        hidden_ratio: float = 1.0,
        only_3x3: bool = True,
        clamp: float = 2.0,
        epochs: int = 500,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 1e-5,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, train_attention, image_size, epochs,
            batch_size, cache, seed, device,
        )  # fmt: skip
        self.steps, self.hidden_ratio, self.only_3x3, self.clamp = steps, hidden_ratio, only_3x3, clamp
        self.lr, self.weight_decay = lr, weight_decay
        shapes = self.shapes(image_size)
        with seeded(seed):
            self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
            self.flows = nn.ModuleList(
                conv_flow(shape, steps, clamp, hidden_ratio, only_3x3) for shape in shapes
            )

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trainable(), lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def latents(self, state: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(z, log_det) of each level: (B, C, H', W') and (B,)."""
        levels = zip(self.flows, self.norms, self.features(state), strict=True)
        return [flow(norm(x)) for flow, norm, x in levels]

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        negative_log_likelihoods = [
            0.5 * z.square().sum(dim=(1, 2, 3)) - log_det for z, log_det in self.latents(state)
        ]
        return torch.stack(negative_log_likelihoods).sum(dim=0).mean()

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        size = (self.image_size, self.image_size)
        likely = [torch.exp(-0.5 * z.square().mean(dim=1)) for z, _ in self.latents(state)]
        maps = -torch.stack([upsample(level, size) for level in likely]).mean(dim=0)
        return peak(maps), maps
