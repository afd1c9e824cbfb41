"""SimpleNet (Liu et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.maps import peak, smooth, upsample
from attnad.methods.pictures import Frozen
from attnad.methods.pyramid import PyramidDetector
from attnad.seeding import seeded


class SimpleNet(PyramidDetector):
    """Normal features against the same features with noise: a discriminator learns to tell them apart.

    Every position of a picture becomes one vector (`patch_embedding`); a linear *adaptor* turns it; what
    an anomaly looks like is made up by adding Gaussian noise to the adapted vector; a small
    *discriminator* scores both, high for real ones. Its negative score is the anomaly map.

    Defaults are the paper's, and where that is silent those of its authors' code, with the ResNet-18 of
    the attentive version. The authors resize to 329 px and cut out the middle 288; here the whole picture
    is resized to 288. Attention sits in the frozen backbone, where nothing in the method trains it; with
    ``train_attention=True`` the discriminator's loss does.

    Args:
        backbone, weights, attention, attention_points, train_attention: see `PyramidDetector`.
        levels: layers 2 and 3 of ResNet-18, strides 8 and 16 of EfficientNet-Lite0.
        image_size: 288 px.
        patch: side of the neighbourhood that is described at each position, 3.
        dim: length of the vectors, 1536.
        hidden: units of the discriminator's hidden layer, 1024.
        noise: standard deviation of the noise, 0.015, in the units of the adapted features.
        relative_noise: not published: `noise` is in units of the spread of the adapted features instead,
            measured on the training pictures before training (needs ``cache=True``). What is lost in the
            features of one backbone drowns those of another; and a gate, which makes features smaller,
            would get a stronger noise than its control.
        margin: 0.5, of `truncated_l1`.
        sigma: of the Gaussian over the anomaly map, 4 px.
        lr_adaptor: of the adaptor's AdamW (weight decay 0.01, PyTorch's default), 1e-4.
        lr, weight_decay: of the discriminator's Adam, 2e-4 and 1e-5.
        epochs: 160 (40 x 4 in the authors' code).
        batch_size: 8 pictures, as in the authors' code.
        cache, seed, device: see `Detector`. A cached picture takes ``dim`` floats for each position.
    """

    noise_std: Tensor

    default_levels: ClassVar = {
        "resnet18": ("layer2", "layer3"), "efficientnet_lite0": ("stride8", "stride16"),
    }  # fmt: skip

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        train_attention: bool = False,
        levels: Iterable[str] | None = None,
        image_size: int = 288,
        patch: int = 3,
        dim: int = 1536,
        hidden: int = 1024,
        noise: float = 0.015,
        relative_noise: bool = False,
        margin: float = 0.5,
        sigma: float = 4.0,
        epochs: int = 160,
        batch_size: int = 8,
        lr_adaptor: float = 1e-4,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, train_attention, image_size,
            epochs, batch_size, cache, seed, device,
        )  # fmt: skip
        self.patch, self.dim, self.hidden = patch, dim, hidden
        self.noise, self.relative_noise, self.margin, self.sigma = noise, relative_noise, margin, sigma
        self.lr_adaptor, self.lr, self.weight_decay = lr_adaptor, lr, weight_decay
        with seeded(seed):
            self.adaptor = nn.Linear(dim, dim)
            self.discriminator = nn.Sequential(
                nn.Linear(dim, hidden),
                nn.BatchNorm1d(hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(hidden, 1, bias=False),
            )
            for module in self.modules():
                if isinstance(module, nn.Linear) and module not in self.extractor.modules():
                    nn.init.xavier_normal_(module.weight)
        # In the units of the adapted features.
        self.register_buffer("noise_std", torch.tensor(noise), persistent=relative_noise)

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, h, w, dim)], or what lies before the first gate that is trained."""
        state = super().frozen(images, training, generator)
        return state if self.gates_are_trained() else [patch_embedding(state, self.patch, self.dim)]

    def embed(self, state: list[Tensor]) -> Tensor:
        """What `frozen` returned -> (B, h, w, dim)."""
        if self.gates_are_trained():
            return patch_embedding(self.features(state), self.patch, self.dim)
        return state[0]

    @torch.no_grad()
    def begin(self, state: Frozen | None) -> None:
        if not self.relative_noise:
            return
        if state is None:
            raise ValueError("relative_noise=True measures the features beforehand: it needs cache=True")
        chunks = torch.arange(len(state)).split(self.batch_size)
        adapted = [self.adaptor(self.embed([t[c].to(self.device) for t in state.tensors])) for c in chunks]
        self.noise_std.fill_(self.noise * spread(torch.cat([a.flatten(0, 2).cpu() for a in adapted])))

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        real = self.adaptor(self.embed(state).flatten(0, 2))  # (B*h*w, dim)
        noise = torch.randn(real.shape, generator=generator).to(real)
        fake = real + self.noise_std * noise
        of_real, of_fake = self.discriminator(torch.cat([real, fake])).chunk(2)
        return truncated_l1(of_real, of_fake, self.margin)

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        embedding = self.embed(state)  # (B, h, w, dim)
        grid = -self.discriminator(self.adaptor(embedding.flatten(0, 2))).view(embedding.shape[:3])
        return peak(grid), smooth(upsample(grid, (self.image_size,) * 2), self.sigma)

    def make_optimizer(self) -> Optimizers:
        rest = [*self.discriminator.parameters(), *self.extractor.attention_parameters()]
        rest = [p for p in rest if p.requires_grad]
        return Optimizers(
            torch.optim.AdamW(self.adaptor.parameters(), lr=self.lr_adaptor, fused=True),
            torch.optim.Adam(rest, lr=self.lr, weight_decay=self.weight_decay, fused=True),
        )

    def frozen_name(self) -> str:
        if self.gates_are_trained():
            return super().frozen_name()
        return f"{super().frozen_name()}, {self.patch} x {self.patch} patches as {self.dim} numbers"


def patch_embedding(levels: list[Tensor], patch: int, dim: int) -> Tensor:
    """Describe each position by what lies around it, on all levels, in `dim` numbers (as in PatchCore).

    On each level the neighbourhood's ``C * patch * patch`` values are averaged in `dim` groups; coarser
    levels are enlarged to the first one's grid; and the levels' vectors, one behind the other, are again
    averaged in `dim` groups.

    Args:
        levels: feature maps (B, C, H, W), the finest first.
        patch: odd side of the neighbourhood.
        dim: length of the result.

    Returns:
        (B, H, W, dim) on the grid of the first level.
    """
    grid = levels[0].shape[-2:]
    described = []
    for x in levels:
        patches = F.unfold(x, patch, padding=patch // 2).transpose(1, 2)  # (B, h*w, C*patch*patch)
        grouped = F.adaptive_avg_pool1d(patches, dim).transpose(1, 2)  # (B, dim, h*w)
        grouped = grouped.unflatten(2, x.shape[-2:])
        if x.shape[-2:] != grid:
            grouped = F.interpolate(grouped, grid, mode="bilinear")
        described.append(grouped)
    stacked = torch.cat(described, dim=1).flatten(2).transpose(1, 2)  # (B, H*W, levels*dim)
    return F.adaptive_avg_pool1d(stacked, dim).unflatten(1, grid)


def spread(vectors: Tensor) -> float:
    """Of vectors (M, D): the root of the mean variance of their numbers."""
    return float(vectors.var(dim=0).mean().sqrt())


def truncated_l1(real: Tensor, fake: Tensor, margin: float = 0.5) -> Tensor:
    """Mean of ``max(0, margin - real)`` plus mean of ``max(0, margin + fake)``.

    Real features shall score above the margin and made-up ones below its negative; who is beyond costs
    nothing, so that the training looks at the cases that are still in doubt.
    """
    return F.relu(margin - real).mean() + F.relu(margin + fake).mean()


class Optimizers:
    """Several optimisers that step together and look like one to the training loop."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def _starts(self) -> list[int]:
        """The number of parameters in front of each part: PyTorch numbers those of each from 0."""
        sizes = [sum(len(group["params"]) for group in part.param_groups) for part in self.parts]
        return [sum(sizes[:index]) for index in range(len(sizes))]

    def state_dict(self) -> dict:
        states = zip(self._starts(), (part.state_dict()["state"] for part in self.parts), strict=True)
        return {"state": {start + key: value for start, state in states for key, value in state.items()}}

    def load_state_dict(self, stored: dict) -> None:
        ends = [*self._starts()[1:], float("inf")]
        for part, start, end in zip(self.parts, self._starts(), ends, strict=True):
            mine = {key - start: value for key, value in stored["state"].items() if start <= key < end}
            part.load_state_dict(part.state_dict() | {"state": mine})
