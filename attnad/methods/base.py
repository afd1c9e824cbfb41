"""What all detectors share: one training loop and prediction. How they are kept is in `files`."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from attnad.datasets.base import Dataset
from attnad.maps import upsample
from attnad.methods.files import Kept, Optimizer
from attnad.methods.pictures import Frozen, Pictures, Prediction, stacked


class Detector(Kept, ABC):
    """An anomaly detector: ``Method(...).fit(train).predict(test)``.

    A method says in `frozen` what of it never changes, in `loss` what is minimised over the rest, and in
    `score` how a picture is judged. Its constructor keeps every argument as an attribute of the same
    name, which is how `save` knows them.

    Args:
        epochs: passes over the training pictures.
        batch_size: pictures in a step.
        cache: run the frozen part once and keep its output in memory, instead of once in every epoch.
        seed: of the initial weights and of every random choice in training.
        device: ``"auto"`` (a GPU if there is one), or what PyTorch understands.

    Attributes:
        image_size: side of the square to which a method resizes pictures, in pixels.
        history: one dict for each finished epoch: ``epoch``, ``loss``, ``seconds`` and what the method adds.
    """

    image_size: int

    def __init__(self, epochs: int, batch_size: int, cache: bool, seed: int, device: str):
        super().__init__()
        self.epochs, self.batch_size, self.cache, self.seed = epochs, batch_size, cache, seed
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.history: list[dict] = []

    # --- What a method fills in -------------------------------------------------------------------

    @abstractmethod
    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """Everything about (B, 3, H, W) pictures that training cannot change: tensors (B, ...)."""

    def begin(self, state: Frozen | None) -> None:
        """Called once before the first epoch, with the whole frozen part where it is cached."""

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        """What is minimised, for one batch of what `frozen` returned; a method of no epochs has none."""
        raise TypeError(f"{type(self).__name__} has nothing to train")

    @abstractmethod
    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """(B,) scores and (B, H', W') maps or None, for one batch of what `frozen` returned."""

    def make_optimizer(self) -> Optimizer:
        """The method's optimiser over `trainable()`; a method of no epochs has none."""
        raise TypeError(f"{type(self).__name__} has nothing to train")

    @abstractmethod
    def frozen_name(self) -> str:
        """Names the network and the part of it that is frozen; features of another are refused."""

    def shown(self, training: bool) -> str:
        """What else decides what `frozen` returns: views, noise, and the seed where it draws them."""
        return ""

    def end_of_epoch(self, state: Frozen | None) -> dict:
        """Figures that a method adds to the epoch's entry in `history`; `state` as in `begin`."""
        return {}

    # --- Training ---------------------------------------------------------------------------------

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def fit(
        self,
        dataset: Pictures | Frozen,
        on_epoch: Callable[[Detector, int], dict | None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Detector:
        """Train on normal pictures.

        Args:
            dataset: pictures, or what `precompute(..., training=True)` made of them.
            on_epoch: called as ``on_epoch(detector, epoch)`` after each epoch; whatever it draws at
                random or does to the detector's mode leaves the training as it is. A dict that it
                returns joins the epoch's entry in `history`, and so outlives an interruption.
            checkpoint: a file written after each epoch. If it exists, training goes on from there, to
                the same weights as if it had never stopped.

        Returns:
            self.

        Raises:
            ValueError: no pictures, an anomalous one among them, features precomputed by another
                detector, or a checkpoint of another detector.
            FloatingPointError: the loss or a weight is not finite; the checkpoint of the epoch before
                is kept.
        """
        self._check(dataset, training=True)
        checkpoint = None if checkpoint is None else Path(checkpoint)
        self.to(self.device)
        if self.cache and not isinstance(dataset, Frozen):
            dataset = self.precompute(dataset, training=True)
        self.history = []
        whole = dataset if isinstance(dataset, Frozen) else None
        resumed = checkpoint is not None and self.epochs > 0 and checkpoint.exists()
        if not resumed:
            self.begin(whole)
        if self.epochs == 0:  # nothing is trained: one look at the pictures was all
            return self.eval()
        optimizer = self.make_optimizer()
        if resumed and checkpoint is not None:
            self._resume(checkpoint, optimizer, len(dataset))
        bar = tqdm(
            range(len(self.history), self.epochs), f"{type(self).__name__}: training",
            initial=len(self.history), total=self.epochs, unit="epoch", leave=False,
        )  # fmt: skip
        for epoch in bar:
            started = time.perf_counter()
            self.train()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            total = 0.0
            for step, state in enumerate(self._batches(dataset, generator)):
                loss = self.loss(state, generator)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise self._diverged(f"the loss is {value}", epoch, step, checkpoint)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += value * len(state[0])
            if not all(bool(p.isfinite().all()) for p in self.trainable()):
                raise self._diverged("a weight is not finite", epoch, step, checkpoint)
            entry = {"epoch": epoch, "loss": total / len(dataset), "seconds": time.perf_counter() - started}
            self.history.append(entry | self.end_of_epoch(whole))
            bar.set_postfix(loss=f"{total / len(dataset):.4g}")
            if on_epoch is not None:
                self.history[-1] |= on_epoch(self, epoch) or {}
            if checkpoint is not None:  # after the callback: an epoch that is kept has been seen by it
                self._write(checkpoint, optimizer, len(dataset))
        return self.eval()

    def _diverged(self, what: str, epoch: int, step: int, checkpoint: Path | None) -> FloatingPointError:
        kept = f"; {checkpoint} holds the epoch before" if checkpoint and epoch else ""
        return FloatingPointError(
            f"{type(self).__name__}: {what} in epoch {epoch}, step {step}{kept}. "
            "Lower the learning rate, or normalise the embedding."
        )

    def _check(self, dataset: Pictures | Frozen, training: bool) -> None:
        """Refuse, before any work, what can only go wrong later."""
        if len(dataset) == 0:
            raise ValueError("there are no pictures in this data set")
        if isinstance(dataset, Frozen):
            if dataset.part != self.frozen_name():
                raise ValueError(
                    f"these features come from {dataset.part}, this detector's are {self.frozen_name()}: "
                    "call its own precompute()"
                )
        elif isinstance(dataset, Dataset):
            if training and dataset.labels.any():
                first = dataset.records[int(dataset.labels.argmax())].path
                raise ValueError(f"training takes normal pictures only, but {first} is labelled anomalous")
        elif isinstance(dataset, (Tensor, np.ndarray)):
            if dataset.ndim != 4 or dataset.shape[1] != 3:
                raise ValueError(f"pictures must be (N, 3, H, W), these are {tuple(dataset.shape)}")
            if "float" not in str(dataset.dtype):
                raise ValueError(f"pictures must be floats in [0, 1], not {dataset.dtype}: divide by 255")

    def _batches(self, dataset: Pictures | Frozen, generator: torch.Generator) -> Iterator[list[Tensor]]:
        order = torch.randperm(len(dataset), generator=generator)
        # Batches of nearly equal size: a last one of a single picture would have no spread to normalise by.
        for chosen in order.tensor_split(math.ceil(len(order) / self.batch_size)):
            if isinstance(dataset, Frozen):
                yield [tensor[chosen].to(self.device) for tensor in dataset.tensors]
            else:
                images = stacked(dataset, chosen.tolist()).to(self.device)
                yield self._frozen(images, True, generator)

    def _frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            return [tensor.float() for tensor in self.frozen(images, training, generator)]

    @torch.no_grad()
    def precompute(self, dataset: Pictures, training: bool = False) -> Frozen:
        """Run the frozen part over all pictures once; `fit` and `predict` take the result in their place.

        Args:
            dataset: pictures.
            training: as the method sees pictures in training (e.g. rotated at random), or in testing.

        Raises:
            ValueError: no pictures, or, in training, an anomalous one among them.
        """
        self._check(dataset, training)
        self.to(self.device).eval()
        generator = torch.Generator().manual_seed(self.seed)
        whole: list[Tensor] = []
        size: tuple[int, int] | None = None
        for chosen in self._in_order(dataset, "frozen features"):
            images = stacked(dataset, chosen.tolist()).to(self.device)
            state, size = self._frozen(images, training, generator), (images.shape[2], images.shape[3])
            if not whole:  # all the memory at once, and only once
                whole = [torch.empty(len(dataset), *tensor.shape[1:]) for tensor in state]
            for tensor, part in zip(whole, state, strict=True):
                tensor[chosen] = part.cpu()
        return Frozen(whole, self.frozen_name(), size)

    # --- Prediction -------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, dataset: Pictures | Frozen) -> Prediction:
        """Score pictures.

        Args:
            dataset: a data set, (N, 3, H, W) in [0, 1], or what `precompute` made of them.

        Returns:
            a `Prediction` on the CPU, maps at the resolution of the pictures.

        Raises:
            ValueError: no pictures, or what was precomputed belongs to another detector.
        """
        self._check(dataset, training=False)
        self.to(self.device).eval()
        generator = torch.Generator().manual_seed(self.seed)
        scores, maps = [], []
        for chosen in self._in_order(dataset, "predicting"):
            if isinstance(dataset, Frozen):
                state, size = [tensor[chosen].to(self.device) for tensor in dataset.tensors], dataset.size
            else:
                images = stacked(dataset, chosen.tolist()).to(self.device)
                state, size = self._frozen(images, False, generator), (images.shape[2], images.shape[3])
            score, map_ = self.score(state)
            scores.append(score.float().cpu())
            if map_ is not None:
                maps.append((map_ if size is None else upsample(map_, size)).float().cpu())
        return Prediction(torch.cat(scores).numpy(), torch.cat(maps).numpy() if maps else None)

    def _in_order(self, dataset: Pictures | Frozen, what: str) -> tqdm:
        """The indices of all pictures, a batch at a time."""
        batches = torch.arange(len(dataset)).split(self.batch_size)
        return tqdm(batches, f"{type(self).__name__}: {what}", unit="batch", leave=False)
