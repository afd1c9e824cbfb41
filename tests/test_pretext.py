"""Gates that answer questions: they start as nothing, learn, and go into a detector as they are."""

import pytest
import torch
from torch import nn

from attnad.attention import ATTENTION, CBAM, ECA, RandomGate, SqueezeExcitation
from attnad.methods import DifferNet
from attnad.pretext import (
    ConstantGate,
    FromIdentity,
    _answer,
    cut_and_paste,
    how_turned,
    is_pasted,
    same_object,
    train_gates,
    where_is_the_object,
    which,
)
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


def test_turned_back_the_picture_is_one_of_those_there_were():
    pictures = torch.rand(4, 3, 32, 32)
    images, answers = how_turned(pictures)(40, torch.Generator().manual_seed(0))
    back = torch.stack([torch.rot90(i, -int(a), (1, 2)) for i, a in zip(images, answers, strict=True)])
    assert all((image == pictures).flatten(1).all(1).any() for image in back)
    assert set(answers.tolist()) == {0, 1, 2, 3}


def test_objects_are_asked_for_where_they_are_and_put_on_other_backgrounds():
    pictures = torch.rand(6, 3, 16, 16)
    objects = torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    for index in range(6):
        objects[index, :, 2 * index : 2 * index + 4, 3:9] = True
    images, answers = where_is_the_object(pictures, objects)(20, torch.Generator().manual_seed(0))
    which_one = [(image == pictures).flatten(1).all(1).nonzero().item() for image in images]
    assert torch.equal(answers.bool(), objects[which_one, 0]) and len(set(which_one)) > 1

    backgrounds = torch.arange(2.0, 5)[:, None, None, None].expand(3, 3, 16, 16)  # no picture has these
    pairs, answers = same_object(pictures, objects, backgrounds)(5, torch.Generator().manual_seed(0))
    assert pairs.shape == (5, 2, 3, 16, 16) and torch.equal(answers, torch.arange(5))
    inside = (pairs < 2)[:, :, :1]
    assert torch.equal(inside[:, 0], inside[:, 1])  # one object, twice
    shown = [(part == objects).flatten(1).all(1).nonzero().item() for part in inside[:, 0]]
    assert len(set(shown)) == 5  # of two alike in a batch, no one could tell which is meant
    for pair, index in zip(pairs, shown, strict=True):
        assert torch.equal(pair * objects[index], (pictures[index] * objects[index]).expand(2, -1, -1, -1))
    behind = torch.where(inside, 0, pairs).amax((2, 3, 4))
    assert (behind[:, 0] != behind[:, 1]).any()


def test_answers_are_read_as_their_shape_says():
    generator = torch.Generator().manual_seed(0)
    features, head = torch.randn(6, 5, 3, 3, generator=generator), nn.Linear(5, 4)
    whole = _answer(features, head, torch.zeros(6, 3, 9, 9), torch.zeros(6).long())
    assert torch.allclose(whole, head(features.mean((2, 3))))
    # Three positions become nine pixels: the middle one of each three lies on the position itself.
    each = _answer(features, head, torch.zeros(6, 3, 9, 9), torch.zeros(6, 9, 9).long())
    assert torch.allclose(each[:, :, 1::3, 1::3], head(features.movedim(1, -1)).movedim(-1, 1), atol=1e-6)
    pairs = _answer(features, head, torch.zeros(3, 2, 3, 9, 9), torch.arange(3))
    cosine = torch.cosine_similarity(whole[0::2][:, None], whole[1::2][None], dim=2)
    assert torch.allclose(pairs, cosine / 0.1, atol=1e-5)


def test_gates_learn_from_every_kind_of_question():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(8, 3, 128, 128, generator=generator) * 0.3
    objects = torch.zeros(8, 1, 128, 128, dtype=torch.bool)
    objects[:4, :, :, :64] = objects[4:, :, :, 64:] = True
    pictures = pictures + 0.7 * objects * torch.rand(8, 3, 1, 1, generator=generator)
    backgrounds = torch.rand(5, 3, 128, 128, generator=generator)
    questions = [how_turned(pictures), where_is_the_object(pictures, objects)]
    for question in (*questions, same_object(pictures, objects, backgrounds)):
        gates, history = train_gates("fresh_se", question, steps=40, batch_size=8)
        losses = [entry["loss"] for entry in history]
        assert sum(losses[-5:]) < sum(losses[:5])
        for channels in (64, 192, 256):  # no longer the identity, and not the linear layer alone
            assert gates(channels).block.fc2.weight.abs().sum() > 0


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
