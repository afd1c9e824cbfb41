"""RD++: optimal transport against what is known of it, noise, the losses by hand, who learns from them."""

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from attnad.methods import RDPP, rdpp
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


def test_as_rdpp_uses_it_it_is_nearly_converged():
    x, y = (F.normalize(cloud(seed, 4, 128, 24) + shift, dim=2) for seed, shift in ((0, 0), (1, 0.3)))
    converged = sinkhorn_divergence(x, y, blur=0.05, cooling=0.9, sweeps=300)
    assert (sinkhorn_divergence(x, y) / converged - 1).abs().mean() < 0.003  # sharper cooling: 0.005


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


def test_octaves_by_hand():
    rng = np.random.default_rng(0)
    permutation = copy.deepcopy(rng).permutation(256)
    grid = np.stack(np.meshgrid(range(3), range(20), range(15), indexing="ij"), axis=-1)
    layers = [0.6**i * simplex_noise(grid * 2**i / 32, permutation) for i in range(6)]
    np.testing.assert_allclose(octaves((3, 20, 15), rng), sum(layers), atol=1e-12)


def test_the_noise_is_a_fifth_of_six_octaves(monkeypatch):
    made = []

    def spy(shape, rng, *more, **named):
        made.append(octaves(shape, copy.deepcopy(rng)))  # at their defaults, whatever was asked for
        return octaves(shape, rng, *more, **named)

    monkeypatch.setattr(rdpp, "octaves", spy)
    noisy = add_noise(torch.zeros(2, 3, 128, 128), 0.2, torch.Generator().manual_seed(0)).double()
    for image, expected in zip(noisy, made, strict=True):
        top, left = (x.nonzero().min() for x in (image[0].any(1), image[0].any(0)))
        _, height, width = expected.shape
        patch = image[:, top : top + height, left : left + width]
        np.testing.assert_allclose(patch, 0.2 * expected, atol=1e-6)


def test_rectangles_have_sides_of_10_to_31_pixels(monkeypatch):
    monkeypatch.setattr(rdpp, "octaves", lambda shape, rng: np.ones(shape))
    sides = set()
    for seed in range(300):
        noisy = add_noise(torch.zeros(1, 3, 256, 40), 0.2, torch.Generator().manual_seed(seed))
        sides.add(int(noisy[0, 0].any(1).sum()))
    assert sides == set(range(10, 32))


def test_in_training_the_same_pictures_come_again_with_noise_on_them(pictures):
    detector, images = RDPP(**SMALL), torch.from_numpy(pictures[:2])
    state = detector.frozen(images, True, torch.Generator().manual_seed(0))
    noisy = add_noise(images, 0.2, torch.Generator().manual_seed(0))
    for found, expected in zip(state, [*detector.extractor(images), *detector.extractor(noisy)], strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(detector.frozen(images, False, torch.Generator()), state[:3], strict=True):
        torch.testing.assert_close(found, expected)


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


def test_published_defaults():
    expected = {
        "backbone": "resnet18", "weights": "imagenet", "attention": None, "train_attention": False,
        "image_size": 256, "projection_weight": 0.2, "blur": 0.05, "margin": 0.5, "noise": 0.2, "sigma": 4.0,
        "epochs": 100, "batch_size": 16, "lr_projection": 1e-3, "lr": 5e-3,
    }  # fmt: skip
    parameters = inspect.signature(RDPP).parameters
    assert {name: parameters[name].default for name in expected} == expected
    assert RDPP.default_levels["resnet18"] == ("layer1", "layer2", "layer3")


def test_published_optimizer():
    detector = RDPP(**SMALL)
    optimizer = detector.make_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-3]
    assert all(g["betas"] == (0.5, 0.999) and g["weight_decay"] == 0 for g in optimizer.param_groups)
    slower = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert slower == {id(p) for p in detector.projections.parameters()}


def test_loss_by_hand(pictures):
    # At this margin the contrast has something to say. All positions and a batch of two: nothing is drawn.
    detector = RDPP(**SMALL | {"points": 10_000}, margin=-1.0).train()
    generator = torch.Generator().manual_seed(0)
    state = detector.frozen(torch.from_numpy(pictures[:2]), True, generator)
    clean, noisy = state[:3], state[3:]
    projected, denoised = ([p(x) for p, x in zip(detector.projections, xs)] for xs in (clean, noisy))
    rebuilt = detector.decoder(detector.bottleneck(projected))
    flat = [[x.flatten(1) for x in xs] for xs in (clean, rebuilt, noisy, projected)]
    distill = sum((1 - torch.cosine_similarity(a, b, dim=1)).mean() for a, b in zip(*flat[:2]))
    contrast = sum((torch.cosine_similarity(a, b, dim=1) + 1).mean() for a, b in zip(*flat[2:]))
    pairs = zip(denoised, projected)
    reconstruct = sum((1 - torch.cosine_similarity(a, b, dim=1)).mean() for a, b in pairs)
    transport = 0
    for x in projected:
        directions = F.normalize(x.flatten(2).transpose(1, 2), dim=2)  # (2, h * w, C)
        transport = transport + sinkhorn_divergence(directions, directions.flip(0), 0.05).mean()
    expected = distill + 0.2 * (transport + 0.01 * reconstruct + 0.1 * contrast) / 1.11
    found = detector.loss(state, generator)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=0)
    weights = [detector.projections[0][0].weight, detector.decoder.stages[0][1].residual[0][0].weight]
    for a, b in zip(*(torch.autograd.grad(x, weights, retain_graph=True) for x in (found, expected))):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    detector.released = True  # in which the transport loss is always zero
    expected = expected - 0.2 * transport / 1.11
    torch.testing.assert_close(detector.loss(state, generator), expected, rtol=2e-5, atol=0)


def test_map_is_the_sum_over_all_levels(pictures):
    detector = RDPP(**SMALL).eval()
    with torch.no_grad():
        state = detector.frozen(torch.from_numpy(pictures[:2]), False, torch.Generator())
        projected = [p(x) for p, x in zip(detector.projections, state, strict=True)]
        rebuilt = detector.decoder(detector.bottleneck(projected))
        score, maps = detector.score(state)
    total = 0
    for a, b in zip(state, rebuilt, strict=True):
        unlike = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        assert unlike.std() > 0.01  # each level has a say
        total = total + F.interpolate(unlike[:, None], (64, 64), mode="bilinear", align_corners=True)[:, 0]
    expected = gaussian_filter(total.numpy(), (0, 4, 4))
    np.testing.assert_allclose(maps, expected, rtol=1e-4)
    np.testing.assert_allclose(score, expected.max((1, 2)), rtol=1e-4)


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
    assert losses(one, one, one)[1:] == pytest.approx([0, 0.5])  # the other two stay


@pytest.mark.parametrize(
    ("backbone", "attention", "trained"),
    [
        *(
            ("efficientnet_lite0", a, t)
            for a in (None, "se", "cbam", "eca", "shuffle")
            for t in (False, True)
        ),
        *(("resnet18", a, True) for a in ("se", "cbam", "eca", "shuffle")),  # inside of residual branches
        ("resnet18", "se", False),
    ],
)
def test_who_receives_a_gradient(pictures, backbone, attention, trained):
    arguments = {"backbone": backbone, "attention": attention, "train_attention": trained}
    detector = RDPP(**SMALL | arguments, seed=1)  # at others the one hidden unit of a small SE block is dead
    generator = torch.Generator().manual_seed(0)
    state = detector.frozen(torch.from_numpy(pictures[:2]), True, generator)
    detector.train().loss(state, generator).backward()
    for name, block in detector.extractor.blocks_in_order():
        assert any(p.grad is not None and p.grad.any() for p in block.parameters()) == trained, name
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
