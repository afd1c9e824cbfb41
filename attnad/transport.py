"""Optimal transport between clouds of points, blurred a little so that it can be differentiated."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinkhorn_divergence(
    x: Tensor, y: Tensor, blur: float = 0.05, cooling: float = 0.7, sweeps: int = 10
) -> Tensor:
    """How far apart two clouds of equally heavy points are, under the cost ``|x_i - y_j|^2 / 2``.

    The cost of moving x onto y, minus half of what moving each onto itself costs, which is what the blur
    adds: zero for equal clouds, and for a small blur the cost of the best assignment. As defined by
    Feydy et al., Interpolating between Optimal Transport and MMD using Sinkhorn Divergences, AISTATS 2019.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        blur: distance below which points are not told apart.
        cooling: the cost is blurred strongly first, and by this factor less in each sweep; nearer to 1 is
            slower and nearer to the optimum.
        sweeps: at the final blur.

    Returns:
        (B,), differentiable.
    """
    xy, xx, yy = (_cost(a, b, blur, cooling, sweeps) for a, b in ((x, y), (x, x), (y, y)))
    return xy - (xx + yy) / 2


def _cost(x: Tensor, y: Tensor, blur: float, cooling: float, sweeps: int) -> Tensor:
    """(B,) of the transport that is penalised by ``blur^2`` times its entropy relative to the blind one."""
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :]
    cost = (squares / 2 - x @ y.transpose(1, 2)).clamp(min=0)  # (B, N, M)
    with torch.no_grad():
        log_n, log_m = math.log(x.shape[1]), math.log(y.shape[1])
        target = blur**2
        temperature = max(target, float(cost.max()))
        f, g = torch.zeros_like(cost[:, :, :1]), torch.zeros_like(cost[:, :1, :])
        while sweeps > 0:
            # Each side in turn sets its prices so that all of its mass leaves: Sinkhorn's algorithm.
            f = -temperature * (torch.logsumexp((g - cost) / temperature, dim=2, keepdim=True) - log_m)
            g = -temperature * (torch.logsumexp((f - cost) / temperature, dim=1, keepdim=True) - log_n)
            sweeps -= temperature == target
            temperature = max(target, temperature * cooling)
        plan = torch.exp((f + g - cost) / target - log_n - log_m)  # (B, N, M), sums to 1
    # The plan is optimal, so to first order only the cost under it changes: no gradient through the loop.
    return (plan * cost).sum((1, 2)) + (plan * (f + g - cost.detach())).sum((1, 2))
