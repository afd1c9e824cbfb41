"""RD++ (Tien et al., Revisiting Reverse Distillation for Anomaly Detection, CVPR 2023)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.maps import peak, smooth, upsample
from attnad.methods.pyramid import PyramidDetector
from attnad.seeding import seeded
from attnad.simplex import octaves
from attnad.transport import sinkhorn_divergence


class RDPP(PyramidDetector):
    """Reverse distillation: a decoder learns to rebuild a teacher's features out of a narrow code.

    The teacher is a frozen pretrained network. `Projection` layers clean its features, a `Bottleneck`
    presses all levels into one small map, a `Decoder` rebuilds each level from it. It has only ever
    rebuilt normal pictures, so where it fails lies the anomaly. RD++ adds the projections and their
    losses, which see the same picture with a patch of simplex noise on it: the projections shall map
    noisy features to clean ones.

    In the authors' released code the optimal transport loss compares a batch with the same batch in another
    order, which is zero whatever the features are. Here it compares each picture's features, of length 1 and
    at some positions, with those of another picture; ``released=True`` leaves it out. (A first version also
    had the wrong sign in the contrast loss, which its authors corrected within days.) They add up the
    gradients of two batches before each step; here each batch makes its own.

    Args:
        backbone, weights, levels, attention, attention_points, train_attention: see `PyramidDetector`.
            The teacher; three levels, layers 1 to 3 of ResNet-18 (the paper has WideResNet-50).
        image_size: 256 px.
        projection_weight: of the three projection losses together, 0.2; 0 leaves them and the noise out.
        blur: of the Sinkhorn divergence, 0.05.
        points: positions of each picture that the optimal transport looks at, drawn anew in each step.
        margin: the cosine above which noisy and clean features are pushed apart, 0.5.
        released: without the optimal transport loss, which is zero in the released code.
        noise: strength of the simplex noise, 0.2.
        sigma: of the Gaussian over the anomaly map, 4 px.
        lr_projection, lr: of Adam (betas 0.5 and 0.999) for the projections, 1e-3, and the rest, 5e-3.
        epochs: 100, as the AttentDifferNet paper trains it (its authors: 10 to 300, chosen per category).
        batch_size: 16 pictures.
        cache, seed, device: see `Detector`. With ``cache`` each picture's noise patch is drawn once.
    """

    default_levels: ClassVar = {
        "resnet18": ("layer1", "layer2", "layer3"),
        "efficientnet_lite0": ("stride4", "stride8", "stride16"),
    }

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = "imagenet",
        levels: Iterable[str] | None = None,
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        train_attention: bool = False,
        image_size: int = 256,
        projection_weight: float = 0.2,
        blur: float = 0.05,
        points: int = 128,
        margin: float = 0.5,
        released: bool = False,
        noise: float = 0.2,
        sigma: float = 4.0,
        epochs: int = 100,
        batch_size: int = 16,
        lr_projection: float = 1e-3,
        lr: float = 5e-3,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, train_attention, image_size,
            epochs, batch_size, cache, seed, device,
        )  # fmt: skip
        self.projection_weight, self.blur, self.points, self.margin = projection_weight, blur, points, margin
        self.released, self.noise, self.sigma = released, noise, sigma
        self.lr_projection, self.lr = lr_projection, lr
        channels = self.extractor.channels
        if len(channels) != 3:
            raise ValueError(f"RD++ reads three levels, not {len(channels)}: {self.extractor.levels}")
        with seeded(seed):
            self.projections = nn.ModuleList(Projection(c) for c in channels)
            self.bottleneck = Bottleneck(channels)
            # ResNet's features end in a ReLU and so does its mirror image; those of others have both signs.
            self.decoder = Decoder(channels, signed=backbone != "resnet18")

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """The teacher's state for the pictures and, in training, for the same with noise on them."""
        images = self.resized(images)
        state = super().frozen(images, training, generator)
        if training and self.projection_weight:
            state = state + super().frozen(add_noise(images, self.noise, generator), training, generator)
        return state

    def shown(self, training: bool) -> str:
        if not training or not self.projection_weight:
            return ""
        return f"noise {self.noise}, seed {self.seed}, batches of {self.batch_size}"

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        half = len(state) // 2 if self.projection_weight else len(state)
        clean = self.features(state[:half])  # (B, C, h, w) each
        projected = [p(x) for p, x in zip(self.projections, clean, strict=True)]
        rebuilt = self.decoder(self.bottleneck(projected))
        errors = (1 - F.cosine_similarity(a.flatten(1), b.flatten(1)).mean() for a, b in zip(clean, rebuilt))
        loss = sum(errors, start=clean[0].new_zeros(()))
        if self.projection_weight:
            noisy = self.features(state[half:])
            denoised = [p(x) for p, x in zip(self.projections, noisy, strict=True)]
            ssot, reconstruct, contrast = self.projection_losses(noisy, denoised, projected, generator)
            loss = loss + self.projection_weight * (ssot + 0.01 * reconstruct + 0.1 * contrast) / 1.11
        return loss

    def projection_losses(
        self, noisy: list[Tensor], denoised: list[Tensor], projected: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The three losses of the projections, each summed over the levels.

        Args:
            noisy: the teacher's features of the noisy pictures, (B, C, h, w) for each level.
            denoised: their projections.
            projected: the projections of the clean pictures' features.

        Returns:
            SSOT: clean pictures shall have their features in the same places: Sinkhorn divergence between
            each picture and another of the batch. Reconstruction: the noise shall be gone, position by
            position. Contrast: clean projections shall not look like noisy features.
        """
        ssot = reconstruct = contrast = projected[0].new_zeros(())
        order = torch.randperm(len(projected[0]), generator=generator).to(projected[0].device)
        for x, y, z in zip(noisy, denoised, projected, strict=True):
            reconstruct = reconstruct + 1 - F.cosine_similarity(y, z).mean()
            cosine = F.cosine_similarity(x.flatten(1), z.flatten(1))  # (B,)
            contrast = contrast + F.relu(cosine - self.margin).mean()
            if self.released:
                continue
            count = min(self.points, z[0, 0].numel())
            chosen = torch.randperm(z[0, 0].numel(), generator=generator)[:count].to(z.device)
            cloud = F.normalize(z.flatten(2)[:, :, chosen].transpose(1, 2), dim=2)  # (B, count, C), length 1
            ssot = ssot + sinkhorn_divergence(cloud[order], cloud[order.roll(1)], self.blur).mean()
        return ssot, reconstruct, contrast

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        maps = self.level_maps(state)
        size = (self.image_size,) * 2
        fine, middle, coarse = (upsample(m, size, align_corners=True) for m in maps)
        total = smooth(fine + middle + coarse, self.sigma)
        return peak(total), total

    def level_maps(self, state: list[Tensor]) -> list[Tensor]:
        """(B, h, w) for each level: one minus the cosine between teacher and decoder."""
        teacher = self.features(state)
        projected = [p(x) for p, x in zip(self.projections, teacher, strict=True)]
        rebuilt = self.decoder(self.bottleneck(projected))
        return [1 - F.cosine_similarity(a, b) for a, b in zip(teacher, rebuilt, strict=True)]

    def make_optimizer(self) -> torch.optim.Optimizer:
        rest = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        rest += [p for p in self.extractor.parameters() if p.requires_grad]
        groups: list[dict] = [
            {"params": self.projections.parameters(), "lr": self.lr_projection},
            {"params": rest},
        ]
        return torch.optim.Adam(groups, lr=self.lr, betas=(0.5, 0.999), fused=True)


class Projection(nn.Sequential):
    """Four 3x3 convolutions, C -> C/2 -> C/4 -> C/2 -> C: a narrow path that noise shall not fit through."""

    def __init__(self, channels: int):
        widths = [channels, channels // 2, channels // 4, channels // 2, channels]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.InstanceNorm2d(after), nn.LeakyReLU()]
        super().__init__(*layers)


class Bottleneck(nn.Module):
    """All three levels brought to the coarsest one's grid, stacked, and pressed into a map at half of it."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        c1, c2, c3 = channels
        self.fine = nn.Sequential(_conv(c1, c2, 2), nn.ReLU(), _conv(c2, c3, 2), nn.ReLU())
        self.middle = nn.Sequential(_conv(c2, c3, 2), nn.ReLU())
        self.press = nn.Sequential(Block(3 * c3, 2 * c3, "down"), Block(2 * c3, 2 * c3))
        _kaiming(self)

    def forward(self, levels: list[Tensor]) -> Tensor:
        fine, middle, coarse = levels
        return self.press(torch.cat([self.fine(fine), self.middle(middle), coarse], dim=1))


class Decoder(nn.Module):
    """The teacher's mirror image: each stage doubles the grid and rebuilds one level.

    Args:
        channels: of the levels, the finest first.
        signed: whether the features that are to be rebuilt can be negative.
    """

    def __init__(self, channels: tuple[int, ...], signed: bool):
        super().__init__()
        widths = [2 * channels[-1], *reversed(channels)]
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, after, "up"), Block(after, after, relu=not signed))
            for before, after in itertools.pairwise(widths)
        )
        _kaiming(self)

    def forward(self, code: Tensor) -> list[Tensor]:
        rebuilt = []
        for stage in self.stages:
            code = stage(code)
            rebuilt.append(code)
        return rebuilt[::-1]


class Block(nn.Module):
    """ResNet's basic block, which can also halve the grid ("down") or double it ("up")."""

    def __init__(self, before: int, after: int, change: str | None = None, relu: bool = True):
        super().__init__()
        shortcut: nn.Module
        if change == "up":
            first, shortcut = _deconv(before, after), _deconv(before, after)
        elif change == "down":
            first, shortcut = _conv(before, after, 2), _conv(before, after, 2, size=1)
        else:
            first, shortcut = _conv(before, after), nn.Identity()
        self.residual = nn.Sequential(first, nn.ReLU(), _conv(after, after))
        self.shortcut, self.relu = shortcut, nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


def _conv(before: int, after: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def _deconv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(before, after, 2, 2, bias=False), nn.BatchNorm2d(after))


def _kaiming(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def add_noise(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) with a random rectangle of each picture under simplex noise.

    Sides of 10 to (H / 8 - 1) px (31 at 256 px), 6 octaves, persistence 0.6, as the authors have it. What
    leaves [0, 1] is left there, as theirs is.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    noisy = images.clone()
    for image in noisy:
        h, w = (int(rng.integers(10, max(11, side // 8))) for side in image.shape[-2:])
        top, left = int(rng.integers(1, image.shape[-2] - h)), int(rng.integers(1, image.shape[-1] - w))
        patch = torch.from_numpy(strength * octaves((3, h, w), rng)).to(image)
        image[:, top : top + h, left : left + w] += patch
    return noisy
