"""CFLOW-AD: the positional code, the conditional flow, fibres, and scores that do not depend on company."""

import math

import numpy as np
import pytest
import torch
from tiny import pictures

from attnad.flows import conditional_flow
from attnad.methods import CFlow
from attnad.methods.cflow import positional_code, schedule
from attnad.seeding import seeded

SMALL = {
    "backbone": "tiny", "weights": None, "levels": ("last",), "image_size": 32, "steps": 2, "fiber": 32,
    "condition": 8, "epochs": 2, "device": "cpu",
}  # fmt: skip


def test_positional_code_is_the_formula():
    code = positional_code(8, 3, 5)
    assert code.shape == (8, 3, 5)
    for row in range(3):
        for column in range(5):
            wanted = []
            for t in (column, row):
                for k in range(2):
                    angle = t / 10000 ** (2 * k / 4)
                    wanted += [math.sin(angle), math.cos(angle)]
            np.testing.assert_allclose(code[:, row, column], wanted, atol=1e-6)


def test_every_position_has_its_own_code():
    codes = positional_code(128, 16, 16).flatten(1).T
    assert torch.cdist(codes, codes).add(torch.eye(256) * 10).min() > 0.1


def test_positional_code_of_another_length():
    with pytest.raises(ValueError, match="multiple of 4"):
        positional_code(6, 2, 2)


def a_flow():
    with seeded(0):
        flow = conditional_flow(5, 4, steps=3, clamp=1.9).double()
        for parameter in flow.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return flow


def test_the_flow_inverts_and_listens_to_the_condition():
    flow = a_flow()
    x, c = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    z, log_det = flow(x, [c])
    back, inverse_log_det = flow(z, [c], rev=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_log_det, -log_det)
    assert not torch.allclose(flow(x, [c + 1])[0], z)


def test_the_jacobian_is_the_numerical_one():
    flow = a_flow()
    x, c = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None], [c])[0][0], x[0])
    torch.testing.assert_close(flow(x, [c])[1][0], torch.linalg.slogdet(jacobian).logabsdet)


def test_log_likelihood_is_that_of_a_gaussian_where_the_flow_is_one():
    detector = CFlow(**SMALL)
    x = torch.randn(6, 12)
    detector.flows[0] = torch.nn.Identity()
    detector.flows[0].forward = lambda x, c: (x, torch.zeros(len(x)))
    normal = torch.distributions.Normal(0, 1).log_prob(x).mean(dim=1)
    torch.testing.assert_close(detector.log_likelihood(0, x, None), normal)


def test_every_position_is_in_one_fiber():
    detector = CFlow(**SMALL)
    detector.make_optimizer()
    images = torch.from_numpy(pictures(5))
    fibers = list(detector._batches(images, torch.Generator().manual_seed(0)))
    assert sum(len(x) for x, _, _ in fibers) == 5 * 16
    assert all(len(x) >= 32 for x, _, _ in fibers)


def test_a_score_does_not_depend_on_the_other_pictures():
    detector = CFlow(**SMALL).fit(pictures(6))
    images = pictures(4, seed=1, defects=(3,))
    together = detector.predict(images)
    alone = [detector.predict(images[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(together.scores, [p.scores[0] for p in alone], atol=1e-5)
    assert together.maps.shape == (4, 32, 32)


def test_training_lowers_the_loss_and_finds_a_defect():
    detector = CFlow(**SMALL | {"epochs": 25, "image_size": 64, "lr": 2e-3}).fit(pictures(12, 64))
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]
    scores = detector.predict(pictures(4, 64, 1, defects=(2, 3))).scores
    assert scores[2:].min() > scores[:2].max()


def test_training_goes_on_from_a_checkpoint(tmp_path):
    train, images = pictures(6), pictures(3, seed=1)
    whole = CFlow(**SMALL | {"epochs": 4}).fit(train)

    def stop(detector, epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        CFlow(**SMALL | {"epochs": 4}).fit(train, on_epoch=stop, checkpoint=file)
    resumed = CFlow(**SMALL | {"epochs": 4}).fit(train, checkpoint=file)
    np.testing.assert_array_equal(whole.predict(images).maps, resumed.predict(images).maps)


def test_the_learning_rate_rises_then_falls():
    rates = [schedule(t) for t in np.linspace(0, 1, 101)]
    top = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.001)
    assert 6 <= top <= 9 and np.all(np.diff(rates[top:]) < 0)
