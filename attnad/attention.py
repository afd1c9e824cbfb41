"""Attention blocks, written out to be read, and the controls that show whether attention mattered.

Every block takes a feature map ``x`` of shape (B, C, H, W) and returns one of the same shape, so that
any block can stand where any other stands. Most are a `Gate`: they compute numbers between 0 and 1
from ``x`` and multiply ``x`` by them.

    ========================= ==================== ===============================================
    block                     gate                 paper
    ========================= ==================== ===============================================
    `SqueezeExcitation`       one per channel      Hu et al., CVPR 2018
    `CBAM`                    per channel, then    Woo et al., ECCV 2018
                              one per position
    `ECA`                     one per channel      Wang et al., CVPR 2020
    `ShuffleAttention`        both, on halves      Zhang and Yang, ICASSP 2021
    ========================= ==================== ===============================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gate(nn.Module, ABC):
    """A block that multiplies its input by what `gate` returns."""

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the gate, (B, C, 1, 1) or (B, 1, H, W), each value in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def hidden_width(channels: int, reduction: int) -> int:
    """Width of the bottleneck between two layers of a channel gate, at least 1."""
    return max(1, channels // reduction)


class SqueezeExcitation(Gate):
    """Squeeze-and-Excitation: look at the whole map, decide how much of each channel to let through.

    Without biases and without rounding of the hidden width, as in the paper (``2 C^2 / r`` parameters).
    timm rounds the hidden width to a multiple of 8 and adds biases. Where C is small, the ReLU may silence
    all of the one or two hidden units from the start: such a gate stays at 1/2 and never learns.

    Args:
        channels: C.
        reduction: r; the hidden layer has C // r units.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        squeezed = x.mean(dim=(2, 3))  # (B, C)
        excited = self.fc2(F.relu(self.fc1(squeezed)))  # (B, C/r) -> (B, C)
        return torch.sigmoid(excited)[:, :, None, None]


class ChannelGate(Gate):
    """The first half of CBAM: SE with a second squeeze, the maximum, through the same two layers."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        average, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))  # (B, C) each
        excited = self.fc2(F.relu(self.fc1(average))) + self.fc2(F.relu(self.fc1(maximum)))
        return torch.sigmoid(excited)[:, :, None, None]


class SpatialGate(Gate):
    """The second half of CBAM: how much of each position to let through.

    Args:
        kernel_size: odd; width of the convolution over the two pooled maps.
    """

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        average, maximum = x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)  # (B, 1, H, W) each
        return torch.sigmoid(self.conv(torch.cat([average, maximum], dim=1)))


class CBAM(nn.Sequential):
    """Convolutional Block Attention Module: a `ChannelGate`, then a `SpatialGate`.

    As in the paper's formulas (``2 C^2 / r + 2 k^2`` parameters); the authors' code also has biases in
    the two layers and a batch normalisation behind the convolution.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7):
        super().__init__(ChannelGate(channels, reduction), SpatialGate(kernel_size))


class ECA(Gate):
    """Efficient Channel Attention: SE without the bottleneck; each channel asks only its neighbours.

    One 1-d convolution over the channels, whose odd kernel size grows with their number:
    ``|log2(C) / gamma + b / gamma|``, raised to the next odd number.
    """

    def __init__(self, channels: int, gamma: int = 2, b: int = 1):
        super().__init__()
        size = int(abs((math.log2(channels) + b) / gamma))
        size += 1 - size % 2  # odd, so that the kernel has a middle
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        squeezed = x.mean(dim=(2, 3))[:, None, :]  # (B, 1, C): the channels as a sequence
        return torch.sigmoid(self.conv(squeezed))[:, 0, :, None, None]


class ShuffleAttention(nn.Module):
    """Shuffle Attention (SA-Net): half of each group gated by channel, half by position, then shuffled.

    The shuffle *reorders the channels*. Behind a layer whose successor was trained to find the channels
    in order (AB1 and AB2 of a pretrained AlexNet), it therefore breaks the network; at the end of a
    backbone it is harmless.

    Args:
        channels: C, even.
        groups: 64 in the paper; lowered to the largest divisor that it shares with C / 2.
    """

    def __init__(self, channels: int, groups: int = 64):
        super().__init__()
        if channels % 2:
            raise ValueError(f"ShuffleAttention splits the channels in two halves; {channels} is odd")
        self.groups = math.gcd(groups, channels // 2)
        width = channels // (2 * self.groups)  # channels of one half of one group
        self.channel_weight = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.channel_bias = nn.Parameter(torch.ones(1, width, 1, 1))
        self.spatial_weight = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.spatial_bias = nn.Parameter(torch.ones(1, width, 1, 1))
        self.norm = nn.GroupNorm(width, width)  # each channel by its own mean and spread

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        halves = x.reshape(b * self.groups, c // self.groups, h, w)
        by_channel, by_position = halves.chunk(2, dim=1)  # (B*G, C/2G, H, W) each
        squeezed = by_channel.mean(dim=(2, 3), keepdim=True)
        by_channel = by_channel * torch.sigmoid(self.channel_weight * squeezed + self.channel_bias)
        by_position = by_position * torch.sigmoid(
            self.spatial_weight * self.norm(by_position) + self.spatial_bias
        )
        x = torch.cat([by_channel, by_position], dim=1).reshape(b, c, h, w)
        return F.channel_shuffle(x, 2)


# --- Controls: what a claim about attention must beat ---------------------------------------------


class RandomGate(Gate):
    """Control: a fixed random number between 0 and 1 for each channel, whatever the picture shows."""

    values: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("values", torch.rand(1, channels, 1, 1))

    def gate(self, x: Tensor) -> Tensor:
        return self.values.expand(len(x), -1, -1, -1)


class ShuffledGate(Gate):
    """Control: the values of a real gate in the wrong places (a fixed permutation drawn from `seed`).

    Same parameters, same cost, same distribution of gate values: what is lost is only *which* channel
    or position gets which.
    """

    def __init__(self, original: Gate, seed: int = 0):
        super().__init__()
        self.original, self.seed = original, seed

    def gate(self, x: Tensor) -> Tensor:
        gate = self.original.gate(x)
        values = gate.flatten(1)  # (B, C) or (B, H*W)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(values.shape[1], generator=generator).to(values.device)
        return values[:, order].view_as(gate)


def _shuffled_cbam(channels: int) -> nn.Module:
    return nn.Sequential(ShuffledGate(ChannelGate(channels)), ShuffledGate(SpatialGate()))


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "se": SqueezeExcitation,
    "cbam": CBAM,
    "eca": ECA,
    "shuffle": ShuffleAttention,
    # The same blocks under names for which no weights were distilled: untrained, in the plain network.
    "fresh_se": SqueezeExcitation,
    "fresh_cbam": CBAM,
    "identity": lambda channels: nn.Identity(),
    "random": RandomGate,
    "shuffled_se": lambda channels: ShuffledGate(SqueezeExcitation(channels)),
    "shuffled_cbam": _shuffled_cbam,
}

Attention = str | Callable[[int], nn.Module]


def make_attention(attention: Attention, channels: int) -> nn.Module:
    """The block called `attention`, or the one that your own ``channels -> Module`` makes.

    Raises:
        ValueError: no block has that name.
        TypeError: a block itself instead of what makes one.
    """
    if isinstance(attention, nn.Module):
        raise TypeError("one block for every number of channels: pass its class, or lambda channels: ...")
    if callable(attention):
        return attention(channels)
    if attention not in ATTENTION:
        raise ValueError(f"no attention block is called {attention!r}: use one of {', '.join(ATTENTION)}")
    return ATTENTION[attention](channels)
