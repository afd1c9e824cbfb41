"""The invertible networks of the flow methods, on FrEIA, and what they minimise.

Symbols: ``x`` the features, ``z = f(x)`` their latent code, ``log_det = log |det df/dx|``, ``D`` the
number of features of one example. With a standard normal density of ``z``, the change of variables gives

    -log p(x) = 0.5 * ||z||^2 - log_det + constant
"""

from __future__ import annotations

from collections.abc import Sequence

import FrEIA.framework as ff
import FrEIA.modules as fm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def negative_log_likelihood(z: Tensor, log_det: Tensor) -> Tensor:
    """-log p(x) of each example, without its constant, divided by D: (B,).

    Args:
        z: (B, D) or (B, C, H, W); D is the number of entries of one example.
        log_det: (B,).
    """
    z = z.flatten(1)
    return (0.5 * z.square().sum(dim=1) - log_det) / z.shape[1]


def dense_flow(features: int, steps: int, hidden: int, clamp: float, seed: int = 0) -> ff.SequenceINN:
    """DifferNet's flow over vectors: couplings (GLOW), each behind a fixed random permutation.

    Args:
        features: D, the length of a vector.
        steps: number of couplings.
        hidden: width of the three hidden layers of each subnet.
        clamp: c; the log-scale of a coupling stays within c * 0.636 * atan(s / c), so within (-c, c).
        seed: of the permutations.

    Returns:
        ``flow(x) -> (z, log_det)`` and ``flow(z, rev=True) -> (x, log_det)``.
    """

    def subnet(width_in: int, width_out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(width_in, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, width_out),
        )  # fmt: skip

    flow = ff.SequenceINN(features)
    for step in range(steps):
        flow.append(fm.PermuteRandom, seed=seed + step)
        flow.append(
            fm.GLOWCouplingBlock,
            subnet_constructor=subnet,
            clamp=clamp,
            # FrEIA's own "ATAN" would be 0.636 * atan(s): DifferNet divides by the clamp first
            clamp_activation=lambda s: 0.636 * torch.atan(s / clamp),
        )
    return flow


class AffineCoupling(fm.AllInOneBlock):
    """FrEIA's coupling block: half of the channels, scaled and shifted by what a subnet makes of the rest.

        y1 = x1,   y2 = x2 * exp(c * tanh(0.1 s)) + 0.1 t   with (s, t) = subnet(x1, condition)

    then a trained scale and offset per channel, then a fixed random permutation. FrEIA multiplies by the
    permutation's matrix; taking the channels by their index gives the same numbers, faster and without
    storing two C x C matrices (of 33 MB each at 2048 channels).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        order = self.w_perm.detach().flatten(1).argmax(dim=1)
        del self.w_perm, self.w_perm_inv
        self.register_buffer("order", order)

    def _permute(self, x, rev=False):
        scale = self.global_scale_activation(self.global_scale)
        log_det = scale.log().sum()
        if rev:
            return (x.index_select(1, self.order.argsort()) - self.global_offset) / scale, log_det
        # two operations, not one: addcmul with a number for each channel is not vectorised
        return (x * scale).add_(self.global_offset).index_select(1, self.order), log_det


def conv_flow(
    shape: tuple[int, int, int], steps: int, clamp: float, hidden_ratio: float = 1.0, only_3x3: bool = True
) -> ff.SequenceINN:
    """FastFlow's flow over feature maps, whose subnets are two convolutions: position is never given up.

    Args:
        shape: (C, H, W).
        steps: number of couplings.
        clamp: c; the log-scale of a coupling stays within (-c, c).
        hidden_ratio: width of the subnets' hidden layer, in channels of their input.
        only_3x3: otherwise every second coupling has 1x1 kernels, as the paper has for its larger backbones.

    Returns:
        ``flow(x) -> (z, log_det)`` with z (B, C, H, W), and its inverse by ``rev=True``.
    """

    def subnet(kernel: int):
        def make(width_in: int, width_out: int) -> nn.Sequential:
            hidden = int(hidden_ratio * width_in)
            return nn.Sequential(
                nn.Conv2d(width_in, hidden, kernel, padding="same"), nn.ReLU(inplace=True),
                nn.Conv2d(hidden, width_out, kernel, padding="same"),
            )  # fmt: skip

        return make

    flow = ff.SequenceINN(*shape)
    for step in range(steps):
        kernel = 3 if only_3x3 or step % 2 == 0 else 1
        flow.append(AffineCoupling, subnet_constructor=subnet(kernel), affine_clamping=clamp)
    return flow


def conditional_flow(features: int, condition: int, steps: int, clamp: float) -> ff.SequenceINN:
    """CFLOW-AD's flow over the vectors at single positions, given a code of where the position is.

    Args:
        features: C, the length of a vector.
        condition: P, the length of the code.
        steps: number of couplings, each with a subnet of one hidden layer, twice as wide as its input.
        clamp: c; the log-scale of a coupling stays within (-c, c).

    Returns:
        ``flow(x, [code]) -> (z, log_det)`` with x (N, C) and code (N, P), and its inverse by ``rev=True``.
    """

    def subnet(width_in: int, width_out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(width_in, 2 * width_in), nn.ReLU(inplace=True), nn.Linear(2 * width_in, width_out)
        )  # fmt: skip

    flow = ff.SequenceINN(features)
    for _ in range(steps):
        flow.append(
            AffineCoupling, cond=0, cond_shape=(condition,), subnet_constructor=subnet, affine_clamping=clamp
        )
    return flow


class CrossScaleSubnet(nn.Module):
    """Where CS-Flow's couplings get scale and shift: convolutions over three scales that hear each other.

    One hidden layer; a scale's output is its own convolution plus those of its neighbours' hidden layers,
    the finer one by a strided convolution, the coarser one upsampled. Each output is multiplied by a
    trained number that starts at 0, so that a fresh flow only permutes.

    Args:
        width_in, width_out, hidden: channels.
        kernel: odd.
    """

    def __init__(self, width_in: int, width_out: int, hidden: int, kernel: int):
        super().__init__()

        def convolutions(count: int, width_in: int, width_out: int, stride: int = 1) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2) for _ in range(count)
            )

        self.hidden = convolutions(3, width_in, hidden)
        self.own = convolutions(3, hidden, width_out)
        self.up = convolutions(2, hidden, width_out)  # from scale i + 1 to i
        self.down = convolutions(2, hidden, width_out, stride=2)  # from scale i to i + 1
        self.gamma = nn.Parameter(torch.zeros(3))

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        """Three (B, C, H, W), each half the size of the one before -> three (B, C', H, W)."""
        h = [F.leaky_relu(conv(x), 0.1) for conv, x in zip(self.hidden, scales, strict=True)]
        out = [conv(x) for conv, x in zip(self.own, h, strict=True)]
        for i in (0, 1):
            out[i] = out[i] + self.up[i](F.interpolate(h[i + 1], out[i].shape[-2:], mode="bilinear"))
            out[i + 1] = out[i + 1] + self.down[i](h[i])
        return [gamma * x for gamma, x in zip(self.gamma, out, strict=True)]


class CrossScaleCoupling(fm.InvertibleModule):
    """CS-Flow's coupling: both halves of the channels of three scales at once, after a fixed permutation.

        y1 = x1 * exp(s2) + t2   with (s2, t2) from x2,   y2 = x2 * exp(s1) + t1   with (s1, t1) from y1

    and log-scales within (-c, c).

    Args:
        dims_in: shapes (C, H, W) of the three scales.
        hidden, kernel: of `CrossScaleSubnet`.
        clamp: c.
        seed: of the permutations.
    """

    def __init__(self, dims_in, hidden: int, kernel: int, clamp: float, seed: int):
        super().__init__(dims_in)
        channels = dims_in[0][0]
        self.split, self.clamp = [channels // 2, channels - channels // 2], clamp
        first, second = self.split
        self.from_second = CrossScaleSubnet(second, 2 * first, hidden, kernel)
        self.from_first = CrossScaleSubnet(first, 2 * second, hidden, kernel)
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(channels, generator=generator) for _ in dims_in]
        self.register_buffer("orders", torch.stack(orders))

    def _affine(self, x: Sequence[Tensor], subnet: nn.Module, passive: Sequence[Tensor], rev: bool):
        y, log_det = [], torch.zeros(len(x[0]), device=x[0].device)
        for part, a in zip(x, subnet(passive), strict=True):
            s, t = a.chunk(2, dim=1)
            s = self.clamp * 0.636 * torch.atan(s / self.clamp)
            y.append((part - t) * torch.exp(-s) if rev else part * torch.exp(s) + t)
            log_det = log_det + s.sum(dim=(1, 2, 3))
        return y, log_det

    def forward(self, x, c=(), rev=False, jac=True):
        if not rev:
            x = [scale.index_select(1, order) for scale, order in zip(x, self.orders, strict=True)]
        x1, x2 = zip(*(scale.split(self.split, dim=1) for scale in x), strict=True)
        if rev:
            x2, j2 = self._affine(x2, self.from_first, x1, rev)
            x1, j1 = self._affine(x1, self.from_second, x2, rev)
        else:
            x1, j1 = self._affine(x1, self.from_second, x2, rev)
            x2, j2 = self._affine(x2, self.from_first, x1, rev)
        y = [torch.cat(halves, dim=1) for halves in zip(x1, x2, strict=True)]
        if rev:
            y = [scale.index_select(1, order.argsort()) for scale, order in zip(y, self.orders, strict=True)]
        return tuple(y), -(j1 + j2) if rev else j1 + j2

    def output_dims(self, input_dims):
        return input_dims


def cross_scale_flow(
    shapes: list[tuple[int, int, int]], steps: int, hidden: int, clamp: float, seed: int = 0
) -> ff.GraphINN:
    """CS-Flow's flow over three scales.

    Args:
        shapes: (C, H, W) of each; the same C, each half the size of the one before (odd sizes rounded up).
        steps: number of couplings; the last has 5x5 kernels, the others 3x3.
        hidden: width of the subnets' hidden layer.
        clamp: c; the log-scale of a coupling stays within (-c, c).
        seed: of the permutations.

    Returns:
        ``flow([x0, x1, x2]) -> ((z0, z1, z2), log_det)``, and its inverse by ``rev=True``.
    """
    inputs = [ff.InputNode(*shape) for shape in shapes]
    nodes, last = [*inputs], [node.out0 for node in inputs]
    for step in range(steps):
        kernel = 5 if step == steps - 1 else 3
        arguments = {"hidden": hidden, "kernel": kernel, "clamp": clamp, "seed": seed + step}
        nodes.append(ff.Node(last, CrossScaleCoupling, arguments))
        last = [nodes[-1].out0, nodes[-1].out1, nodes[-1].out2]
    return ff.GraphINN([*nodes, *(ff.OutputNode(out) for out in last)])
