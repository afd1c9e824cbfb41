"""FastFlow: the flow inverts, its Jacobian is the numerical one, the loss and the map are the formulas."""

import numpy as np
import pytest
import torch
from tiny import pictures

from attnad.flows import conv_flow
from attnad.methods import FastFlow
from attnad.seeding import seeded

SMALL = {
    "backbone": "tiny", "weights": None, "levels": ("last",), "image_size": 32, "steps": 2, "epochs": 2,
    "device": "cpu",
}  # fmt: skip


def a_flow(shape, **arguments):
    with seeded(0):
        flow = conv_flow(shape, steps=3, clamp=2.0, **arguments).double()
        for parameter in flow.parameters():  # far from the identity
            parameter.data += 0.3 * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("only_3x3", [True, False])
def test_the_flow_inverts(only_3x3):
    flow, x = a_flow((5, 4, 6), only_3x3=only_3x3), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    z, log_det = flow(x)
    back, inverse_log_det = flow(z, rev=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_log_det, -log_det)
    assert not torch.allclose(z, x, atol=0.1)


def test_the_jacobian_is_the_numerical_one():
    flow, x = a_flow((4, 3, 2)), torch.randn(1, 4, 3, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view_as(x))[0].flatten(), x.flatten())
    torch.testing.assert_close(flow(x)[1][0], torch.linalg.slogdet(jacobian).logabsdet)


def test_every_second_kernel_is_small_if_wanted():
    kernels = [step.subnet[0].kernel_size[0] for step in a_flow((4, 3, 2), only_3x3=False).module_list]
    assert kernels == [3, 1, 3]


def test_loss_and_map_are_the_formulas():
    detector = FastFlow(**SMALL).fit(pictures(4))
    images = pictures(3, seed=1)
    state = detector.precompute(images).tensors
    with torch.no_grad():
        ((z, log_det),) = detector.latents(state)
        loss = detector.loss(state, torch.Generator())
    torch.testing.assert_close(loss, (0.5 * (z**2).sum((1, 2, 3)) - log_det).mean())
    prediction = detector.predict(images)
    likely = torch.exp(-0.5 * (z**2).mean(1))[:, None]
    wanted = -torch.nn.functional.interpolate(likely, (32, 32), mode="bilinear")[:, 0]
    np.testing.assert_allclose(prediction.maps, wanted, atol=1e-6)
    np.testing.assert_allclose(prediction.scores, wanted.amax((1, 2)), atol=1e-6)


def test_training_lowers_the_loss_and_finds_a_defect():
    detector = FastFlow(**SMALL | {"epochs": 30, "image_size": 64}).fit(pictures(12, 64))
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]
    scores = detector.predict(pictures(4, 64, 1, defects=(2, 3))).scores
    assert scores[2:].min() > scores[:2].max()


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_gates_are_trained_only_if_asked(attention):
    detectors = [FastFlow(**SMALL, attention=attention, train_attention=t) for t in (False, True)]
    before = [[p.clone() for p in d.extractor.attention_parameters()] for d in detectors]
    moved = []
    for detector, start in zip(detectors, before, strict=True):
        detector.fit(pictures(4))
        now = detector.extractor.attention_parameters()
        moved.append(any(not torch.equal(a, b) for a, b in zip(start, now, strict=True)))
    assert moved == [False, True]
    assert [d.gates for d in detectors] == ["untrained", "likelihood"]
