"""Detectors that stand on a pretrained network with attention in it, and read one or several levels of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from attnad.attention import Attention
from attnad.backbones import make_backbone
from attnad.maps import resize
from attnad.methods.base import Detector
from attnad.seeding import seeded
from attnad.weights import distilled_gates


class PyramidDetector(Detector):
    """What the methods on a pretrained network share: its frozen part, run once, and what trained its gates.

    Args:
        backbone, weights: see `attnad.backbones.make_backbone`.
        levels: of the backbone that are read; None for the method's own (`default_levels`).
        attention: name or constructor of an attention block, None for none.
        attention_points: where it goes; None for every point of the backbone up to its last level.
        train_attention: let the method's loss reach the blocks (the rest of the backbone never is trained).
        image_size: pictures are resized to this many pixels, squared.
        epochs, batch_size, cache, seed, device: see `Detector`.
    """

    default_levels: ClassVar[dict[str, tuple[str, ...]]] = {}
    trained_by: ClassVar[str] = "joint"  # what a trained gate follows: this method's own loss

    def __init__(
        self, backbone: str, weights: str | None, levels: Iterable[str] | None,
        attention: Attention | None, attention_points: Iterable[str] | None, train_attention: bool,
        image_size: int, epochs: int, batch_size: int, cache: bool, seed: int, device: str,
    ):  # fmt: skip
        super().__init__(epochs, batch_size, cache, seed, device)
        self.backbone, self.weights, self.attention = backbone, weights, attention
        self.attention_points = None if attention_points is None else tuple(attention_points)
        self.train_attention, self.image_size = train_attention, image_size
        self.levels = None if levels is None else tuple(levels)
        with seeded(seed):
            self.extractor = make_backbone(
                backbone, weights, attention, self.attention_points,
                levels=self.levels or self.default_levels.get(backbone),
            )  # fmt: skip
        self.extractor.freeze(train_attention)
        self.extractor.to(memory_format=torch.channels_last)  # as the pictures in `frozen`: faster on a CPU

    @property
    def gates(self) -> str | None:
        """What trained the gates: None without attention, `trained_by`, "distilled" or "untrained"."""
        if not self.extractor.points:
            return None
        if self.gates_are_trained():
            return self.trained_by
        return "distilled" if self._distilled_with else "untrained"

    @property
    def _distilled_with(self) -> str | None:
        """The attention that the backbone's weights were trained along with, None for none."""
        if self.weights != "distilled" or not self.extractor.points:
            return None
        return distilled_gates(self.backbone, self.attention)

    def gates_are_trained(self) -> bool:
        """Whether there is anything in the backbone that training changes."""
        return self.extractor.split() < len(self.extractor.steps())

    @torch.no_grad()
    def shapes(self, size: int) -> list[tuple[int, int, int]]:
        """(C, h, w) of each level for pictures of `size` pixels."""
        shapes = (level.shape for level in self.extractor(torch.zeros(1, 3, size, size)))
        return [(c, h, w) for _, c, h, w in shapes]

    def resized(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, image_size, image_size)."""
        return resize(images, self.image_size)

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """(B, 3, H, W) -> what the backbone's frozen part makes of it: its levels, if no gate is trained."""
        return self.extractor.in_chunks(self.resized(images))

    def features(self, state: list[Tensor]) -> list[Tensor]:
        """What `frozen` returned -> one feature map (B, C, h, w) for each level."""
        return self.extractor.trained_part(state)

    def frozen_name(self) -> str:
        """Everything that the frozen features depend on."""
        names = [name for name, _ in self.extractor.steps()[: self.extractor.split()]]
        before = [p for p in self.extractor.points if p in names or f"{p}.0" in names]
        along = self._distilled_with  # each attention brought a network of its own
        weights = f"{self.weights} with {along}" if along else self.weights
        kind = "distilled" if along else "untrained"
        gates = f", {kind} {self.attention} at {', '.join(before)}" if before else ""
        seed = f", seed {self.seed}" if (before and not along) or self.weights is None else ""
        return (
            f"{self.backbone} ({weights}) {', '.join(self.extractor.levels)} up to {names[-1]}"
            f"{gates}{seed}, {self.image_size} px"
        )
