"""SimpleNet: its published sizes and defaults, its loss and map by hand, who learns from it, files."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from attnad.methods import SimpleNet
from attnad.methods.simplenet import Optimizers, patch_embedding, truncated_l1

SMALL = {
    "backbone": "efficientnet_lite0", "weights": None, "image_size": 64, "dim": 24, "hidden": 16,
    "batch_size": 4, "epochs": 2, "cache": True, "device": "cpu",
}  # fmt: skip


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)


def test_published_sizes():
    plain = SimpleNet(weights=None, device="cpu")
    assert count(plain.discriminator) == 1_576_960  # the paper's 1.58 M
    assert count(plain.adaptor) == 2_360_832  # which that figure leaves out
    gated = SimpleNet(weights=None, attention="se", device="cpu")
    assert count(gated.extractor) - count(plain.extractor) == 21_504


def test_published_defaults():
    expected = {
        "backbone": "resnet18", "weights": "imagenet", "attention": None, "train_attention": False,
        "image_size": 288, "patch": 3, "dim": 1536, "hidden": 1024, "noise": 0.015, "relative_noise": False,
        "margin": 0.5, "sigma": 4.0, "epochs": 160, "batch_size": 8, "lr_adaptor": 1e-4, "lr": 2e-4,
        "weight_decay": 1e-5,
    }  # fmt: skip
    parameters = inspect.signature(SimpleNet).parameters
    assert {name: parameters[name].default for name in expected} == expected
    assert SimpleNet.default_levels["resnet18"] == ("layer2", "layer3")


def test_published_optimizers():
    detector = SimpleNet(**SMALL)
    adaptor, discriminator = detector.make_optimizer().parts
    assert type(adaptor) is torch.optim.AdamW and type(discriminator) is torch.optim.Adam
    for optimizer, module, lr, decay in (
        (adaptor, detector.adaptor, 1e-4, 0.01),
        (discriminator, detector.discriminator, 2e-4, 1e-5),
    ):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"], group["betas"]) == (lr, decay, (0.9, 0.999))
        assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]


@pytest.fixture
def shown_to_discriminator():
    """A detector, and the list of what its discriminator was given."""
    detector, inputs = SimpleNet(**SMALL), []
    detector.discriminator.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    return detector, inputs


def test_fake_features_are_real_ones_with_gaussian_noise(shown_to_discriminator):
    detector, inputs = shown_to_discriminator
    embedding = torch.randn(4, 8, 8, 24, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        detector.loss([embedding], generator)
    (real, fake), (_, other) = (x.chunk(2) for x in inputs)
    torch.testing.assert_close(real, detector.adaptor(embedding.flatten(0, 2)).detach())
    noise = (fake - real) / 0.015
    assert noise.std().item() == pytest.approx(1, abs=0.03) and abs(noise.mean()) < 0.05
    assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.02)  # a Gaussian's share
    assert (noise.std(0) > 0.8).all() and (noise.std(1) > 0.3).all()  # of its own in each number
    assert not torch.equal(fake, other)  # and in each step


@pytest.mark.parametrize("trained", [False, True])
def test_relative_noise_is_as_strong_for_small_features_as_for_large_ones(pictures, trained):
    class Scaled(torch.nn.Module):  # a block that scales, and may learn
        def __init__(self, scale):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(scale))

        def forward(self, x):
            return self.scale * x

    strengths = []
    for scale in (1.0, 0.25):
        detector = SimpleNet(
            **SMALL | {"epochs": 1, "noise": 0.5, "relative_noise": True, "levels": ["stride16"]},
            attention=lambda channels, scale=scale: Scaled(scale),
            attention_points=["stride16"], train_attention=trained,
        )  # fmt: skip
        frozen = detector.precompute(pictures, training=True)
        adapted = detector.adaptor(detector.embed(frozen.tensors).flatten(0, 2)).detach()
        expected = 0.5 * adapted.var(0).mean().sqrt()
        detector.fit(frozen)  # which moves the adaptor: what was measured before stays
        torch.testing.assert_close(detector.noise_std, expected, rtol=1e-4, atol=0)
        inputs = []
        detector.discriminator.register_forward_pre_hook(
            lambda module, args, inputs=inputs: inputs.append(args[0])
        )
        detector.loss(frozen.tensors, torch.Generator().manual_seed(0))
        real, fake = inputs[0].chunk(2)
        torch.testing.assert_close((fake - real).std(), expected, rtol=0.02, atol=0)
        strengths.append(float(expected))
    assert strengths[1] < 0.5 * strengths[0]


def test_relative_noise_needs_the_features_beforehand(pictures):
    with pytest.raises(ValueError, match="cache=True"):
        SimpleNet(**SMALL | {"relative_noise": True, "cache": False}).fit(pictures)


def test_loss_by_hand(shown_to_discriminator):
    detector, inputs = shown_to_discriminator
    embedding = 5 * torch.randn(4, 8, 8, 24, generator=torch.Generator().manual_seed(1))
    found = detector.train().loss([embedding], torch.Generator().manual_seed(0))
    first, norm, _, last = detector.discriminator
    real, fake = inputs[0].chunk(2)
    adapted = detector.adaptor(embedding.flatten(0, 2))
    x = torch.cat([adapted, adapted + (fake - real)]) @ first.weight.T + first.bias
    x = norm.weight * (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() + norm.bias
    x = torch.where(x > 0, x, 0.2 * x) @ last.weight.T
    real, fake = x[:256], x[256:]
    expected = (0.5 - real).clamp(min=0).mean() + (0.5 + fake).clamp(min=0).mean()
    assert (real > 0.5).any() and (fake < -0.5).any()  # beyond the margin: where the truncation tells
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(loss, detector.adaptor.weight)[0] for loss in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_map_by_hand(pictures):
    detector = SimpleNet(**SMALL).eval()
    with torch.no_grad():
        levels = detector.extractor(torch.from_numpy(pictures[:2]))
        score, maps = detector.score(
            detector.frozen(torch.from_numpy(pictures[:2]), False, torch.Generator())
        )
        vectors = patch_embedding(levels, 3, 24)
        grid = -detector.discriminator(detector.adaptor(vectors.reshape(128, 24))).view(2, 1, 8, 8)
    enlarged = F.interpolate(grid, (64, 64), mode="bilinear")[:, 0].numpy()
    expected = gaussian_filter(enlarged, (0, 4, 4))
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(score, grid.amax((1, 2, 3)))


def test_truncated_l1_by_hand():
    real, fake = torch.tensor([0.7, 0.2, -1.0]), torch.tensor([-0.6, 0.1])
    expected = (0 + 0.3 + 1.5) / 3 + (0 + 0.6) / 2
    assert truncated_l1(real, fake, 0.5).item() == pytest.approx(expected)


def test_patch_embedding_by_hand():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    described = patch_embedding([fine], patch=3, dim=9)
    assert described.shape == (1, 4, 4, 9)
    assert described[0, 1, 1].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]  # the neighbourhood, row by row
    coarse = torch.full((1, 1, 2, 2), 7.0)
    both = patch_embedding([fine, coarse], patch=1, dim=2)
    # Each level alone fills both numbers, and the pooling of four numbers to two keeps the levels apart.
    assert both[0, :, :, 0].tolist() == fine[0, 0].tolist() and (both[..., 1] == 7).all()


def test_patch_embedding_is_what_the_authors_compute():
    """They enlarge the unfolded patches first and pool later: linear along different axes, so the same."""
    generator = torch.Generator().manual_seed(0)
    fine, coarse = torch.randn(2, 5, 6, 6, generator=generator), torch.randn(2, 7, 3, 3, generator=generator)
    pooled = []
    for x in (fine, coarse):
        patches = torch.nn.functional.unfold(x, 3, padding=1).unflatten(2, x.shape[-2:])  # (B, 9C, h, w)
        patches = torch.nn.functional.interpolate(patches, (6, 6), mode="bilinear")
        flat = patches.permute(0, 2, 3, 1).reshape(72, 1, -1)
        pooled.append(torch.nn.functional.adaptive_avg_pool1d(flat, 20)[:, 0])
    stacked = torch.stack(pooled, dim=1).reshape(72, 1, -1)
    expected = torch.nn.functional.adaptive_avg_pool1d(stacked, 20).view(2, 6, 6, 20)
    torch.testing.assert_close(patch_embedding([fine, coarse], 3, 20), expected)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])  # behind stages; inside of branches
@pytest.mark.parametrize("attention", [None, "se", "cbam", "eca", "shuffle"])
@pytest.mark.parametrize("trained", [False, True])
def test_who_receives_a_gradient(pictures, backbone, attention, trained):
    arguments = {"backbone": backbone, "attention": attention, "train_attention": trained}
    detector = SimpleNet(
        **SMALL | arguments, seed=1
    )  # at others the one hidden unit of a small SE block is dead
    generator = torch.Generator().manual_seed(0)
    state = detector.frozen(torch.from_numpy(pictures[:4]), True, generator)
    detector.train().loss(state, generator).backward()
    for name, block in detector.extractor.blocks_in_order():
        assert any(p.grad is not None and p.grad.any() for p in block.parameters()) == trained, name
    reached = {name for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()}
    gates = {id(p) for p in detector.extractor.attention_parameters()}
    for name, p in detector.named_parameters():
        if name.startswith(("adaptor", "discriminator.0", "discriminator.3")):
            assert name in reached
        elif name.startswith("extractor"):
            assert (p.grad is not None) == (trained and id(p) in gates), name
    assert detector.gates == (None if attention is None else "joint" if trained else "untrained")
    stepped = {id(p) for group in detector.make_optimizer().param_groups for p in group["params"]}
    assert stepped == {id(p) for p in detector.trainable()}


def test_learns_to_find_a_faint_square_where_it_is():
    rng = np.random.default_rng(1)
    train = (0.5 + 0.02 * rng.standard_normal((24, 3, 64, 64))).astype(np.float32)
    test = train[:4].copy()
    test[2:, :, 8:24, 40:56] += 0.1
    arguments = SMALL | {"weights": "imagenet", "sigma": 2.0, "noise": 1.0, "lr": 1e-2}
    untrained = SimpleNet(**arguments | {"epochs": 0}).fit(train).predict(test)
    assert untrained.scores[2:].min() < untrained.scores[:2].max()  # it takes training to see it
    trained = SimpleNet(**arguments | {"epochs": 8}).fit(train)
    assert trained.history[0]["loss"] > 0.7
    assert trained.history[-1]["loss"] < 0.3  # well below twice the margin, where nothing is told apart
    prediction = trained.predict(test)
    assert prediction.maps.shape == (4, 64, 64)
    assert prediction.scores[2:].min() > prediction.scores[:2].max()
    row, column = np.unravel_index(prediction.maps[2].argmax(), (64, 64))
    assert row < 32 and column > 32


def test_saved_and_loaded(pictures, tmp_path):
    relative = {"relative_noise": True, "noise": 0.35}
    detector = SimpleNet(**SMALL, **relative, attention="cbam", seed=3).fit(pictures)
    detector.save(tmp_path / "d")
    again = SimpleNet.load(tmp_path / "d", device="cpu")
    np.testing.assert_array_equal(again.predict(pictures).maps, detector.predict(pictures).maps)
    assert again.noise_std == detector.noise_std != 0.35


@pytest.mark.parametrize("relative", [False, True])
def test_interrupted_and_resumed(pictures, tmp_path, relative):
    arguments = SMALL | {"relative_noise": relative}
    whole = SimpleNet(**arguments | {"epochs": 3}).fit(pictures)
    SimpleNet(**arguments | {"epochs": 1}).fit(pictures, checkpoint=tmp_path / "c.safetensors")
    resumed = SimpleNet(**arguments | {"epochs": 3}).fit(pictures, checkpoint=tmp_path / "c.safetensors")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_two_optimizers_step_like_themselves():
    def pair():
        a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
        return a, b, torch.optim.AdamW([a], lr=0.1), torch.optim.Adam([b], lr=0.2, weight_decay=0.5)

    a, b, first, second = pair()
    both = Optimizers(first, second)
    c, d, *alone = pair()
    for _ in range(3):
        both.zero_grad()
        (a.square().sum() + b.square().sum()).backward()
        both.step()
        for optimizer in alone:
            optimizer.zero_grad()
        (c.square().sum() + d.square().sum()).backward()
        for optimizer in alone:
            optimizer.step()
    assert torch.equal(a, c) and torch.equal(b, d)
