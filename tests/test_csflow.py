"""CS-Flow: the cross-scale flow inverts, its Jacobian is the numerical one, the formulas are the paper's."""

import numpy as np
import pytest
import torch
from tiny import pictures

from attnad.flows import cross_scale_flow
from attnad.methods import CSFlow
from attnad.seeding import seeded

SMALL = {
    "backbone": "tiny", "weights": None, "levels": ("last",), "image_size": 64, "steps": 2, "hidden": 8,
    "epochs": 2, "device": "cpu",
}  # fmt: skip
SHAPES = [(5, 6, 8), (5, 3, 4), (5, 2, 2)]


def a_flow(shapes=SHAPES):
    with seeded(0):
        flow = cross_scale_flow(shapes, steps=3, hidden=6, clamp=3.0).double()
        for parameter in flow.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return flow


def some(shapes=SHAPES, batch=2):
    return [torch.randn(batch, *shape, dtype=torch.float64) for shape in shapes]


def test_the_flow_inverts():
    flow, x = a_flow(), some()
    z, log_det = flow(x)
    back, inverse_log_det = flow(z, rev=True)
    for a, b in zip(back, x, strict=True):
        torch.testing.assert_close(a, b)
    assert log_det.shape == (2,)
    torch.testing.assert_close(inverse_log_det, -log_det)


def test_the_jacobian_is_the_numerical_one():
    shapes = [(3, 4, 4), (3, 2, 2), (3, 1, 1)]
    flow, x = a_flow(shapes), some(shapes, 1)
    sizes = [t.numel() for t in x]

    def f(v):
        parts = [p.view_as(t) for p, t in zip(v.split(sizes), x, strict=True)]
        return torch.cat([z.flatten() for z in flow(parts)[0]])

    jacobian = torch.autograd.functional.jacobian(f, torch.cat([t.flatten() for t in x]))
    torch.testing.assert_close(flow(x)[1][0], torch.linalg.slogdet(jacobian).logabsdet)


def test_a_fresh_flow_only_permutes():
    x = some()
    z, log_det = cross_scale_flow(SHAPES, steps=2, hidden=6, clamp=3.0).double()(x)
    assert (log_det == 0).all()
    for a, b in zip(z, x, strict=True):
        torch.testing.assert_close(a.sort(dim=1).values, b.sort(dim=1).values)


def test_scales_hear_each_other():
    flow, x = a_flow(), some()
    before, _ = flow(x)
    x[2] = x[2] + 1
    after, _ = flow(x)
    assert not torch.allclose(before[0], after[0])


def test_loss_score_and_map_are_the_formulas():
    detector = CSFlow(**SMALL).fit(pictures(4, 64))
    images = pictures(3, 64, 1)
    state = detector.precompute(images).tensors
    assert [t.shape for t in state] == [(3, 12, 8, 8), (3, 12, 4, 4), (3, 12, 2, 2)]
    with torch.no_grad():
        z, log_det = detector.flow(state)
        loss = detector.loss(state, torch.Generator())
    flat = torch.cat([s.flatten(1) for s in z], dim=1)
    torch.testing.assert_close(loss, ((0.5 * flat**2).sum(1) - log_det).mean() / (12 * (64 + 16 + 4)))
    prediction = detector.predict(images)
    np.testing.assert_allclose(prediction.scores, (flat**2).mean(1) / 2, rtol=1e-5)
    assert prediction.maps.shape == (3, 64, 64)


def test_training_lowers_the_loss_and_finds_a_defect():
    detector = CSFlow(**SMALL | {"epochs": 40, "lr": 2e-3}).fit(pictures(12, 64))
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]
    scores = detector.predict(pictures(4, 64, 1, defects=(2, 3))).scores
    assert scores[2:].min() > scores[:2].max()


def test_gradients_are_clipped():
    detector = CSFlow(**SMALL, clip=1e-3)
    optimizer = detector.make_optimizer()
    for parameter in detector.trainable():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    length = torch.stack([p.grad.norm() for p in detector.trainable()]).norm()
    assert float(length) == pytest.approx(1e-3, rel=1e-3)


def test_a_size_whose_half_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="image_size=72"):
        CSFlow(**SMALL | {"image_size": 72})
