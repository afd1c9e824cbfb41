"""EfficientAD (Batzner et al., WACV 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import functional as TF

from attnad.attention import Attention
from attnad.maps import peak, resize, upsample
from attnad.methods.base import Detector
from attnad.methods.penalty import penalty_crops, penalty_files, penalty_pictures
from attnad.methods.pictures import Frozen, stacked
from attnad.pdn import CHANNELS, PDN, Autoencoder, load_teacher
from attnad.seeding import seeded

COPY, FOLLOW = slice(CHANNELS), slice(CHANNELS, None)  # the student's outputs for teacher and autoencoder


class EfficientAD(Detector):
    """A small student learns to copy a small teacher on normal pictures, and a narrow autoencoder too.

    The teacher, a patch description network (`PDN`), sees 33 x 33 pixels at a time. One half of the
    student's output copies it; where that fails, the patch is new. The other half copies the
    autoencoder, which has to press the whole picture through 64 numbers and so can only draw what fits
    together; where student and autoencoder differ, a rule is broken that no single patch shows.

    Defaults are the paper's, but for what its authors had and no one can ship: their teacher was distilled
    from WideResNet-101 on ImageNet (ours: see ``attnad/pretrained``), whose pictures are also those of the
    penalty. Attention blocks go behind each hidden convolution of the *student*, and are trained with it by
    its own loss.

    Args:
        teacher: a `PDN`, or a safetensors file of one; ``"distilled"`` takes the one that ships with the
            package. None: random weights, good for looking at shapes only.
        size: ``"S"`` or ``"M"``, of teacher and student.
        attention: name or constructor of an attention block, None for none.
        image_size: 256 px; a multiple of 32, at least 64.
        margin: pixels that are mirrored around the picture. As published, 0: the maps leave a rim of 16
            pixels without an answer, which at 256 px is little and at 128 px nearly half of the picture. 16
            fills it.
        width: of the student's hidden layers, as a share of the teacher's; 1 is the paper's.
        hard: share of the student's errors that is ignored in each step, 0.999: the loss is the mean of
            the rest.
        penalty: pictures of anything, ImageNet in the paper: there the student shall *not* copy the
            teacher. A folder with photographs, or (N, 3, H, W) in [0, 1]; ``"free"`` takes the photographs
            that come inside installed packages. None leaves this term out.
        held_out: share of the training pictures that is kept back to normalise the maps, 0.1.
        quantiles: of the held-out maps that become 0 and 0.1, 0.9 and 0.995.
        steps: 70,000, rounded up to whole passes over the pictures.
        batch_size: 1.
        lr, weight_decay: of Adam, 1e-4 and 1e-5; a tenth of lr after 95 % of the steps.
        cache, seed, device: see `Detector`. With ``cache`` each picture's change of colour is drawn once.

    Raises:
        WeightsUnavailable: no teacher; the message says how to make one.
        DataError: in training: a folder for the penalty without pictures.
    """

    mean: Tensor
    std: Tensor
    limits: Tensor

    def __init__(
        self,
        teacher: PDN | str | Path | None = "distilled",
        size: str = "S",
        attention: Attention | None = None,
        image_size: int = 256,
        margin: int = 0,
        width: float = 1.0,
        hard: float = 0.999,
        penalty: Tensor | str | Path | None = "free",
        held_out: float = 0.1,
        quantiles: Sequence[float] = (0.9, 0.995),
        steps: int = 70_000,
        batch_size: int = 1,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(0, batch_size, cache, seed, device)
        if image_size % 32 or image_size < 64:
            raise ValueError(
                f"image_size={image_size}: the autoencoder halves it five times; use 64, 96, 128, ..."
            )
        if margin % 16:
            raise ValueError(f"margin={margin}: a multiple of 16")
        self.size, self.attention, self.image_size, self.hard = size, attention, image_size, hard
        self.margin, self.width = margin, width
        self.penalty = str(penalty) if isinstance(penalty, str | Path) else penalty
        if not isinstance(self.penalty, str | None):
            self.penalty = torch.as_tensor(self.penalty)
        self.held_out, self.quantiles, self.steps = held_out, tuple(quantiles), steps
        self.lr, self.weight_decay = lr, weight_decay
        self._passes = 1  # steps of an epoch; `fit` knows how many
        with seeded(seed):
            self.teacher = load_teacher(teacher, size).requires_grad_(False)
            self.student = PDN(size, 2 * CHANNELS, attention, width)
            self.autoencoder = Autoencoder(image_size + 2 * margin)
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("limits", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))  # (st, ae) x (0, 0.1)

    def arguments(self) -> dict:
        # The file holds the teacher's weights; the penalty's pictures are not needed once it is trained.
        return super().arguments() | {
            "teacher": None, "penalty": self.penalty if isinstance(self.penalty, str) else None
        }  # fmt: skip

    # --- Training ---------------------------------------------------------------------------------

    def fit(self, dataset, on_epoch=None, checkpoint=None) -> EfficientAD:
        """See `Detector.fit`; a part of the pictures (`held_out`) is kept back."""
        self._check(dataset, training=True)
        if isinstance(self.penalty, str):
            penalty_files(self.penalty)  # are there any? before all the work
        if len(dataset) < 2:
            raise ValueError("EfficientAD needs at least two pictures: it trains on some and keeps some back")
        self.to(self.device)
        if self.cache and not isinstance(dataset, Frozen):
            dataset = self.precompute(dataset, training=True)
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(self.seed))
        kept = min(max(1, round(self.held_out * len(order))), len(order) - 1)  # some on each side
        self._back, train = dataset[order[:kept].numpy()], dataset[order[kept:].numpy()]
        self._passes = math.ceil(len(train) / self.batch_size)
        self.epochs = math.ceil(self.steps / self._passes)
        self.mean, self.std = self._teacher_moments(train)
        try:
            super().fit(train, on_epoch, checkpoint)
        finally:
            del self._back
        return self

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """Pictures and the teacher's view of them; in training also with their colours changed."""
        images = F.pad(resize(images, self.image_size), (self.margin,) * 4, mode="reflect")
        state = [images, self.teacher(images)]
        if training:
            changed = recolour(images, generator)
            state += [changed, self.teacher(changed)]
        return state

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        images, teacher, changed, teacher_changed = state
        teacher, teacher_changed = self._standardised(teacher), self._standardised(teacher_changed)
        error = (self.student(images, COPY) - teacher).square()  # (B, 384, h, w)
        loss = hard_mean(error, self.hard)
        if self.penalty is not None:
            pictures = penalty_pictures(self.penalty, self.image_size, len(images), generator)
            others = penalty_crops(pictures.to(images), self.image_size, generator)
            loss = loss + self.student(others, COPY).square().mean()
        with seeded(int(torch.randint(2**31, (), generator=generator)), images.device):  # for its dropout
            rebuilt = self.autoencoder(changed)
        followed = self.student(changed, FOLLOW)
        return loss + F.mse_loss(rebuilt, teacher_changed) + F.mse_loss(followed, rebuilt)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return _DroppingAdam(
            int(0.95 * self.epochs * self._passes), self.trainable(), self.lr, self.weight_decay
        )

    @torch.no_grad()
    def end_of_epoch(self, state: Frozen | None) -> dict:
        """Measure the maps of the pictures kept back: between which values they shall be stretched."""
        self.eval()
        parts = [[m.flatten().cpu() for m in self.raw_maps(state)] for state in self._views(self._back)]
        values = [torch.cat(maps).numpy() for maps in zip(*parts, strict=True)]
        limits = np.quantile(values, self.quantiles, axis=1).T  # (student, autoencoder) x (0, 0.1)
        self.limits.copy_(torch.from_numpy(limits))
        return {}

    @torch.no_grad()
    def _teacher_moments(self, dataset) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each of the teacher's channels over the training pictures."""
        total = squares = torch.zeros(CHANNELS, dtype=torch.double, device=self.device)
        count = 0
        for _, teacher in self._views(dataset):
            x = teacher.double()
            total, squares = total + x.sum((0, 2, 3)), squares + x.square().sum((0, 2, 3))
            count += x[:, 0].numel()
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)

    def _views(self, dataset) -> Iterator[list[Tensor]]:
        """Pictures and the teacher's view of them, a batch at a time, nothing changed."""
        for chosen in torch.arange(len(dataset)).split(self.batch_size):
            if isinstance(dataset, Frozen):
                yield [tensor[chosen].to(self.device) for tensor in dataset.tensors[:2]]
            else:
                images = stacked(dataset, chosen.tolist()).to(self.device)
                yield self._frozen(images, False, torch.Generator())

    # --- Maps -------------------------------------------------------------------------------------

    def _standardised(self, teacher: Tensor) -> Tensor:
        return (teacher - self.mean) / self.std

    def raw_maps(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Student against teacher, and student against autoencoder: squared differences, (B, h, w) each."""
        images, teacher = state[:2]
        student = self.student(images)
        copied = (self._standardised(teacher) - student[:, COPY]).square().mean(1)
        followed = (self.autoencoder(images) - student[:, FOLLOW]).square().mean(1)
        return copied, followed

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        maps = [normalised(m, *limit) for m, limit in zip(self.raw_maps(state), self.limits, strict=True)]
        combined = 0.5 * maps[0] + 0.5 * maps[1]
        # The networks do not pad: the four cells of the rim that no 33 x 33 patch is centred in are missing.
        rim = (self.image_size // 4 - combined.shape[-1]) // 2
        combined = upsample(F.pad(combined, (rim,) * 4), (self.image_size,) * 2)
        return peak(combined), combined

    def shown(self, training: bool) -> str:
        return f"colours, seed {self.seed}, batches of {self.batch_size}" if training else ""

    def frozen_name(self) -> str:
        checksum = float(self.teacher.conv1.weight.sum())
        return f"PDN-{self.size} of {checksum:.6g}, {self.image_size} px, margin {self.margin}"


class _DroppingAdam(torch.optim.Adam):
    """Adam whose learning rate falls to a tenth after `drop` steps, also when resumed: it counts its own."""

    def __init__(self, drop: int, parameters, lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.drop, self.lr = drop, lr

    def step(self, closure=None):
        for group in self.param_groups:
            state = self.state.get(group["params"][0], {})
            group["lr"] = self.lr * (0.1 if state.get("step", 0) >= self.drop else 1.0)
        return super().step(closure)


def hard_mean(error: Tensor, hard: float) -> Tensor:
    """The mean of those values that reach the quantile `hard` of all of them.

    Normal pictures are easy nearly everywhere; a plain mean would teach the student to copy the teacher
    also where it has not seen anything like it.
    """
    count = error.numel()
    kept = count - math.ceil(hard * (count - 1))
    return error.flatten().topk(kept).values.mean()


def normalised(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Stretched so that `low` becomes 0 and `high` 0.1: two maps of different scale can then be averaged."""
    return 0.1 * (maps - low) / (high - low).clamp(min=1e-12)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W), each picture with brightness, contrast or saturation times a factor of 0.8 to 1.2."""
    changes = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    kinds = torch.randint(3, (len(images),), generator=generator)
    factors = 0.8 + 0.4 * torch.rand(len(images), generator=generator)
    return torch.stack([changes[k](x, float(f)) for x, k, f in zip(images, kinds, factors, strict=True)])
