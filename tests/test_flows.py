"""The flow: that it inverts, that its Jacobian is the true one, that its clamp is the published one."""

import FrEIA.modules as fm
import numpy as np
import pytest
import torch

from attnad.flows import dense_flow, negative_log_likelihood
from attnad.seeding import seeded


def flow(features=6, steps=3, hidden=16, clamp=3.0, scale=1.0, seed=0):
    """A small flow in double precision, its weights `scale` times as large as they start."""
    with seeded(seed):
        made = dense_flow(features, steps, hidden, clamp, seed).double()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter *= scale
    return made


def vectors(count=5, features=6, seed=0):
    return torch.randn(count, features, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("features", [6, 7])  # an odd number splits unevenly
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_inverts(features, scale):
    f, x = flow(features, scale=scale), vectors(features=features)
    z, log_det = f(x)
    back, log_det_back = f(z, rev=True)
    assert not torch.allclose(z, x)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det_back, -log_det)


@pytest.mark.parametrize("features", [6, 7])
def test_its_log_determinant_is_that_of_the_numerical_jacobian(features):
    f, x = flow(features, scale=2.0), vectors(features=features)
    _, log_det = f(x)
    for row, claimed in zip(x, log_det):
        jacobian = torch.autograd.functional.jacobian(lambda v: f(v[None])[0][0], row)
        _, expected = torch.linalg.slogdet(jacobian)
        torch.testing.assert_close(claimed, expected)
    assert log_det.abs().max() > 0.01  # not trivially zero


@pytest.mark.parametrize("clamp", [1.9, 3.0])
def test_the_clamp_is_differnets_and_keeps_log_scales_below_it(clamp):
    coupling = next(m for m in flow(clamp=clamp).modules() if isinstance(m, fm.GLOWCouplingBlock))
    s = torch.tensor([-1e30, -5.0, -0.1, 0.0, 0.1, 5.0, 1e30], dtype=torch.double)
    clamped = coupling.clamp * coupling.f_clamp(s)
    torch.testing.assert_close(clamped, clamp * 0.636 * torch.atan(s / clamp))  # as in DifferNet's code
    assert clamped.abs().max() < clamp
    # FrEIA's own is another curve: steeper at 0 by the factor c
    freia = fm.GLOWCouplingBlock(
        [(6,)], subnet_constructor=torch.nn.Linear, clamp=clamp, clamp_activation="ATAN"
    )
    torch.testing.assert_close(freia.clamp * freia.f_clamp(s), clamp * 0.636 * torch.atan(s))
    assert not torch.allclose(
        clamped[1:-1][[0, 1, 3, 4]], (freia.clamp * freia.f_clamp(s))[1:-1][[0, 1, 3, 4]]
    )


def test_the_log_determinant_is_bounded_by_the_clamp():
    f, x = flow(features=6, steps=3, clamp=1.0, scale=100.0), vectors(50)
    assert f(x)[1].abs().max() <= 3 * 6 * 1.0  # steps x features x clamp


def test_the_negative_log_likelihood_by_hand():
    z, log_det = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([2.0, -1.0])
    expected = torch.tensor([(0.5 * 25 - 2) / 2, (0.5 * 1 + 1) / 2])
    torch.testing.assert_close(negative_log_likelihood(z, log_det), expected)
    maps = torch.ones(2, 3, 4, 5)  # D = 60
    torch.testing.assert_close(negative_log_likelihood(maps, torch.zeros(2)), torch.tensor([0.5, 0.5]))


def test_it_is_the_density_up_to_a_constant():
    """-log p(x) from the change of variables, with the constant put back."""
    f, x = flow(scale=2.0), vectors()
    z, log_det = f(x)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = -(normal.log_prob(z).sum(1) + log_det)
    constant = 0.5 * 6 * np.log(2 * np.pi)
    torch.testing.assert_close(6 * negative_log_likelihood(z, log_det) + constant, expected)


def test_the_architecture_is_the_published_one():
    couplings = [m for m in dense_flow(8, 4, 32, 3.0).module_list if isinstance(m, fm.GLOWCouplingBlock)]
    permutations = [
        m.perm.tolist() for m in dense_flow(8, 4, 32, 3.0).module_list if isinstance(m, fm.PermuteRandom)
    ]
    assert len(couplings) == 4 and len(permutations) == 4
    assert len({tuple(p) for p in permutations}) == 4
    linear = [m for m in couplings[0].subnet1 if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(4, 32), (32, 32), (32, 32), (32, 8)]


def test_the_seed_decides_the_permutations():
    def permutation(seed):
        return dense_flow(50, 1, 4, 3.0, seed).module_list[0].perm.tolist()

    assert permutation(0) == permutation(0) != permutation(1)
