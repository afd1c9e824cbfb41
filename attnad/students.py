"""The small networks that learn from a large one (`attnad.distill`), and what each is asked."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnad.attention import Gate
from attnad.backbones import AlexNet, make_backbone
from attnad.methods.simplenet import patch_embedding
from attnad.pdn import CHANNELS, PDN
from attnad.pool import LEVELS, SIZE
from attnad.seeding import seeded


class Student(nn.Module):
    """A backbone with a 1x1 convolution behind each level at which it is asked what the teacher says there.

    AlexNet has no batch normalisation and hardly learns without: it gets one behind each convolution, which
    `folded` takes away again.
    """

    # (attention point or level of the student, level of the teacher): at the same stride, and what a detector
    # reads is also asked what the teacher's best level says, averaged over the coarser cells.
    asked: ClassVar = {
        "alexnet": (("AB2", "stride16"), ("features", "stride16"), ("features", "stride32")),
        "resnet18": (("layer2", "stride8"), ("layer3", "stride16"), ("layer3", "stride32")),
    }

    def __init__(self, architecture: str, attention: str | None = None):
        super().__init__()
        self.backbone = make_backbone(architecture, None, attention).requires_grad_(True)
        if isinstance(self.backbone, AlexNet):
            for index, layer in enumerate(self.backbone.features):
                if isinstance(layer, nn.Conv2d):
                    normed = nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))
                    self.backbone.features[index] = normed
        names = [name for name, _ in self.backbone.steps()]
        self.asked_at: list[tuple[str, str]] = []
        self.heads = nn.ModuleList()
        for place, level in self.asked[architecture]:
            step = place if place in names else f"features.{AlexNet.after[place]}"
            self.asked_at.append((step, level))
            self.heads.append(nn.LazyConv2d(LEVELS[level], 1))
        self.backbone.levels = tuple(dict.fromkeys(step for step, _ in self.asked_at))
        self.eval()(torch.zeros(1, 3, SIZE, SIZE))  # the heads learn how wide their levels are

    def train(self, mode: bool = True) -> Student:
        """Also the backbone's batch normalisations, which elsewhere stay as they are."""
        super().train(mode)
        nn.Module.train(self.backbone, mode)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> for each question the answer (B, C, H', W')."""
        reached = dict(zip(self.backbone.levels, self.backbone(images), strict=True))
        return [head(reached[step]) for head, (step, _) in zip(self.heads, self.asked_at, strict=True)]

    def targets(self, levels: dict[str, Tensor]) -> list[Tensor]:
        """The teacher's level for each question."""
        return [levels[level] for _, level in self.asked_at]

    def folded(self) -> dict[str, Tensor]:
        """The backbone's weights under torchvision's names, AlexNet's batch normalisations folded in."""
        backbone = copy.deepcopy(self.backbone).eval()
        if isinstance(backbone, AlexNet):
            for index, layer in enumerate(backbone.features):
                if isinstance(layer, nn.Sequential):
                    backbone.features[index] = fuse_conv_bn_eval(*layer)
        return backbone.state_dict()

    @torch.no_grad()
    def mean_gates(self, images: Tensor) -> dict[str, Tensor]:
        """What each gate multiplies each channel by, on average over (B, 3, H, W) pictures: (C,) each."""
        means: dict[nn.Module, Tensor] = {}

        def look(gate: nn.Module, inputs: tuple[Tensor]) -> None:
            assert isinstance(gate, Gate)
            means[gate] = gate.gate(inputs[0]).mean((0, 2, 3))  # (C,), or (1,) for all channels alike

        gates = [module for module in self.backbone.modules() if isinstance(module, Gate)]
        hooks = [gate.register_forward_pre_hook(look) for gate in gates]
        self.eval()(images)
        for hook in hooks:
            hook.remove()
        found = {}
        for name, block in self.backbone.blocks_in_order():
            number = "" if "." in name else ".0"
            parts = (means[module] for module in block.modules() if module in means)
            found[f"mean_gate.{name}{number}"] = functools.reduce(torch.mul, parts)
        return found


class PatchStudent(nn.Module):
    """EfficientAD's teacher-to-be, which says of each 33 x 33 px patch what the large teacher says there.

    As in the paper, the large one sees the picture at twice the size, and its two levels at strides 8 and 16
    become 384 numbers at each position (`attnad.methods.simplenet.patch_embedding`, there by way of 1024).
    Unlike there, where the network pads while it is trained, the rim of the targets is cut off.
    """

    def __init__(self, size: str = "S"):
        super().__init__()
        self.network = PDN(size)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> [(B, 384, H/8 - 8, W/8 - 8)]: it sees half the size."""
        half = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        return [self.network(half)]

    def targets(self, levels: dict[str, Tensor]) -> list[Tensor]:
        """The patch embedding of the teacher's two finer levels, without its rim."""
        embedding = patch_embedding([levels["stride8"], levels["stride16"]], 3, CHANNELS)
        return [embedding.permute(0, 3, 1, 2)[:, :, 4:-4, 4:-4]]

    def folded(self) -> dict[str, Tensor]:
        """The network's weights."""
        return self.network.state_dict()

    def mean_gates(self, images: Tensor) -> dict[str, Tensor]:
        """None: it has no gates."""
        return {}


def make_student(architecture: str, attention: str | None = None, seed: int = 0) -> Student | PatchStudent:
    """An untrained student: ``"alexnet"``, ``"resnet18"``, ``"pdn_s"`` or ``"pdn_m"``."""
    with seeded(seed):
        name, _, size = architecture.partition("_")
        return PatchStudent(size.upper()) if name == "pdn" else Student(architecture, attention)
