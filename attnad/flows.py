"""The invertible networks of the flow methods, on FrEIA, and what they minimise.

Symbols: ``x`` the features, ``z = f(x)`` their latent code, ``log_det = log |det df/dx|``, ``D`` the
number of features of one example. With a standard normal density of ``z``, the change of variables gives

    -log p(x) = 0.5 * ||z||^2 - log_det + constant
"""

from __future__ import annotations

import FrEIA.framework as ff
import FrEIA.modules as fm
import torch
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
    """FrEIA's coupling block: half of the channels scaled and shifted by what a subnet makes of the other half.

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
            return (x[:, self.order.argsort()] - self.global_offset) / scale, log_det
        return torch.addcmul(self.global_offset, x, scale)[:, self.order], log_det


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
                nn.Conv2d(width_in, hidden, kernel, padding="same"), nn.ReLU(),
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
            nn.Linear(width_in, 2 * width_in), nn.ReLU(), nn.Linear(2 * width_in, width_out)
        )  # fmt: skip

    flow = ff.SequenceINN(features)
    for _ in range(steps):
        flow.append(
            AffineCoupling, cond=0, cond_shape=(condition,), subnet_constructor=subnet, affine_clamping=clamp
        )
    return flow
