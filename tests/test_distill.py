"""Distillation: crops, pool, students, resuming, folding, and what is loaded."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from attnad import distill, pool
from attnad.attention import RandomGate, SqueezeExcitation
from attnad.backbones import make_backbone
from attnad.datasets.images import DataError
from attnad.methods import DifferNet
from attnad.weights import DISTILLED, WeightsUnavailable, distilled, distilled_file, distilled_gates

RECIPE = {
    "steps": 4,
    "batch": 4,
    "lr": 1e-3,
    "decay": 0.02,
    "seed": 0,
    "crops": 16,
    "small": False,
    "bfloat16": True,
    "attention": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, mode in enumerate(("RGB", "L", "RGBA")):
        shape = (80, 120) if mode == "L" else (80, 120, len(mode))
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(folder / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("not a picture either")
    return folder


@pytest.fixture(scope="module")
def parts(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "CHUNK", 8)
        patch.setattr(pool, "read_pictures", lambda files: READ(files, generated=1))
        return pool.make_pool(tmp_path_factory.mktemp("pool"), pool.folder_pictures([folder]), 16)[0]


READ = pool.read_pictures


def weights(student):
    return {key: tensor.clone() for key, tensor in student.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_pictures_of_packages_and_folders(folder, tmp_path):
    assert {"china.jpg", "flower.jpg"} <= {path.name for path in pool.package_pictures()}
    files = pool.folder_pictures([folder])
    assert [path.name for path in files] == ["0.png", "1.png", "2.png", "broken.jpg"]
    with pytest.raises(DataError, match="no pictures there"):
        pool.folder_pictures([tmp_path])


def test_a_broken_picture_is_named_and_left_out(folder, capsys):
    pictures = pool.read_pictures(pool.folder_pictures([folder]), generated=1)
    assert len(pictures) == 3 + 5 + 2  # files, assets of powerline, kinds of wafer
    assert all(picture.dtype == torch.uint8 and picture.shape[0] == 3 for picture in pictures)
    assert "broken.jpg" in capsys.readouterr().err


def test_a_pool_is_made_once_and_the_same_again(parts, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 8)
    monkeypatch.setattr(pool, "read_pictures", lambda files: READ(files, generated=1))
    files = pool.folder_pictures([folder])
    again = pool.make_pool(tmp_path, files, 8)[0]  # a smaller pool is the beginning of a larger one
    assert again[0].read_bytes() == parts[0].read_bytes()
    monkeypatch.setattr(pool, "read_pictures", None)  # nothing is missing: nothing is read
    assert pool.make_pool(tmp_path, files, 8)[0] == again
    with safe_open(parts[0], "pt") as file:
        assert file.get_tensor("images").dtype == torch.uint8
        assert file.get_tensor("stride8").shape == (8, 40, 12, 12)
        assert file.get_tensor("stride32").shape == (8, 320, 3, 3)


@pytest.mark.parametrize("attention", [None, "se", "cbam"])
def test_questions_and_answers_are_of_one_kind(attention):
    student = distill.make_student("alexnet", attention)
    images = torch.rand(2, 3, 96, 96)
    levels = {"stride8": torch.rand(2, 40, 12, 12), "stride16": torch.rand(2, 112, 6, 6),
              "stride32": torch.rand(2, 320, 3, 3)}  # fmt: skip
    for answer, target in zip(student(images), student.targets(levels), strict=True):
        assert answer.shape[:2] == target.shape[:2]
        a, t = distill._same_grid(answer, target)
        assert a.shape == t.shape
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_the_patch_student_is_asked_about_its_own_patches():
    student = distill.make_student("pdn_s")
    levels = {"stride8": torch.rand(1, 40, 12, 12), "stride16": torch.rand(1, 112, 6, 6)}
    (answer,), (target,) = student(torch.rand(1, 3, 96, 96)), student.targets(levels)
    assert answer.shape == target.shape == (1, 384, 4, 4)


@pytest.mark.parametrize(
    ("architecture", "attention"), [("alexnet", "se"), ("resnet18", "cbam"), ("pdn_s", None)]
)
def test_interrupted_or_not_every_bit_is_the_same(architecture, attention, parts, tmp_path):
    recipe = RECIPE | {"attention": attention, "small": architecture != "pdn_s"}
    whole = distill.make_student(architecture, attention)
    before = weights(whole)
    distill.train(whole, parts, recipe, tmp_path / "whole", every=2)
    assert not same(before, weights(whole))
    halves = distill.make_student(architecture, attention)
    distill.train(halves, parts, recipe, tmp_path / "halves", every=2, stop=3)  # the third step is lost
    halves = distill.make_student(architecture, attention)
    log = distill.train(halves, parts, recipe, tmp_path / "halves", every=2)
    assert same(weights(whole), weights(halves))
    assert [entry["step"] for entry in log] == [2, 4]
    with pytest.raises(ValueError, match="another recipe"):
        distill.train(halves, parts, recipe | {"lr": 1.0}, tmp_path / "halves")


def test_a_small_window_is_the_same_place_at_every_stride():
    size, recipe = 96, {"steps": 100, "small": True, "seed": 0}
    rows = torch.arange(size).view(1, size, 1).expand(1, size, size)
    corners = set()
    for step in range(70):
        window = distill._window(step, recipe, size)
        seen = rows[window(1)]
        assert seen.shape == (1, 64, 64)
        for stride in (8, 16, 32):
            coarse = rows[:, ::stride, ::stride][window(stride)]
            assert torch.equal(coarse, seen[:, ::stride, ::stride])
        corners.add(int(seen[0, 0, 0]))
    assert corners == {0, 32}
    assert rows[distill._window(70, recipe, size)(1)].shape == (1, 96, 96)
    assert rows[distill._window(0, recipe | {"small": False}, size)(1)].shape == (1, 96, 96)


def test_gates_learn(parts, tmp_path):
    student = distill.make_student("alexnet", "se")
    before = [p.clone() for p in student.backbone.attention_parameters()]
    distill.train(student, parts, RECIPE, tmp_path / "checkpoint")
    for old, new in zip(before, student.backbone.attention_parameters(), strict=True):
        assert not torch.equal(old, new)


def test_folding_changes_nothing(parts, tmp_path):
    student = distill.make_student("alexnet", "se")
    distill.train(student, parts, RECIPE, tmp_path / "checkpoint")
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        step = student.asked_at[-1][0]
        x = (images - student.backbone._mean) / student.backbone._std
        for _, module in student.backbone.steps():
            x = module(x)
        backbone = make_backbone("alexnet", None, "se")
        backbone.load_state_dict(student.folded())
        assert step == "features"
        torch.testing.assert_close(backbone(images)[0], x, rtol=1e-4, atol=1e-5)
    plain = set(make_backbone("alexnet", None).state_dict())  # torchvision's names
    assert {key for key in student.folded() if key.startswith("features")} == plain


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "CHUNK", 8)
    monkeypatch.setattr(distill, "package_pictures", list)
    monkeypatch.setattr(pool, "read_pictures", lambda files: READ(files, generated=1))
    output = tmp_path / "out.safetensors"
    order = ["alexnet", "--pictures", str(folder), "--crops", "8", "--steps", "2", "--batch", "4",
             "--work", str(tmp_path), "--output", str(output)]  # fmt: skip
    assert distill.cli(order) == 0
    with safe_open(output, "pt") as file:
        header = json.loads(file.metadata()["attnad"])
        assert file.get_tensor("features.0.weight").dtype == torch.float16
    assert header["arguments"]["pool"]["teacher"] == "efficientnet_lite0"
    assert header["arguments"]["steps"] == 2 and "commit" in header["arguments"]
    assert header["history"][-1]["step"] == 2
    first = load_file(output)["features.0.weight"]
    # Another seed: other weights, which do not go on from the first one's checkpoint, from the same pool.
    assert distill.cli([*order, "--seed", "1"]) == 0
    assert not torch.equal(load_file(output)["features.0.weight"], first)
    assert len(list(tmp_path.glob("pool-*"))) == 1
    assert distill.cli(["alexnet", "--pictures", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


# --- Loading --------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Distilled weights of networks that were never trained, in place of those of the package."""
    monkeypatch.setattr("attnad.weights.DISTILLED", tmp_path)
    for architecture, attention in (
        ("alexnet", None),
        ("alexnet", "se"),
        ("resnet18", None),
        ("resnet18", "cbam"),
    ):
        student = distill.make_student(architecture, attention, seed=1)
        images = torch.randint(256, (4, 3, 96, 96), dtype=torch.uint8)
        distill.save(distilled_file(architecture, attention), student, images, {"crops": 0}, [])
    return tmp_path


def test_plain_weights_and_blocks_that_nobody_trained(fake):
    stored = distilled("alexnet")
    plain = make_backbone("alexnet", "distilled")
    assert same(dict(plain.state_dict()), stored)
    eca = make_backbone("alexnet", "distilled", "eca")
    assert torch.equal(eca.features[0].weight, stored["features.0.weight"])
    own = make_backbone("resnet18", "distilled", lambda channels: torch.nn.Identity())
    assert torch.equal(own.conv1.weight, distilled("resnet18")["conv1.weight"])
    assert distilled_gates("alexnet", "eca") is distilled_gates("resnet18", own) is None


def test_gates_come_with_the_network_they_were_trained_in(fake):
    stored = distilled("alexnet", "se")
    backbone = make_backbone("alexnet", "distilled", "se")
    assert distilled_gates("alexnet", "se") == distilled_gates("alexnet", "shuffled_se") == "se"
    assert torch.equal(backbone.blocks["AB2"].fc1.weight, stored["blocks.AB2.fc1.weight"])
    shuffled = make_backbone("alexnet", "distilled", "shuffled_se")
    assert torch.equal(shuffled.blocks["AB2"].original.fc1.weight, stored["blocks.AB2.fc1.weight"])
    resnet = make_backbone("resnet18", "distilled", "cbam", levels=["layer1", "layer2"])
    gate = resnet.layer2[0].attention[1].conv.weight
    assert torch.equal(gate, distilled("resnet18", "cbam")["layer2.0.attention.1.conv.weight"])


def test_a_gate_left_out_leaves_its_mean_behind(fake):
    images = torch.rand(4, 3, 96, 96)
    whole = make_backbone("alexnet", "distilled", "se")
    part = make_backbone("alexnet", "distilled", "se", points=["AB1", "AB3"])
    mean = distilled("alexnet", "se")["mean_gate.AB2.0"]
    whole.blocks["AB2"].gate = lambda x: mean[None, :, None, None]
    with torch.no_grad():
        torch.testing.assert_close(part(images)[0], whole(images)[0], rtol=1e-4, atol=1e-5)
    whole = make_backbone("resnet18", "distilled", "cbam")
    part = make_backbone("resnet18", "distilled", "cbam", points=["layer1", "layer3"])
    means = [distilled("resnet18", "cbam")[f"mean_gate.layer2.{i}"] for i in range(2)]
    for block, mean in zip(whole.layer2, means, strict=True):
        block.attention[0].gate = lambda x, mean=mean: mean[None, :, None, None]
        block.attention[1].gate = lambda x: torch.ones(1)
    with torch.no_grad():
        for a, b in zip(part(images), whole(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_what_there_is_not_is_said(fake):
    with pytest.raises(ValueError, match=r"layer4.*choose levels other than"):
        make_backbone("resnet18", "distilled", levels=["layer4"])
    with pytest.raises(WeightsUnavailable, match=r"there are: alexnet, alexnet-se.*attnad distill makes"):
        make_backbone("wide_resnet50_2", "distilled")
    with pytest.raises(ValueError, match="'distilled'"):
        make_backbone("alexnet", "coco")
    distilled_file("alexnet").write_bytes(b"short")
    with pytest.raises(WeightsUnavailable, match="damaged"):
        make_backbone("alexnet", "distilled")


# --- What the package carries ---------------------------------------------------------------------

FILES = sorted(DISTILLED.glob("*.safetensors"))


def test_the_card_names_licences_and_every_file():
    card = (DISTILLED / "README.md").read_text(encoding="utf8")
    assert "Apache" in card and "GPL" in card and "CC BY-SA" in card
    for file in FILES:
        assert file.name in card


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_are_small_and_load_fast(file):
    assert file.stat().st_size <= 6e6
    name, _, attention = file.stem.partition("-")
    started = time.perf_counter()
    tensors = distilled(name, attention or None)
    assert time.perf_counter() - started < 1
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    if name != "pdn_s":
        make_backbone(name, "distilled", attention or None)
        assert distilled_gates(name, attention or None) == (attention or None)


@pytest.mark.skipif(not distilled_file("alexnet", "se").exists(), reason="alexnet is not distilled yet")
def test_networks_distilled_with_different_gates_do_not_share_features():
    """What lies before a gate was trained along with it too."""
    made = [
        DifferNet(weights="distilled", attention=name, attention_points=["AB3"], device="cpu", hidden=4)
        for name in (None, "se", "cbam", SqueezeExcitation)
    ]
    names = [detector.frozen_name().split(")")[0] for detector in made]
    assert len(set(names[:3])) == 3 and names[3] == names[0]
    weights = [detector.extractor.features[0].weight for detector in made]
    assert torch.equal(weights[3], weights[0]) and not torch.equal(weights[1], weights[0])


@pytest.mark.skipif(not distilled_file("alexnet", "se").exists(), reason="alexnet is not distilled yet")
def test_a_saved_detector_knows_that_its_gates_were_distilled(tmp_path):
    detector = DifferNet(
        weights="distilled", attention="se", train_attention=False, image_size=64, scales=1, hidden=4,
        rotations="none", cache=True, epochs=1, device="cpu",
    )  # fmt: skip
    pictures = torch.rand(4, 3, 64, 64)
    loaded = DifferNet.load(detector.fit(pictures).save(tmp_path / "it"), device="cpu")
    assert loaded.gates == detector.gates == "distilled"
    assert loaded.frozen_name() == detector.frozen_name()
    loaded.predict(detector.precompute(pictures))  # and so takes what the other one computed


def test_a_frozen_gate_in_front_of_a_trained_one_is_named_with_its_seed(fake):
    """Its values follow the seed, and nobody trains them, whatever trains the gate behind it."""

    def mixed(channels):
        return RandomGate(channels) if channels == 64 else SqueezeExcitation(channels)

    names = [
        DifferNet(weights="distilled", attention=mixed, device="cpu", hidden=4, seed=seed).frozen_name()
        for seed in (0, 1)
    ]
    assert names[0] != names[1] and "untrained" in names[0]
