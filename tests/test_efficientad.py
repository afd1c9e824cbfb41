"""EfficientAD: published sizes and defaults, loss and maps by hand, who learns from what, files."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from attnad.methods import EfficientAD
from attnad.methods.efficientad import _DroppingAdam, hard_mean, normalised, recolour
from attnad.methods.penalty import penalty_crops
from attnad.pdn import PDN, Autoencoder, load_teacher
from attnad.weights import WeightsUnavailable

SMALL = {
    "teacher": None, "image_size": 64, "width": 0.25, "penalty": None, "steps": 4, "batch_size": 2,
    "cache": True, "device": "cpu",
}  # fmt: skip


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0).random((5, 3, 64, 64), dtype=np.float32)
    return noise * np.linspace(0.4, 1, 5, dtype=np.float32)[:, None, None, None]  # no two of them alike


@pytest.fixture(scope="module")
def fitted(pictures):
    return EfficientAD(**SMALL | {"attention": "se", "penalty": pictures}).fit(pictures)


@pytest.fixture(scope="module")
def unequal():
    """Its teacher's channels have moments, and its two maps limits, that nothing is indifferent to."""
    detector = EfficientAD(**SMALL).eval()  # without the autoencoder's drop-out
    generator = torch.Generator().manual_seed(1)
    detector.mean = 0.1 * torch.randn(1, 384, 1, 1, generator=generator)
    detector.std = 0.05 + 0.1 * torch.rand(1, 384, 1, 1, generator=generator)
    detector.limits = torch.tensor([[0.5, 1.5], [0.01, 0.04]])
    detector.student.conv4.weight.data *= 30  # untrained, both say next to nothing, whatever they see
    for weight in (p.data for p in detector.autoencoder.parameters() if p.ndim == 4):
        weight *= 2.4
    return detector


def test_published_defaults():
    expected = {
        "teacher": "distilled", "size": "S", "attention": None, "image_size": 256, "margin": 0, "width": 1.0,
        "hard": 0.999, "penalty": "free", "held_out": 0.1, "quantiles": (0.9, 0.995), "steps": 70_000,
        "batch_size": 1, "lr": 1e-4, "weight_decay": 1e-5,
    }  # fmt: skip
    parameters = inspect.signature(EfficientAD).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_with_a_margin_the_map_reaches_the_edge_and_a_narrow_student_is_narrow(pictures):
    pictures = pictures[:2]
    bare, filled = (EfficientAD(**SMALL | {"steps": 1}, margin=margin) for margin in (0, 16))
    rim = bare.fit(pictures).predict(pictures).maps[:, :8]  # of 16 px, without upsampling's reach
    assert (rim == 0).all()
    assert (filled.fit(pictures).predict(pictures).maps[:, 0] != 0).all()
    assert filled.student.conv1.out_channels == 32 and filled.student.conv4.out_channels == 768
    assert filled.teacher.conv1.out_channels == 128
    with pytest.raises(ValueError, match="margin"):
        EfficientAD(**SMALL, margin=8)


def test_outputs_that_are_not_asked_for_are_left_out():
    student, picture = PDN("S", 768), torch.rand(1, 3, 48, 48)
    assert torch.allclose(student(picture)[:, 384:], student(picture, slice(384, None)), atol=1e-6)


def test_published_sizes():
    student, autoencoder = PDN("S", 768), Autoencoder(256)
    assert count(PDN("S")) == 2_694_144
    assert count(student) == 4_267_392
    assert count(autoencoder) == 1_096_320
    assert count(student) + count(autoencoder) == 5_363_712  # the paper's 5.36 M
    assert count(PDN("S", 768, "se")) - count(student) == 18_432  # 5.38 M with attention, as in the paper
    assert sum(p.numel() for p in PDN("S", 768, "se").attention_parameters()) == 18_432


@pytest.mark.parametrize("side", [64, 128, 256])
def test_autoencoder_and_teacher_agree_on_the_grid(side):
    picture = torch.rand(1, 3, side, side)
    expected = (1, 384, side // 4 - 8, side // 4 - 8)
    assert PDN("S")(picture).shape == Autoencoder(side)(picture).shape == expected


def test_medium_has_the_same_grid_and_learns(pictures):
    assert PDN("M")(torch.rand(1, 3, 64, 64)).shape == (1, 384, 8, 8)
    medium = EfficientAD(**SMALL | {"size": "M", "steps": 1}).fit(pictures[:2])
    assert count(medium.teacher) == count(PDN("M"))
    assert count(medium.student) == count(PDN("M", 768, width=0.25))
    assert np.isfinite(medium.predict(pictures[:2]).maps).all()


def test_a_description_knows_its_33_pixels_and_no_others():
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    PDN("S")(picture)[0, :, 2, 5].sum().backward()
    rows, columns = picture.grad[0].abs().sum(0).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 40, 20, 52)


def test_hard_mean_by_hand_and_as_the_authors_write_it():
    assert hard_mean(torch.arange(11.0), 0.8) == pytest.approx((8 + 9 + 10) / 3)
    error = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for hard in (0.0, 0.5, 0.99, 0.999):
        expected = error[error >= torch.quantile(error, hard)].mean()
        assert hard_mean(error, hard) == pytest.approx(expected.item())


def test_normalised_by_hand():
    maps = torch.tensor([[[1.0, 3.0, 5.0]]])
    found = normalised(maps, torch.tensor(1.0), torch.tensor(3.0))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.1, 0.2]]]))


def test_held_out_maps_set_the_scale(fitted):
    back = fitted.precompute(np.random.default_rng(0).random((5, 3, 64, 64), dtype=np.float32))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a tenth of five pictures is one of them
        maps = fitted.raw_maps([tensor[order[:1]] for tensor in back.tensors])
    for values, limit in zip(maps, fitted.limits, strict=True):
        expected = torch.quantile(values, torch.tensor([0.9, 0.995]))
        torch.testing.assert_close(limit, expected, rtol=1e-4, atol=1e-6)


def test_of_the_pictures_held_out_the_teachers_moments_know_nothing(fitted, pictures):
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = fitted.teacher(torch.from_numpy(pictures)[order[1:]])
    torch.testing.assert_close(fitted.mean, told.mean((0, 2, 3), keepdim=True), rtol=1e-3, atol=1e-5)
    std = told.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(fitted.std, std, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["nothing", "tensor", "folder"])
def test_the_loss_is_the_sum_of_its_terms(unequal, pictures, tmp_path, kind):
    # A grey picture of twice the size: whatever is drawn, its middle is what the student sees of it.
    grey = np.random.default_rng(2).integers(0, 256, (128, 128), dtype=np.uint8)
    others = torch.from_numpy(grey / np.float32(255)).expand(1, 3, -1, -1)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "grey.png")
    arguments = {"nothing": None, "tensor": others, "folder": tmp_path}
    detector = EfficientAD(**SMALL | {"penalty": arguments[kind]}).eval()
    detector.load_state_dict(unequal.state_dict())

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        state = detector.frozen(torch.from_numpy(pictures[:2]), True, generator)
        images, _, changed, _ = state
        teacher, teacher_changed = (
            (detector.teacher(x) - unequal.mean) / unequal.std for x in (images, changed)
        )
    error = (detector.student(images)[:, :384] - teacher) ** 2
    rebuilt = detector.autoencoder(changed)
    expected = error[error >= torch.quantile(error, 0.999)].mean()
    expected = expected + ((rebuilt - teacher_changed) ** 2).mean()
    expected = expected + ((rebuilt - detector.student(changed)[:, 384:]) ** 2).mean()
    if kind != "nothing":
        unlike = (detector.student(others[:, :, 32:96, 32:96])[:, :384] ** 2).mean()
        assert unlike > 0.001 * expected  # or it would not be missed
        expected = expected + unlike
    found = detector.loss(state, generator)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    weights = [detector.student.conv1.weight, detector.autoencoder[-1].weight]
    for a, b in zip(*(torch.autograd.grad(x, weights) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_drop_out_follows_the_generator(pictures):
    detector = EfficientAD(**SMALL).train()
    with torch.no_grad():
        state = detector.frozen(torch.from_numpy(pictures[:1]), True, torch.Generator().manual_seed(0))
        one, same, other = (detector.loss(state, torch.Generator().manual_seed(i)) for i in (0, 0, 1))
    assert one == same != other


def test_the_map_is_half_of_each_kind_of_difference(unequal, pictures):
    images = torch.from_numpy(pictures[:2])
    with torch.no_grad():
        score, maps = unequal.score(unequal.frozen(images, False, torch.Generator()))
        teacher = (unequal.teacher(images) - unequal.mean) / unequal.std
        student, rebuilt = unequal.student(images), unequal.autoencoder(images)
    patches = ((student[:, :384] - teacher) ** 2).mean(1)
    rules = ((student[:, 384:] - rebuilt) ** 2).mean(1)
    halves = 0.5 * 0.1 * (patches - 0.5) / (1.5 - 0.5) + 0.5 * 0.1 * (rules - 0.01) / (0.04 - 0.01)
    padded = F.pad(halves[:, None], (4, 4, 4, 4))
    expected = F.interpolate(padded, (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(score, expected.amax((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [None, "se", "cbam", "eca", "shuffle"])
def test_who_receives_a_gradient(pictures, attention):
    detector = EfficientAD(**SMALL, attention=attention)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # Shuffle Attention starts with weights of zero, behind which no gradient arrives
        for p in detector.student.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    state = detector.frozen(torch.from_numpy(pictures[:2]), True, generator)
    detector.train().loss(state, generator).backward()
    for name, p in detector.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == name.startswith(("student", "autoencoder")), (
            name
        )


def test_the_halves_of_the_student_answer_to_different_teachers(pictures):
    detector = EfficientAD(**SMALL)
    images = torch.from_numpy(pictures[:1])
    error = (detector.student(images)[:, :384] - detector.teacher(images)).square()
    hard_mean(error, 0.999).backward()
    assert all(p.grad is None for p in detector.autoencoder.parameters())
    last = detector.student.conv4.weight.grad
    assert last[:384].any() and not last[384:].any()  # the other half answers to the autoencoder only


def test_published_optimizer_over_student_and_autoencoder():
    detector = EfficientAD(**SMALL, attention="se")
    optimizer = detector.make_optimizer()
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.Adam) and not group["decoupled_weight_decay"]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 1e-5, (0.9, 0.999))
    learners = [*detector.student.parameters(), *detector.autoencoder.parameters()]
    assert {id(p) for p in group["params"]} == {id(p) for p in learners}


def test_the_loss_falls(pictures):
    history = EfficientAD(**SMALL | {"batch_size": 4, "lr": 1e-3}).fit(pictures).history
    assert len(history) == 4 and history[-1]["loss"] < 0.95 * history[0]["loss"]


def test_of_100_steps_the_last_5_are_smaller(pictures, monkeypatch):
    detector = EfficientAD(**SMALL | {"steps": 100, "batch_size": 1})
    optimizer, rates = detector.make_optimizer, []

    def watched():
        made = optimizer()
        step = made.step
        made.step = lambda: (step(), rates.append(made.param_groups[0]["lr"]))
        return made

    # Only the steps matter: one in each epoch, for one of the two pictures is held out.
    monkeypatch.setattr(detector, "make_optimizer", watched)
    monkeypatch.setattr(detector, "loss", lambda state, generator: detector.student.conv1.weight.sum())
    monkeypatch.setattr(detector, "end_of_epoch", lambda state: {})
    detector.fit(pictures[:2])
    assert rates == pytest.approx([1e-4] * 95 + [1e-5] * 5)


def test_learning_rate_drops_and_stays_dropped():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = _DroppingAdam(2, [weight], lr=1.0, weight_decay=0.0)
    rates = []
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1, 1, 0.1, 0.1])


def test_recolouring_is_one_gentle_change(pictures):
    images = torch.from_numpy(pictures)
    changed = recolour(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert 0 < (changed - images).abs().mean() < 0.11


def test_penalty_shows_the_middle():
    pictures = torch.zeros(3, 3, 128, 128)
    pictures[:, :, 32:96, 32:96] = 1
    assert (penalty_crops(pictures, 64, torch.Generator().manual_seed(0)) > 0.999).all()


def test_saved_and_loaded(fitted, pictures, tmp_path):
    fitted.save(tmp_path / "d")
    again = EfficientAD.load(tmp_path / "d", device="cpu")
    prediction = fitted.predict(pictures)
    assert prediction.maps.shape == (5, 64, 64) and np.isfinite(prediction.maps).all()
    np.testing.assert_array_equal(again.predict(pictures).maps, prediction.maps)


def test_interrupted_and_resumed(fitted, pictures, tmp_path):
    arguments = SMALL | {"attention": "se", "penalty": pictures}
    stop = RuntimeError("the power went")

    def fail(detector, epoch):
        if epoch == 1:
            raise stop

    with pytest.raises(RuntimeError, match="the power went"):
        EfficientAD(**arguments).fit(pictures, on_epoch=fail, checkpoint=tmp_path / "c.safetensors")
    resumed = EfficientAD(**arguments).fit(pictures, checkpoint=tmp_path / "c.safetensors")
    for (name, a), b in zip(fitted.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_no_teacher_says_how_to_make_one(tmp_path):
    with pytest.raises(WeightsUnavailable, match="attnad distill pdn_s"):
        EfficientAD(teacher=tmp_path / "nothing.safetensors", penalty=None)


def test_teacher_from_a_file_and_the_wrong_one(tmp_path):
    teacher = PDN("S")
    save_file(teacher.state_dict(), tmp_path / "s.safetensors")
    loaded = load_teacher(tmp_path / "s.safetensors", "S")
    assert torch.equal(loaded.conv1.weight, teacher.conv1.weight)
    with pytest.raises(ValueError, match="size 'M'"):
        load_teacher(tmp_path / "s.safetensors", "M")
    (tmp_path / "x.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_teacher(tmp_path / "x.safetensors", "S")


def test_one_picture_is_not_enough(pictures):
    with pytest.raises(ValueError, match="at least two"):
        EfficientAD(**SMALL).fit(pictures[:1])


def test_however_many_are_held_out_some_are_left_to_learn_from(pictures):
    trained = EfficientAD(**SMALL | {"held_out": 0.9}).fit(pictures[:2])
    assert np.isfinite(trained.predict(pictures[:2]).scores).all()
