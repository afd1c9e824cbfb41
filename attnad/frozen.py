"""What all pretrained networks share: a row of named steps, some of them read, some followed by attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from attnad.attention import Attention

CHUNK = 32  # pictures that go through a network at a time: more do not fit a CPU's cache, and slow it down
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """A frozen network cut into steps, with trainable attention in it.

    Subclasses set `all_levels` and `all_points` and build the network.

    Args:
        attention: name or constructor of a block (see `attnad.attention.make_attention`), None for none.
        points: where the blocks go, a subset of `all_points`; None for every point up to the last level.
        levels: which levels to return, a subset of `all_levels`, in order; None for the last one.

    Attributes:
        channels: of each returned level.
        attention: the blocks by point; the same modules that run inside the network.
    """

    all_levels: tuple[str, ...]
    all_points: tuple[str, ...]
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        attention: Attention | None = None,
        points: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
    ):
        super().__init__()
        self.levels = _chosen("level", levels, self.all_levels) or self.all_levels[-1:]
        if attention is None:
            self.points: tuple[str, ...] = ()
        elif points is None:
            self.points = self.reachable_points()
        else:
            self.points = _chosen("attention point", points, self.reachable_points())
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def reachable_points(self) -> tuple[str, ...]:
        """The attention points that come before or at the last level read."""
        return self.all_points[: self.all_points.index(self.levels[-1]) + 1]

    @property
    @abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Of each of `levels`."""

    @property
    @abstractmethod
    def attention(self) -> dict[str, nn.Module | list[nn.Module]]:
        """The attention block of each point (a list of them where a point has several)."""

    @abstractmethod
    def steps(self) -> list[tuple[str, nn.Module]]:
        """(name, module) in the order in which they run; a name of `levels` marks that level's end."""

    def absorb(self, tensors: dict[str, Tensor], point: str, block: int, mean: Tensor) -> None:
        """Let the weights `tensors` do, on average, what the gate at a point did that is left out here.

        Args:
            tensors: changed in place.
            point, block: where the gate was: which one of the point's blocks.
            mean: (C,) by which it multiplied each channel, on average.

        Raises:
            TypeError: no weights of this network were trained along with gates.
        """
        raise TypeError(f"no weights of {type(self).__name__} were trained along with gates")

    def blocks_in_order(self) -> list[tuple[str, nn.Module]]:
        """(name, attention block): the point, and where a point has several the number of the block too."""
        named: list[tuple[str, nn.Module]] = []
        for point, found in self.attention.items():
            if isinstance(found, list):
                named += [(f"{point}.{i}", block) for i, block in enumerate(found)]
            else:
                named.append((point, found))
        return named

    def attention_parameters(self) -> list[nn.Parameter]:
        """The parameters of all attention blocks: the only ones that are ever trained."""
        return list(nn.ModuleList(block for _, block in self.blocks_in_order()).parameters())

    def freeze(self, train_attention: bool = False) -> Backbone:
        """Fix every weight; with `train_attention`, all but those of the attention blocks."""
        self.requires_grad_(False)
        if train_attention:
            for parameter in self.attention_parameters():
                parameter.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: the statistics of a frozen batch normalisation are frozen too."""
        return super().train(False)

    def split(self) -> int:
        """Index of the first step with something to train; the number of steps if there is none."""
        steps = self.steps()
        for index, (_, module) in enumerate(steps):
            if any(p.requires_grad for p in module.parameters()):
                return index
        return len(steps)

    def frozen_part(self, images: Tensor) -> list[Tensor]:
        """Run everything before the first trainable block.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            The state from which `trained_part` goes on: the levels passed so far and, unless the whole
            network is frozen, the activation where training begins. Without gradients.
        """
        split, steps = self.split(), self.steps()
        with torch.no_grad():
            x, passed = self._run(steps[:split], (images - self._mean) / self._std)
        return passed if split == len(steps) else [*passed, x]

    def in_chunks(self, images: Tensor) -> list[Tensor]:
        """`frozen_part`, a few pictures at a time, in the layout of memory that is fast on a CPU."""
        chunks = images.contiguous(memory_format=torch.channels_last).split(CHUNK)
        parts = [self.frozen_part(chunk) for chunk in chunks]
        return parts[0] if len(parts) == 1 else [torch.cat(level) for level in zip(*parts, strict=True)]

    def trained_part(self, state: list[Tensor]) -> list[Tensor]:
        """From the state that `frozen_part` returned to all levels, each (B, C, H', W')."""
        split, steps = self.split(), self.steps()
        if split == len(steps):
            return state
        *passed, x = state
        return passed + self._run(steps[split:], x)[1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> one feature map (B, C, H', W') for each of `levels`."""
        return self.trained_part(self.frozen_part(images))

    def _run(self, steps: list[tuple[str, nn.Module]], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        passed = []
        for name, module in steps:
            x = module(x)
            if name in self.levels:
                passed.append(x)
        return x, passed


def _chosen(what: str, chosen: Iterable[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """`chosen` in the order of `known`, after a check that all of it is known."""
    chosen = () if chosen is None else (chosen,) if isinstance(chosen, str) else tuple(chosen)
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is no {what} here: use some of {', '.join(known)}")
    return tuple(name for name in known if name in chosen)
