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
