"""Explanations: Grad-CAM against its formula, gates as computed, agreement with known answers."""

import itertools

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from skimage.metrics import structural_similarity
from test_every_method import ARGUMENTS, TEST, TRAIN, made
from tiny import differnet, pictures

from attnad import agreement, explain, plots
from attnad.datasets import load
from attnad.methods import DifferNet

PICTURES = pictures(3, defects=(1,))


def fitted(**changes):
    return differnet(**changes).fit(pictures(10))


def state_of(detector):
    return {
        "parameters": {n: (p.detach().clone(), p.requires_grad) for n, p in detector.named_parameters()},
        "rotations": getattr(detector, "rotations", None),
        "own": "frozen_part" in vars(detector.extractor),
        "hooks": sum(len(m._forward_hooks) for m in detector.modules()),
    }


def same_state(one, other):
    after = other.pop("parameters")
    for name, (value, trained) in one.pop("parameters").items():
        assert torch.equal(value, after[name][0]) and trained == after[name][1], name
    assert one == other


@pytest.mark.parametrize("layer", ["two", "last"])
def test_grad_cam_is_its_formula(layer):
    """By hand: one scale, no rotation, so that the extractor and the flow are a plain function."""
    detector = fitted(scales=1, rotations="none", attention="se", attention_points=["P1"])
    x = torch.from_numpy(PICTURES)
    with torch.no_grad():
        steps, a = detector.extractor.steps(), (x - detector.extractor._mean) / detector.extractor._std
        names = [name for name, _ in steps]
        for _, step in steps[: names.index(layer) + 1]:
            a = step(a)
    a = a.clone().requires_grad_()
    top = a
    for _, step in steps[names.index(layer) + 1 :]:
        top = step(top)
    z, _ = detector.flow(detector.norm(top.mean(dim=(2, 3))))
    (gradient,) = torch.autograd.grad(z.square().mean(dim=1).sum(), a)
    wanted = (gradient.mean(dim=(2, 3), keepdim=True) * a).sum(dim=1).clamp(min=0).detach().numpy()
    got = explain.grad_cam(detector, PICTURES, layer=layer)
    assert got.shape == (3, 32, 32) and got.dtype == np.float32
    np.testing.assert_allclose(got, scale_cam_image(scale_cam_image(wanted, (32, 32))), atol=1e-4)


def test_other_turns_change_nothing_but_a_factor():
    """By hand, from the score of all four views: the upright view's map is that of the upright view alone."""
    detector = fitted(scales=1, test_views=4)
    with torch.no_grad():
        state = detector.frozen(torch.from_numpy(PICTURES), False, torch.Generator())
        a = detector.extractor(torch.from_numpy(PICTURES))[-1]
    assert state[0].shape == (3, 4, 12)
    upright = a.clone().requires_grad_()
    views = torch.cat([upright.mean(dim=(2, 3))[:, None], state[0][:, 1:]], dim=1)
    (gradient,) = torch.autograd.grad(detector.score([views])[0].sum(), upright)
    wanted = (gradient.mean(dim=(2, 3), keepdim=True) * a).sum(dim=1).clamp(min=0).numpy()
    got = explain.grad_cam(detector, PICTURES, layer="last")
    np.testing.assert_allclose(got, scale_cam_image(scale_cam_image(wanted, (32, 32))), atol=1e-3)


def test_before_and_behind_the_gate():
    detector = fitted(attention="cbam", scales=1)
    assert explain.layers(detector) == ["one", "P1", "two", "P2", "last"]
    default = explain.grad_cam(detector, PICTURES)  # not P2, though it has a convolution of its own
    np.testing.assert_array_equal(default, explain.grad_cam(detector, PICTURES, layer="two"))
    assert not np.array_equal(default, explain.grad_cam(detector, PICTURES, layer="P2"))
    with pytest.raises(ValueError, match="one, P1, two, P2, last"):
        explain.grad_cam(detector, PICTURES, layer="conv5")


def test_a_layer_whose_successor_works_in_place():
    """AlexNet's ReLU overwrites what conv 5 said: the map must be made of what it said."""
    detector = made("Mahalanobis")
    alexnet = type(detector)(backbone="alexnet", weights=None, image_size=64, scales=1, rotations="none")
    alexnet.fit(TRAIN)
    features, kept = alexnet.extractor.features, []
    handle = features[10].register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    maps = explain.grad_cam(alexnet, TEST[:2])
    handle.remove()
    assert explain._last_convolution(alexnet.extractor) == "features.10"
    (said,) = kept
    said.requires_grad_()
    score, _ = alexnet.score([features[12](said.relu()).mean(dim=(2, 3))[:, None]])
    (gradient,) = torch.autograd.grad(score.sum(), said)
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * said).sum(dim=1).clamp(min=0).detach().numpy()
    np.testing.assert_allclose(maps, scale_cam_image(scale_cam_image(weighted, (72, 72))), atol=1e-3)


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"EfficientAD"}))
def test_every_detector_with_an_extractor_and_nothing_is_left_behind(name):
    detector = made(name).fit(TRAIN)
    scores, before = detector.predict(TEST).scores, state_of(detector)
    cam, gradients = explain.grad_cam(detector, TEST), explain.gradient_maps(detector, TEST)
    for maps in (cam, gradients):
        assert maps.shape == (6, 72, 72) and np.isfinite(maps).all() and maps.min() >= 0
    assert gradients.max() > 0 and cam.max() <= 1
    same_state(before, state_of(detector))
    np.testing.assert_array_equal(scores, detector.predict(TEST).scores)


def test_gradient_maps_are_derivatives_of_the_score():
    """Nudge the picture along the gradient: the score rises as much as the gradient says."""
    detector = fitted(rotations="none", scales=1)
    x = torch.from_numpy(PICTURES[:1]).requires_grad_()
    with explain._differentiable(detector) as model:
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    step = 1e-3 / gradient.norm() * gradient
    up, down = (detector.predict((x + sign * step).detach()).scores[0] for sign in (1, -1))
    assert up - down == pytest.approx(2e-3 * float(gradient.norm()), rel=0.05)
    unsmoothed = explain.gradient_maps(detector, PICTURES[:1], sigma=0)
    np.testing.assert_allclose(unsmoothed[0], gradient[0].abs().sum(0), rtol=1e-4, atol=1e-7)


def test_gradient_maps_come_back_upright():
    """Seen from all four sides, a picture that lies on its side has the same map lying on its side."""
    detector, turned = fitted(rotations="right"), np.rot90(PICTURES, axes=(2, 3)).copy()
    upright = explain.gradient_maps(detector, PICTURES, views=4)
    there = explain.gradient_maps(detector, turned, views=4)
    np.testing.assert_allclose(np.rot90(upright, axes=(1, 2)), there, rtol=1e-2, atol=1e-4)
    assert not np.allclose(upright, explain.gradient_maps(detector, PICTURES, views=1), rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("se", ["channel"]), ("eca", ["channel"]), ("cbam", ["channel", "position"]),
        ("shuffled_cbam", ["channel", "position"]),
    ],
)  # fmt: skip
def test_attention_maps_are_the_gates(name, kinds):
    detector = differnet(attention=name)
    gates = explain.attention_maps(detector, PICTURES[0])
    assert list(gates) == [f"{point} {kind}" for point in ("P1", "P2") for kind in kinds]
    shapes = {"P1 channel": (8,), "P2 channel": (12,), "P1 position": (16, 16), "P2 position": (8, 8)}
    for key, values in gates.items():
        assert values.min() >= 0 and values.max() <= 1 and values.shape == shapes[key]
    if name == "se":
        with torch.no_grad():
            x = torch.from_numpy(PICTURES[:1])
            x = detector.extractor.one((x - detector.extractor._mean) / detector.extractor._std)
            wanted = detector.extractor.gates["P1"].gate(x)
        np.testing.assert_allclose(gates["P1 channel"], wanted[0, :, 0, 0], rtol=1e-5)


def test_attention_maps_of_blocks_inside_a_stage():
    detector = made("FastFlow").__class__(
        backbone="resnet18", weights=None, image_size=64, attention="se", steps=1, device="cpu"
    )
    names = list(explain.attention_maps(detector, PICTURES[0]))
    assert names == [f"layer{stage}.{block} channel" for stage in (1, 2, 3) for block in (0, 1)]


def test_refusals():
    efficient = made("EfficientAD")
    for ask in (explain.grad_cam, explain.gradient_maps, explain.attention_maps):
        with pytest.raises(TypeError, match="EfficientAD has no pretrained feature extractor"):
            ask(efficient, PICTURES[0] if ask is explain.attention_maps else PICTURES)
    with pytest.raises(ValueError, match="no gates"):
        explain.attention_maps(differnet(), PICTURES[0])
    with pytest.raises(ValueError, match="at least one"):
        explain.grad_cam(differnet(), PICTURES[:0])

    class Stuck(DifferNet):
        def score(self, state):
            return super().score(state)[0].detach(), None

    stuck = Stuck(backbone="tiny", weights=None, image_size=32, scales=1, hidden=8, steps=1, device="cpu")
    with pytest.raises(ValueError, match="Stuck cannot be differentiated"):
        explain.grad_cam(stuck, PICTURES)


def test_agreement_has_the_known_answers():
    mask = np.zeros((3, 8, 8), bool)
    mask[:, :2] = True  # a quarter
    maps = np.stack([mask[0] * 3.0, ~mask[0] * 1.0, np.zeros((8, 8))])
    got = agreement.agreement(maps, mask)
    np.testing.assert_allclose(got["chance"], 0.25)
    np.testing.assert_allclose(got["energy"], [1, 0, 0.25])
    np.testing.assert_allclose(got["pointing"], [1, 0, 0.25])
    assert got["overlap"][0] == 1 and got["overlap"][1] == pytest.approx(0.25) and got["overlap"][2] == 0.25


def test_a_random_map_gets_what_chance_says():
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 16, 16), bool)
    mask[:, 3:8, 2:12] = True
    got = agreement.agreement(rng.random(mask.shape), mask)
    assert abs(got["energy"].mean() - got["chance"][0]) < 0.01
    assert abs(got["pointing"].mean() - got["chance"][0]) < 0.1
    assert abs(got["overlap"].mean() - got["chance"][0]) < 0.03  # a little above: 256 pixels are few


def test_agreement_refuses():
    mask = np.zeros((1, 4, 4), bool)
    with pytest.raises(ValueError, match="empty or full"):
        agreement.agreement(np.ones((1, 4, 4)), mask)
    mask[0, 0] = True
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        agreement.agreement(np.ones((4, 4)), mask)
    with pytest.raises(ValueError, match="at least 0"):
        agreement.agreement(-np.ones((1, 4, 4)), mask)


def test_agreement_on_generated_pictures_with_their_masks():
    sample = load("powerline", "yoke_suspension", "test", size=64, test_count=2)[-1]
    got = agreement.agreement(sample.mask.astype(float), sample.object_mask)
    assert got["energy"][0] > 0.8 > 0.6 > got["chance"][0]  # the defect lies on the object


def test_cascade_goes_from_the_top_down_and_leaves_the_detector_alone():
    detector = fitted(attention="se")
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    changed, names = [], []
    for name, copy in agreement.cascade(detector):
        names.append(name)
        changed.append({k for k, tensor in copy.state_dict().items() if not torch.equal(tensor, before[k])})
        for key, tensor in copy.named_parameters():
            torch.testing.assert_close(tensor.flatten().sort().values, before[key].flatten().sort().values)
    assert names == ["head", "P2", "two", "P1", "one"]  # the pooling has nothing to make random
    assert all(a < b for a, b in itertools.pairwise(changed))
    assert not any(key.startswith("extractor") for key in changed[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    again = [c.predict(PICTURES).scores for _, c in agreement.cascade(detector)]
    np.testing.assert_array_equal(again, [c.predict(PICTURES).scores for _, c in agreement.cascade(detector)])


def test_similarity():
    rng = np.random.default_rng(0)
    one, other = rng.random((24, 32)), rng.random((24, 32))
    assert agreement.similarity(one, 5 * one + 2) == pytest.approx({"spearman": 1, "ssim": 1})
    assert abs(agreement.similarity(one, other)["spearman"]) < 0.2
    assert agreement.similarity(one, np.ones((24, 32)))["spearman"] == 0
    maps = [(map_ - map_.min()) / np.ptp(map_) for map_ in (one, one + other)]
    wanted = structural_similarity(
        *maps, data_range=1, gaussian_weights=True, use_sample_covariance=False, full=True
    )[1].mean()
    assert agreement.similarity(one, one + other)["ssim"] == pytest.approx(wanted, abs=1e-6)


def test_gates_fit_into_the_figure():
    """A gate by position covers the whole picture, though it is coarser; one by channel becomes bars."""
    gates = explain.attention_maps(differnet(attention="cbam"), PICTURES[0])
    shown = {name: [gates[name]] for name in ("P2 position", "P2 channel")}
    _, position, channel = plots.side_by_side({"a": PICTURES[0]}, shown).axes
    assert gates["P2 position"].shape == (8, 8)
    assert [image.get_extent() for image in position.images] == [[-0.5, 31.5, 31.5, -0.5]] * 2
    np.testing.assert_allclose([bar.get_height() for bar in channel.patches], gates["P2 channel"])
    assert channel.get_ylim() == (0, 1)
