"""The attention blocks beside trusted implementations with copied weights, and the controls."""

import math

import pytest
import torch
from timm.layers import EcaModule, SqueezeExcite
from timm.layers.cbam import CbamModule
from torch import nn

from attnad.attention import (
    ATTENTION,
    CBAM,
    ECA,
    Gate,
    RandomGate,
    ShuffleAttention,
    ShuffledGate,
    SqueezeExcitation,
    make_attention,
)


def features(channels=64, size=9, seed=0):
    return torch.randn(3, channels, size, size + 2, generator=torch.Generator().manual_seed(seed))


def randomized(module, seed=1):
    """`module` with weights large enough for its gates to leave the neighbourhood of 0.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def copy_mlp(ours, theirs):
    with torch.no_grad():
        theirs.fc1.weight.copy_(ours.fc1.weight[:, :, None, None])
        theirs.fc2.weight.copy_(ours.fc2.weight[:, :, None, None])


@pytest.mark.parametrize(("channels", "reduction"), [(64, 16), (24, 4), (256, 16)])
def test_se_is_timms_without_its_biases(channels, reduction):
    ours = randomized(SqueezeExcitation(channels, reduction))
    theirs = SqueezeExcite(channels, rd_channels=channels // reduction, bias=True)
    copy_mlp(ours, theirs)
    nn.init.zeros_(theirs.fc1.bias)
    nn.init.zeros_(theirs.fc2.bias)
    torch.testing.assert_close(ours(features(channels)), theirs(features(channels)))


@pytest.mark.parametrize("channels", [64, 112, 192])
def test_cbam_is_timms(channels):
    ours = randomized(CBAM(channels))
    theirs = CbamModule(channels, rd_channels=channels // 16).eval()
    copy_mlp(ours[0], theirs.channel)
    theirs.spatial.conv.bn = nn.Identity()  # of the authors' code, not of the paper's formulas
    with torch.no_grad():
        theirs.spatial.conv.conv.weight.copy_(ours[1].conv.weight)
    torch.testing.assert_close(ours(features(channels)), theirs(features(channels)))


@pytest.mark.parametrize("channels", [64, 192, 256, 512])
def test_eca_is_timms_with_its_adaptive_kernel(channels):
    ours, theirs = randomized(ECA(channels)), EcaModule(channels)
    assert ours.conv.kernel_size == theirs.conv.kernel_size
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(features(channels)), theirs(features(channels)))


def test_eca_kernel_sizes_of_the_paper():
    """t = |log2(C)/2 + 1/2|, odd: 3 for 64 channels, 5 for 128 to 512 or more."""
    assert [ECA(c).conv.kernel_size[0] for c in (64, 128, 256, 512)] == [3, 5, 5, 5]


def shuffle_attention_by_hand(block, x):
    """SA-Net's formulas, one channel at a time, with nothing but numbers."""
    out = torch.empty_like(x)
    b, c, _, _ = x.shape
    size, half = c // block.groups, c // (2 * block.groups)
    for image in range(b):
        gated = []
        for channel in range(c):
            plane, k = x[image, channel], channel % size
            if k < half:  # channel branch: s = mean of the plane
                w, bias = block.channel_weight[0, k, 0, 0], block.channel_bias[0, k, 0, 0]
                gate = torch.sigmoid(w * plane.mean() + bias)
            else:  # spatial branch: the plane normalised by its own mean and spread
                k -= half
                w, bias = block.spatial_weight[0, k, 0, 0], block.spatial_bias[0, k, 0, 0]
                normal = (plane - plane.mean()) / torch.sqrt(plane.var(unbiased=False) + block.norm.eps)
                gate = torch.sigmoid(w * (block.norm.weight[k] * normal + block.norm.bias[k]) + bias)
            gated.append(plane * gate)
        for channel in range(c):  # shuffle: the two halves of all channels are dealt out in turn
            out[image, 2 * (channel % (c // 2)) + channel // (c // 2)] = gated[channel]
    return out


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (64, 64), (24, 64), (16, 1)])
def test_shuffle_attention_follows_the_papers_formulas(channels, groups):
    block = randomized(ShuffleAttention(channels, groups))
    x = features(channels, 5)
    with torch.no_grad():
        expected = shuffle_attention_by_hand(block, x)
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last)), expected)


def test_shuffle_attention_begins_by_passing_sigmoid_of_one_of_everything():
    x = features(64)
    order = torch.arange(64).reshape(2, 32).T.flatten()  # the channel shuffle alone
    torch.testing.assert_close(ShuffleAttention(64)(x), x[:, order] / (1 + math.exp(-1)))


def test_shuffle_attention_needs_two_halves():
    with pytest.raises(ValueError, match="65 is odd"):
        ShuffleAttention(65)


@pytest.mark.parametrize("channels", [64, 192, 256])
def test_parameter_counts_of_the_papers(channels):
    def count(block):
        return sum(p.numel() for p in block.parameters())

    r = 16
    assert count(SqueezeExcitation(channels)) == 2 * channels**2 // r
    assert count(CBAM(channels)) == 2 * channels**2 // r + 2 * 7 * 7
    assert count(ECA(channels)) == ECA(channels).conv.kernel_size[0]
    groups = math.gcd(64, channels // 2)
    assert count(ShuffleAttention(channels)) == 6 * channels // (2 * groups)


@pytest.mark.parametrize("name", ATTENTION)
def test_every_block_keeps_the_shape_and_can_be_differentiated(name):
    block = make_attention(name, 64)
    x = features(64).requires_grad_()
    y = block(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", ATTENTION)
def test_gates_are_between_0_and_1(name):
    x = 30 * features(64)
    for gate in randomized(make_attention(name, 64)).modules():
        if isinstance(gate, Gate):
            values = gate.gate(x)
            assert values.shape in [(3, 64, 1, 1), (3, 1, 9, 11)]
            assert values.min() >= 0 and values.max() <= 1
            torch.testing.assert_close(gate(x), x * values)


@pytest.mark.parametrize("name", ["se", "cbam"])
def test_a_new_gate_halves_a_faint_map(name):
    """Without biases, a sigmoid of nearly nothing is one half (for each of CBAM's two gates)."""
    x = 1e-3 * features(64)
    torch.testing.assert_close(
        make_attention(name, 64)(x), x * (0.5 if name == "se" else 0.25), rtol=0.01, atol=0
    )


def test_identity_changes_no_bit():
    x = features()
    assert torch.equal(make_attention("identity", 64)(x), x)


def test_the_random_gate_does_not_look_at_the_picture():
    gate = RandomGate(64)
    one, other = gate.gate(features(seed=0)), gate.gate(features(seed=1))
    assert torch.equal(one, other)
    assert torch.equal(one[0], one[1])
    assert len(one[0].unique()) > 60
    assert not list(gate.parameters())
    copy = RandomGate(64)
    copy.load_state_dict(gate.state_dict())  # it is kept in files
    assert torch.equal(copy.gate(features()), one)


@pytest.mark.parametrize("kind", [SqueezeExcitation, CBAM])
def test_a_shuffled_gate_has_the_same_values_elsewhere(kind):
    x, real = features(), randomized(kind(64))
    for original in [real] if isinstance(real, Gate) else list(real):
        shuffled = ShuffledGate(original)
        before, after = original.gate(x), shuffled.gate(x)
        assert after.shape == before.shape
        assert not torch.equal(after, before)
        torch.testing.assert_close(after.flatten(1).sort(1).values, before.flatten(1).sort(1).values)
        orders = [
            [torch.nonzero(b == v)[0].item() for v in a] for a, b in zip(after.flatten(1), before.flatten(1))
        ]
        assert orders[0] == orders[1] or len(set(before[0].flatten().tolist())) < before[0].numel()
        assert torch.equal(shuffled.gate(x), after)  # the same permutation every time


@pytest.mark.parametrize("name", ["se", "cbam"])
def test_a_shuffled_gate_has_as_many_parameters(name):
    def counts(block):
        return sum(p.numel() for p in block.parameters())

    assert counts(make_attention(f"shuffled_{name}", 192)) == counts(make_attention(name, 192))


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'sse'.*se, cbam, eca, shuffle"):
        make_attention("sse", 64)


def test_your_own_block():
    assert (
        make_attention(lambda channels: SqueezeExcitation(channels, reduction=4), 64).fc1.out_features == 16
    )
    assert isinstance(make_attention(CBAM, 64), CBAM)


def test_a_block_instead_of_its_class_is_refused():
    with pytest.raises(TypeError, match="pass its class"):
        make_attention(SqueezeExcitation(64), 64)
