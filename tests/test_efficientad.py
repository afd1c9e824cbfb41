"""EfficientAD: published sizes, hard-feature loss and map normalisation by hand, who learns, files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attnad.methods import EfficientAD
from attnad.methods.efficientad import _DroppingAdam, hard_mean, normalised, penalty_crops, recolour
from attnad.pdn import PDN, Autoencoder, load_teacher
from attnad.weights import WeightsUnavailable

SMALL = {"teacher": None, "image_size": 64, "steps": 4, "batch_size": 2, "cache": True, "device": "cpu"}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((5, 3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def fitted(pictures):
    return EfficientAD(**SMALL, attention="se", penalty=pictures).fit(pictures)


def test_with_a_margin_the_map_reaches_the_edge_and_a_narrow_student_is_narrow(pictures):
    bare, filled = (EfficientAD(**SMALL, margin=margin, width=0.25) for margin in (0, 16))
    assert (
        bare.fit(pictures).predict(pictures).maps[:, :8] == 0
    ).all()  # a rim of 16 px, without upsampling's reach
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


def test_medium_has_the_same_grid():
    assert PDN("M")(torch.rand(1, 3, 64, 64)).shape == (1, 384, 8, 8)


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


@pytest.mark.parametrize("attention", [None, "se", "cbam"])
def test_who_receives_a_gradient(pictures, attention):
    detector = EfficientAD(**SMALL, attention=attention)
    generator = torch.Generator().manual_seed(0)
    state = detector.frozen(torch.from_numpy(pictures[:2]), True, generator)
    detector.train().loss(state, generator).backward()
    for name, p in detector.named_parameters():
        assert (p.grad is not None) == name.startswith(("student", "autoencoder")), name


def test_the_halves_of_the_student_answer_to_different_teachers(pictures):
    detector = EfficientAD(**SMALL)
    images = torch.from_numpy(pictures[:1])
    error = (detector.student(images)[:, :384] - detector.teacher(images)).square()
    hard_mean(error, 0.999).backward()
    assert all(p.grad is None for p in detector.autoencoder.parameters())
    last = detector.student.conv4.weight.grad
    assert last[:384].any() and not last[384:].any()  # the other half answers to the autoencoder only


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
        EfficientAD(teacher=tmp_path / "nothing.safetensors")


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
