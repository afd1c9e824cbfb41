"""Gates that learn without labels and without a likelihood: from a question whose answer is known anyway.

The backbone stays as it is; its gates and one linear layer learn to answer, and the gates are kept. Which
question helps a detector is an open matter: ``benchmarks/signals.py`` measures some.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from attnad.attention import Attention, Gate, make_attention
from attnad.backbones import make_backbone
from attnad.seeding import seeded

# (count, generator) -> pictures and answers, integers:
# pictures (B, 3, H, W), answers (B,): which of the kinds each picture is
# pictures (B, 3, H, W), answers (B, H, W): which of the kinds each pixel is
# pictures (B, 2, 3, H, W), answers (B,) = 0, 1, ... B-1: which second picture belongs to each first one
Question = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


class FromIdentity(nn.Module):
    """A block that starts by changing nothing, so that what is pretrained behind it finds what it knows.

    The last weight of each of its gates begins at zero, which makes every gate 1/2; two for each gate is
    what the result is multiplied by.

    Args:
        block: of one or several `Gate`, all of which end in a sigmoid.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        gates = [module for module in block.modules() if isinstance(module, Gate)]
        inside = {module for gate in gates for module in gate.modules() if module is not gate}
        gates = [gate for gate in gates if gate not in inside]  # a shuffled one has the one it shuffles
        if not gates or not all(list(gate.parameters()) for gate in gates):
            raise ValueError(f"{type(block).__name__} has no gate to learn, or one that cannot")
        for gate in gates:
            nn.init.zeros_(list(gate.parameters())[-1])
        self.block, self.scale = block, 2.0 ** len(gates)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.block(x)


class ConstantGate(Gate):
    """One number for each channel, learned, whatever the picture: all that attention has but its attention.

    The control for gates that were trained: the same training, without a look at the input.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.weight)[None, :, None, None]


def which(kinds: list[Tensor]) -> Question:
    """The question which kind of picture it is.

    Args:
        kinds: pictures (N, 3, H, W) of each kind, normal ones.
    """

    def ask(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        answers = torch.randint(len(kinds), (count,), generator=generator)
        chosen = [kinds[a][torch.randint(len(kinds[a]), (), generator=generator)] for a in answers.tolist()]
        return torch.stack(chosen), answers

    return ask


def is_pasted(pictures: Tensor) -> Question:
    """The question whether a piece of the picture has been cut out and pasted elsewhere (`cut_and_paste`).

    Args:
        pictures: (N, 3, H, W), normal ones.
    """

    def ask(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = pictures[torch.randint(len(pictures), (count,), generator=generator)]
        answers = torch.randint(2, (count,), generator=generator)
        pasted = cut_and_paste(images, generator)
        return torch.where(answers.bool()[:, None, None, None], pasted, images), answers

    return ask


def how_turned(pictures: Tensor) -> Question:
    """The question by how many right angles the picture is turned (RotNet, Gidaris et al., ICLR 2018).

    Args:
        pictures: (N, 3, H, H), normal ones.
    """

    def ask(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = pictures[torch.randint(len(pictures), (count,), generator=generator)]
        answers = torch.randint(4, (count,), generator=generator)
        turned = [torch.rot90(i, a, (1, 2)) for i, a in zip(images, answers.tolist(), strict=True)]
        return torch.stack(turned), answers

    return ask


def where_is_the_object(pictures: Tensor, objects: Tensor) -> Question:
    """The question which pixels belong to the object.

    Args:
        pictures: (N, 3, H, W), normal ones.
        objects: (N, 1, H, W), true on the object.
    """

    def ask(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(pictures), (count,), generator=generator)
        return pictures[chosen], objects[chosen, 0].long()

    return ask


def same_object(pictures: Tensor, objects: Tensor, backgrounds: Tensor) -> Question:
    """The question which two pictures show the same object, on other backgrounds.

    Args:
        pictures: (N, 3, H, W), normal ones.
        objects: (N, 1, H, W), true on the object, which is cut out and put, at the same place, on two of the
            backgrounds.
        backgrounds: (M, 3, H, W).

    It gives N pairs if more are asked for.
    """

    def ask(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(pictures), generator=generator)[:count, None]
        behind = backgrounds[torch.randint(len(backgrounds), (len(chosen), 2), generator=generator)]
        pairs = torch.where(objects[chosen], pictures[chosen], behind)  # (B, 2, 3, H, W)
        return pairs, torch.arange(len(chosen))

    return ask


def cut_and_paste(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W), each with a rectangle of itself pasted at another place (CutPaste, Li et al., CVPR 2021).

    Of 2 to 15 % of the area, its sides in a ratio of up to 3.3, its brightness changed by up to a tenth, as
    in the paper; its contrast and colours are left alone.
    """
    pasted = images.clone()
    height, width = images.shape[-2:]
    for image, target in zip(images, pasted, strict=True):
        area, ratio, *places, light = torch.rand(7, generator=generator).tolist()
        area, ratio = 0.02 + 0.13 * area, 3.3 ** (2 * ratio - 1)
        h = max(1, min(height - 1, round(height * (area * ratio) ** 0.5)))
        w = max(1, min(width - 1, round(width * (area / ratio) ** 0.5)))
        y, v = (int(place * (height - h)) for place in places[:2])
        x, u = (int(place * (width - w)) for place in places[2:])
        target[:, v : v + h, u : u + w] = (image[:, y : y + h, x : x + w] * (0.9 + 0.2 * light)).clamp(0, 1)
    return pasted


def train_gates(
    attention: Attention,
    question: Question,
    steps: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    backbone: str = "alexnet",
    weights: str | None = "distilled",
    seed: int = 0,
) -> tuple[Callable[[int], nn.Module], list[dict]]:
    """Let the gates of a frozen backbone learn to answer a question.

    Args:
        attention: name or constructor of a block; each starts as the identity (`FromIdentity`), in the
            plain network.
        question: (count, generator) -> pictures, answers; see `Question`.
        steps, batch_size, lr: of Adam, on cross entropy. The linear layer reads the averaged features; each
            position's, if each pixel has an answer; of pairs, the answer is read from the cosines between
            what it makes of first and second pictures, divided by 0.1 (one direction of the loss of SimCLR,
            Chen et al., ICML 2020, with a linear head). It has an output for each answer among 256.
        backbone, weights: see `attnad.backbones.make_backbone`; blocks at all its points.
        seed: of blocks and questions.

    Returns:
        ``channels -> block`` with the trained gates, to be passed to a detector as ``attention`` with
        ``train_attention=False`` and the same backbone and weights; and each step's loss and share of right
        answers.
    """

    made: dict[int, list[nn.Module]] = {}

    def make(channels: int) -> nn.Module:
        made.setdefault(channels, []).append(FromIdentity(make_attention(attention, channels)))
        return made[channels][-1]

    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        network = make_backbone(backbone, weights, make)
        _, answers = question(256, torch.Generator().manual_seed(seed))
        head = nn.Linear(network.channels[-1], int(answers.max()) + 1)
    network.freeze(train_attention=True)
    trained = [*network.attention_parameters(), *head.parameters()]
    optimizer, history = torch.optim.Adam(trained, lr), []
    for _ in trange(steps, desc="gates learn", leave=False):
        images, answers = question(batch_size, generator)
        said = _answer(network(images.flatten(0, -4))[-1], head, images, answers)
        loss = F.cross_entropy(said, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({"loss": loss.item(), "right": (said.argmax(1) == answers).float().mean().item()})

    def trained_block(channels: int) -> nn.Module:
        first, *rest = made[channels]
        made[channels] = [*rest, first]  # whoever asks again gets the next of this width
        return copy.deepcopy(first)

    return trained_block, history


def _answer(features: Tensor, head: nn.Linear, images: Tensor, answers: Tensor) -> Tensor:
    """Features (B or 2B, C, h, w) -> logits, as `torch.nn.functional.cross_entropy` wants them."""
    if answers.dim() == 3:
        said = head(features.movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(said, answers.shape[1:], mode="bilinear")
    said = head(features.mean(dim=(2, 3)))
    if images.dim() == 4:
        return said
    first, second = F.normalize(said, dim=1).unflatten(0, images.shape[:2]).unbind(1)
    return first @ second.T / 0.1
