"""RD++: optimal transport against what is known of it, noise, the losses by hand, who learns from them."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from attnad.methods import RDPP
from attnad.methods.rdpp import Bottleneck, Decoder, add_noise
from attnad.simplex import octaves, simplex_noise
from attnad.transport import sinkhorn_divergence

SMALL = {
    "backbone": "efficientnet_lite0", "weights": None, "image_size": 64, "points": 8, "batch_size": 4,
    "epochs": 2, "cache": True, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)


def cloud(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Transport ------------------------------------------------------------------------------------


def test_with_little_blur_it_is_the_best_assignment():
    x, y = cloud(0, 2, 30, 4), cloud(1, 2, 30, 4) + 0.5
    costs = (torch.cdist(x, y).square() / 2).numpy()
    best = [cost[linear_sum_assignment(cost)].mean() for cost in costs]
    found = sinkhorn_divergence(x, y, blur=0.05, cooling=0.95)
    np.testing.assert_allclose(found, best, rtol=2e-3)


@pytest.mark.parametrize("blur", [0.05, 0.5, 2.0])
def test_a_shifted_cloud_is_half_the_squared_shift_away(blur):
    """Exactly so for every blur: the blur's bias is that of the cloud with itself, and is subtracted."""
    x, shift = cloud(0, 1, 20, 3), torch.tensor([0.3, -0.2, 0.1])
    found = sinkhorn_divergence(x, x + shift, blur, cooling=0.95, sweeps=300)
    assert found.item() == pytest.approx(shift.square().sum().item() / 2, rel=1e-3)


def test_its_gradient_is_the_numerical_one():
    x, y = cloud(0, 1, 6, 2), cloud(1, 1, 5, 2)
    x.requires_grad_(True)
    cost = lambda a: sinkhorn_divergence(a, y, 0.5, cooling=0.9, sweeps=2000).sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(cost(x), x)
    nudge = torch.zeros_like(x)
    nudge[0, 2, 1] = 1e-5
    numerical = (cost(x + nudge) - cost(x - nudge)) / 2e-5
    assert gradient[0, 2, 1].item() == pytest.approx(numerical.item(), rel=1e-3)


def test_a_batch_against_itself_in_another_order_teaches_nothing():
    """Which is what the authors' released SSOT loss compares."""
    x = cloud(0, 1, 16, 50).requires_grad_(True)
    divergence = sinkhorn_divergence(x, x[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))])
    divergence.sum().backward()
    assert abs(divergence.item()) < 1e-9 and x.grad.abs().max() < 1e-9


# --- Noise ----------------------------------------------------------------------------------------


def test_simplex_noise_is_bounded_centred_smooth_and_repeatable():
    rng = np.random.default_rng(0)
    permutation, points = rng.permutation(256), rng.uniform(-20, 50, (50_000, 3))
    values = simplex_noise(points, permutation)
    assert np.abs(values).max() <= 1 and values.std() > 0.2 and abs(values.mean()) < 0.02
    for direction in np.eye(3):
        assert np.abs(simplex_noise(points + 1e-6 * direction, permutation) - values).max() < 1e-4
    np.testing.assert_array_equal(values, simplex_noise(points, permutation))
    assert not np.allclose(values, simplex_noise(points, rng.permutation(256)))


def test_octaves_add_finer_and_weaker_noise():
    coarse = octaves((1, 64, 64), np.random.default_rng(0), count=1)
    all_six = octaves((1, 64, 64), np.random.default_rng(0))
    roughness = lambda x: np.diff(x, axis=-1).std() / x.std()  # noqa: E731
    assert roughness(all_six) > 2 * roughness(coarse)
    assert np.abs(all_six).max() <= sum(0.6**i for i in range(6))


def test_noise_covers_one_rectangle_of_the_authors_size():
    images = torch.zeros(20, 3, 256, 256)
    noisy = add_noise(images, 0.2, torch.Generator().manual_seed(0))
    assert not images.any()  # the pictures themselves stay
    for image in noisy:
        changed = image.abs().sum(0) > 0
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert 9 <= height <= 31 and 9 <= width <= 31
        assert changed.sum() > 0.9 * height * width
    again = add_noise(images, 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(noisy, again)


# --- The detector ---------------------------------------------------------------------------------


def test_the_decoder_mirrors_the_teacher():
    detector = RDPP(weights=None, device="cpu")
    levels = detector.extractor(torch.rand(1, 3, 256, 256))
    assert [tuple(x.shape[1:]) for x in levels] == [(64, 64, 64), (128, 32, 32), (256, 16, 16)]
    code = detector.bottleneck([p(x) for p, x in zip(detector.projections, levels, strict=True)])
    assert code.shape == (1, 512, 8, 8)
    assert [x.shape for x in detector.decoder(code)] == [x.shape for x in levels]


def test_only_a_decoder_of_signed_features_can_be_negative():
    channels, levels = (4, 6, 8), [cloud(0, 2, c, s, s).float() for c, s in ((4, 16), (6, 8), (8, 4))]
    code = Bottleneck(channels)(levels)
    assert min(x.min() for x in Decoder(channels, signed=False)(code)) >= 0
    assert min(x.min() for x in Decoder(channels, signed=True)(code)) < 0


def test_projection_losses_by_hand():
    detector = RDPP(**SMALL, margin=0.5)
    one, other = torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2, 2)
    one[:, 0], other[:, 1] = 1, 1  # everywhere (1, 0); everywhere (0, 1): the cosine is 0
    generator = torch.Generator().manual_seed(0)
    losses = lambda *maps: [float(x) for x in detector.projection_losses(*([m] for m in maps), generator)]  # noqa: E731
    assert losses(one, one, one) == pytest.approx([0, 0, 0.5])  # as noisy as before: the contrast objects
    assert losses(one, one, other) == pytest.approx([0, 1, 0])  # not rebuilt, but unlike
    mixed = torch.stack([one[0], other[0]])
    assert losses(one, mixed, mixed)[0] == pytest.approx(1.0, rel=1e-3)  # |(1,0) - (0,1)|^2 / 2
    detector.released = True
    assert losses(one, mixed, mixed)[0] == 0


@pytest.mark.parametrize("attention", [None, "se", "cbam"])
@pytest.mark.parametrize("trained", [False, True])
def test_who_receives_a_gradient(pictures, attention, trained):
    detector = RDPP(**SMALL, attention=attention, train_attention=trained)
    generator = torch.Generator().manual_seed(0)
    state = detector.frozen(torch.from_numpy(pictures[:4]), True, generator)
    detector.train().loss(state, generator).backward()
    gates = {id(p) for p in detector.extractor.attention_parameters()}
    for name, p in detector.named_parameters():
        if name.startswith("extractor"):
            assert (p.grad is not None) == (trained and id(p) in gates), name
        else:
            assert p.grad is not None, name
    stepped = {id(p) for group in detector.make_optimizer().param_groups for p in group["params"]}
    assert stepped == {id(p) for p in detector.trainable()}


def test_three_levels_or_none():
    with pytest.raises(ValueError, match="three levels"):
        RDPP(**SMALL, levels=("stride8", "stride16"))


def test_learns_saves_and_loads(pictures, tmp_path):
    detector = RDPP(**SMALL | {"epochs": 4}, attention="se", seed=1).fit(pictures)
    assert detector.history[-1]["loss"] < detector.history[0]["loss"]
    detector.save(tmp_path / "d")
    again = RDPP.load(tmp_path / "d", device="cpu")
    prediction = detector.predict(pictures)
    assert prediction.maps.shape == (8, 64, 64)
    np.testing.assert_allclose(prediction.scores, prediction.maps.max(axis=(1, 2)))
    np.testing.assert_array_equal(again.predict(pictures).maps, prediction.maps)


def test_interrupted_and_resumed(pictures, tmp_path):
    whole = RDPP(**SMALL).fit(pictures)
    RDPP(**SMALL | {"epochs": 1}).fit(pictures, checkpoint=tmp_path / "c.safetensors")
    resumed = RDPP(**SMALL).fit(pictures, checkpoint=tmp_path / "c.safetensors")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("train_attention", [False, True])
def test_without_projection_losses_no_noise_is_drawn_and_all_else_learns(pictures, train_attention):
    plain = {"projection_weight": 0, "attention": "se", "train_attention": train_attention}
    detector = RDPP(**SMALL | plain)
    assert detector.shown(training=True) == ""
    frozen = detector.precompute(pictures, training=True)
    assert len(frozen.tensors) == len(detector.precompute(pictures).tensors)
    before = [p.clone() for p in detector.extractor.attention_parameters()]
    detector.fit(frozen)
    after = detector.extractor.attention_parameters()
    moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert moved == train_attention and np.isfinite(detector.predict(pictures).maps).all()
