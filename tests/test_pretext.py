"""Gates that answer questions: they start as nothing, learn, and go into a detector as they are."""

import pytest
import torch
from torch import nn

from attnad.attention import ATTENTION, CBAM, ECA, RandomGate, SqueezeExcitation
from attnad.methods import DifferNet
from attnad.pretext import ConstantGate, FromIdentity, cut_and_paste, is_pasted, train_gates, which
from attnad.seeding import seeded


@pytest.mark.parametrize(
    "block",
    [SqueezeExcitation, CBAM, ECA, ConstantGate, ATTENTION["shuffled_se"], ATTENTION["shuffled_cbam"]],
)
def test_from_identity_begins_by_changing_nothing_and_can_learn(block):
    with seeded(0):  # of two hidden units, both may be dead from the start: there is nothing to learn then
        gate, x = FromIdentity(block(32)), torch.randn(2, 32, 5, 5)
    assert torch.allclose(gate(x), x, atol=1e-6)
    gate(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())


def test_a_block_without_gates_cannot_start_as_the_identity():
    with pytest.raises(ValueError, match="gate"):
        FromIdentity(nn.Identity())
    with pytest.raises(ValueError, match="gate"):
        FromIdentity(RandomGate(8))  # its values are fixed


def test_cut_and_paste_changes_one_rectangle_of_the_promised_size():
    images = torch.rand(20, 3, 64, 64)
    changed = (cut_and_paste(images, torch.Generator().manual_seed(0)) != images).any(1)
    for picture in changed:
        rows, columns = picture.any(1).nonzero(), picture.any(0).nonzero()
        h, w = (int(v.max() - v.min()) + 1 for v in (rows, columns))
        assert 0.015 * 64**2 < h * w < 0.17 * 64**2
        assert picture.sum() > 0.9 * h * w  # all of it, but for where brightness and place agree


def test_questions_have_the_answers_they_say():
    kinds = [torch.full((3, 3, 32, 32), value) for value in (0.1, 0.5, 0.9)]
    images, answers = which(kinds)(50, torch.Generator().manual_seed(0))
    assert torch.equal(images[:, 0, 0, 0], torch.tensor([0.1, 0.5, 0.9])[answers])
    pictures = torch.rand(4, 3, 32, 32)
    images, answers = is_pasted(pictures)(50, torch.Generator().manual_seed(0))
    known = torch.stack([(image == pictures).flatten(1).all(1).any() for image in images])
    assert torch.equal(known, answers == 0) and 0 < answers.sum() < 50


def test_gates_learn_to_answer_and_the_detector_gets_them_frozen():
    generator = torch.Generator().manual_seed(0)
    dark, light = torch.rand(8, 3, 64, 64, generator=generator) * 0.3, torch.rand(8, 3, 64, 64) * 0.3 + 0.7
    gates, history = train_gates("fresh_se", which([dark, light]), steps=40, batch_size=8)
    right = [entry["right"] for entry in history]
    assert sum(right[-5:]) > sum(right[:5])
    again, _ = train_gates("fresh_se", which([dark, light]), steps=40, batch_size=8)
    detector, other = (
        DifferNet(
            weights="distilled", attention=make, train_attention=False, image_size=64, scales=1,
            rotations="none",            hidden=8, cache=True, epochs=1, device="cpu",
        )
        for make in (gates, again)
    )  # fmt: skip
    blocks = detector.extractor.blocks_in_order()
    assert [name for name, _ in blocks] == ["AB1", "AB2", "AB3"]
    assert all(block.block.fc2.weight.abs().sum() > 0 for _, block in blocks)  # no longer the identity
    before = [p.clone() for p in detector.extractor.attention_parameters()]
    detector.fit(dark)
    other.fit(dark)
    assert all(
        torch.equal(a, b) for a, b in zip(before, detector.extractor.attention_parameters(), strict=True)
    )
    assert torch.equal(
        torch.tensor(detector.predict(light).scores), torch.tensor(other.predict(light).scores)
    )
