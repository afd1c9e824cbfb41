"""CFLOW-AD (Gudovskiy et al., Real-Time Unsupervised Anomaly Detection with Localization, WACV 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.flows import conditional_flow
from attnad.maps import peak, upsample
from attnad.methods.pictures import Frozen
from attnad.methods.pyramid import PyramidDetector
from attnad.seeding import seeded

ROWS = 4096  # positions that go through a flow at a time in testing


class CFlow(PyramidDetector):
    """A normalizing flow over the feature vectors at single positions, told where each position is.

    Each level has its own flow z = f(x | c), with c the code of the position (`positional_code`). With

        log p(x | c) = -0.5 * ||z||^2 - C/2 * log(2 pi) + log |det df/dx|,

    training minimises the mean of ``-logsigmoid(log p / C)`` over *fibres*: bundles of positions, drawn at
    random from a batch of pictures, one optimiser step each. In testing each level's likelihoods
    ``exp(log p / C)`` are divided by their maximum, upsampled, summed over the levels, and subtracted from
    their highest possible sum; a picture's score is the maximum of that map.

    The authors take each level's maximum over the whole test set, so that a picture's score depends on the
    others'. Here it is the maximum over the training pictures in the last epoch (the buffer ``top``).
    anomalib takes it over the batch; with the same maximum both maps are equal, up to a constant.

    Attention is never trained by this method: only the flows are (see `gates`).

    Memory: a fibre's activations only, ``fiber * (C + P) * 2`` floats for each of the couplings; the
    levels of a batch of pictures, or with ``cache=True`` of all.

    Args:
        backbone, weights, attention, attention_points: see `PyramidDetector`. The paper has WideResNet-50.
        levels: layers 2 to 4 of WideResNet-50, 1 to 3 of ResNet-18, strides 8 and 16 of EfficientNet-Lite0.
        image_size: 256 px; the paper chooses 128 to 512 by category.
        condition: P, length of the positional code, 128.
        steps, clamp: 8 couplings, clamp 1.9.
        fiber: positions in a step, 256.
        epochs: 200 (25 x 8 in the authors' code; the AttentDifferNet paper trains for 100).
        batch_size: 32 pictures.
        lr: of Adam, 2e-4: from a tenth of it up in the first 8 % of the training (2 of 25), then down along
            a cosine to a thousandth, as in the authors' code.
        cache, seed, device: see `Detector`.
    """

    default_levels: ClassVar = {
        "wide_resnet50_2": ("layer2", "layer3", "layer4"), "resnet18": ("layer1", "layer2", "layer3"),
        "efficientnet_lite0": ("stride8", "stride16"),
    }  # fmt: skip

    top: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
        image_size: int = 256,
        condition: int = 128,
        steps: int = 8,
        clamp: float = 1.9,
        fiber: int = 256,
        epochs: int = 200,
        batch_size: int = 32,
        lr: float = 2e-4,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, False, image_size, epochs, batch_size,
            cache, seed, device,
        )  # fmt: skip
        self.condition, self.steps, self.clamp, self.fiber, self.lr = condition, steps, clamp, fiber, lr
        channels = self.extractor.channels
        with seeded(seed):
            self.flows = nn.ModuleList(conditional_flow(c, condition, steps, clamp) for c in channels)
        self.register_buffer("top", torch.zeros(len(channels)))
        self._total, self._count = 0.0, 0

    def make_optimizer(self) -> torch.optim.Optimizer:
        self._optimizer = torch.optim.Adam(self.trainable(), lr=self.lr, fused=True)
        return self._optimizer

    def log_likelihood(self, level: int, x: Tensor, code: Tensor) -> Tensor:
        """log p(x | c) / C of vectors x (N, C) of a level with codes (N, P): (N,)."""
        z, log_det = self.flows[level](x, [code])
        return (log_det - 0.5 * z.square().sum(dim=1)) / x.shape[1] - 0.5 * math.log(2 * math.pi)

    def positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A level (B, C, h, w) -> its vectors (B*h*w, C) and their codes (B*h*w, P)."""
        b, _, h, w = x.shape
        code = positional_code(self.condition, h, w).to(x.device)
        return x.permute(0, 2, 3, 1).flatten(0, 2), code.flatten(1).T.repeat(b, 1)

    def _batches(self, dataset, generator: torch.Generator) -> Iterator[list[Tensor]]:
        """Fibres instead of pictures: vectors (N, C), codes (N, P) and the number of their level."""
        self.top.fill_(-torch.inf)
        self._total, self._count = 0.0, 0
        batches = math.ceil(len(dataset) / self.batch_size)
        for index, state in enumerate(super()._batches(dataset, generator)):
            for group in self._optimizer.param_groups:
                group["lr"] = self.lr * schedule((len(self.history) + index / batches) / self.epochs)
            for level, x in enumerate(self.features(state)):
                vectors, codes = self.positions(x)
                order = torch.randperm(len(vectors), generator=generator).to(x.device)
                for fiber in order.tensor_split(max(1, len(order) // self.fiber)):
                    yield [vectors[fiber], codes[fiber], torch.tensor(level)]

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        x, code, level = state
        log_likelihood = self.log_likelihood(int(level), x, code)
        loss = -F.logsigmoid(log_likelihood).mean()
        with torch.no_grad():
            self.top[int(level)] = torch.maximum(self.top[int(level)], log_likelihood.max())
        self._total, self._count = self._total + float(loss.detach()) * len(x), self._count + len(x)
        return loss

    def end_of_epoch(self, state: Frozen | None) -> dict:
        return {"loss": self._total / self._count}  # the mean over positions, not over pictures

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        size = (self.image_size, self.image_size)
        maps = torch.zeros(len(state[0]), *size, device=state[0].device)
        for level, x in enumerate(self.features(state)):
            vectors, codes = self.positions(x)
            parts = zip(vectors.split(ROWS), codes.split(ROWS), strict=True)
            log_likelihood = torch.cat([self.log_likelihood(level, v, c) for v, c in parts])
            likelihood = torch.exp(log_likelihood - self.top[level]).view(len(x), *x.shape[-2:])
            maps += 1 - upsample(likelihood, size, align_corners=True)
        return peak(maps), maps


def schedule(progress: float) -> float:
    """Learning rate, relative to the highest, at a share `progress` of the training: warm-up, then cosine."""

    def cosine(t: float) -> float:
        return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * t))

    warm = 2 / 25
    if progress < warm:
        return 0.1 + (cosine(warm) - 0.1) * progress / warm
    return cosine(progress)


@lru_cache(maxsize=16)
def positional_code(channels: int, height: int, width: int) -> Tensor:
    """(channels, height, width): sines and cosines of the column (first half) and of the row (second half).

    Channel 2k of a half is ``sin(t / 10000^(2k/n))``, channel 2k + 1 the cosine, n channels in the half.

    Raises:
        ValueError: channels is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"a positional code needs a multiple of 4 channels, not {channels}")
    n = channels // 2
    frequency = 10000.0 ** (-torch.arange(0, n, 2) / n)[:, None]  # (n/2, 1)

    def code(length: int) -> Tensor:  # (n, length)
        angle = frequency * torch.arange(length)
        return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)

    columns = code(width)[:, None, :].expand(n, height, width)
    rows = code(height)[:, :, None].expand(n, height, width)
    return torch.cat([columns, rows])
