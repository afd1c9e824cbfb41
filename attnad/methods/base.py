"""What all detectors share: one training loop, prediction, checkpoints, saving and loading."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from attnad.datasets.base import Dataset


@dataclass
class Prediction:
    """What a detector says about N pictures; higher means more anomalous.

    Attributes:
        scores: (N,) float.
        maps: (N, H, W) float32 at the resolution of the pictures; None if the method makes no maps.
    """

    scores: np.ndarray
    maps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class Frozen:
    """The output of a detector's frozen part for N pictures, computed once (`Detector.precompute`).

    Attributes:
        tensors: each (N, ...), on the CPU.
        part: which part of which network this is; another detector refuses it.
    """

    tensors: list[Tensor]
    part: str

    def __len__(self) -> int:
        return len(self.tensors[0])


Pictures = Dataset | Tensor | np.ndarray


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers drawn inside (also by numpy, which FrEIA uses) follow `seed`; outside nothing changes."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


class Detector(nn.Module):
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
        history: one dict for each finished epoch: ``epoch``, ``loss``, ``seconds`` and what the method adds.
    """

    def __init__(self, epochs: int, batch_size: int, cache: bool, seed: int, device: str):
        super().__init__()
        self.epochs, self.batch_size, self.cache, self.seed = epochs, batch_size, cache, seed
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.history: list[dict] = []

    # --- What a method fills in -------------------------------------------------------------------

    def frozen(self, images: Tensor, training: bool, generator: torch.Generator) -> list[Tensor]:
        """Everything about (B, 3, H, W) pictures that training cannot change: tensors (B, ...)."""
        raise NotImplementedError

    def begin(self, state: Frozen | None) -> None:
        """Called once before the first epoch, with the whole frozen part where it is cached."""

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        """What is minimised, for one batch of what `frozen` returned."""
        raise NotImplementedError

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """(B,) scores and (B, H', W') maps or None, for one batch of what `frozen` returned."""
        raise NotImplementedError

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The method's optimiser over `trainable()`."""
        raise NotImplementedError

    def frozen_name(self) -> str:
        """Names the frozen part: two detectors of the same name can share what they precomputed."""
        raise NotImplementedError

    def end_of_epoch(self) -> dict:
        """Figures that a method adds to the epoch's entry in `history`."""
        return {}

    # --- Training ---------------------------------------------------------------------------------

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def fit(
        self,
        dataset: Pictures | Frozen,
        on_epoch: Callable[[Detector, int], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Detector:
        """Train on normal pictures.

        Args:
            dataset: pictures, or what `precompute(..., training=True)` made of them.
            on_epoch: called as ``on_epoch(detector, epoch)`` after each epoch; whatever it draws at
                random or does to the detector's mode leaves the training as it is.
            checkpoint: a file written after each epoch. If it exists, training goes on from there, to
                the same weights as if it had never stopped.

        Returns:
            self.

        Raises:
            ValueError: no pictures, an anomalous one among them, or a checkpoint of another detector.
            FloatingPointError: the loss is not finite; the checkpoint of the epoch before is kept.
        """
        _check_training_data(dataset)
        checkpoint = None if checkpoint is None else Path(checkpoint)
        self.to(self.device)
        if self.cache and not isinstance(dataset, Frozen):
            dataset = self.precompute(dataset, training=True)
        self.history = []
        if self.epochs == 0:  # nothing is trained: all is done in one look
            self.begin(dataset if isinstance(dataset, Frozen) else None)
            return self
        if checkpoint is not None and checkpoint.exists():
            optimizer = self.make_optimizer()
            self._resume(checkpoint, optimizer)
        else:
            self.begin(dataset if isinstance(dataset, Frozen) else None)
            optimizer = self.make_optimizer()
        bar = tqdm(
            range(len(self.history), self.epochs), f"{type(self).__name__}: training",
            initial=len(self.history), total=self.epochs, unit="epoch", leave=False,
        )  # fmt: skip
        for epoch in bar:
            started = time.perf_counter()
            self.train()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            total, count = 0.0, 0
            for step, state in enumerate(self._batches(dataset, generator)):
                loss = self.loss(state, generator)
                value = float(loss.detach())
                if not math.isfinite(value):
                    kept = f"; {checkpoint} holds the epoch before" if checkpoint and epoch else ""
                    raise FloatingPointError(
                        f"{type(self).__name__}: the loss is {value} in epoch {epoch}, step {step}{kept}. "
                        "Lower the learning rate, or normalise the embedding."
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, count = total + value * len(state[0]), count + len(state[0])
            entry = {"epoch": epoch, "loss": total / count, "seconds": time.perf_counter() - started}
            self.history.append(entry | self.end_of_epoch())
            bar.set_postfix(loss=f"{total / count:.4g}")
            if checkpoint is not None:
                self._write(checkpoint, optimizer)
            if on_epoch is not None:
                on_epoch(self, epoch)
        return self

    def _batches(self, dataset: Pictures | Frozen, generator: torch.Generator) -> Iterator[list[Tensor]]:
        order = torch.randperm(len(dataset), generator=generator)
        for chosen in order.split(self.batch_size):
            if isinstance(dataset, Frozen):
                yield [tensor[chosen].to(self.device) for tensor in dataset.tensors]
            else:
                images = _images(dataset, chosen.tolist()).to(self.device)
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
        """
        self.to(self.device).eval()
        generator = torch.Generator().manual_seed(self.seed)
        parts: list[list[Tensor]] = []
        for images in _progress(self._image_batches(dataset), dataset, self.batch_size, "frozen features"):
            state = self._frozen(images.to(self.device), training, generator)
            parts.append([tensor.cpu() for tensor in state])
        if not parts:
            raise ValueError("there are no pictures in this data set")
        return Frozen([torch.cat(tensors) for tensors in zip(*parts, strict=True)], self.frozen_name())

    # --- Prediction -------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, dataset: Pictures | Frozen) -> Prediction:
        """Score pictures.

        Args:
            dataset: a data set, (N, 3, H, W) in [0, 1], or what `precompute` made of them.

        Returns:
            a `Prediction` on the CPU, maps at the resolution of the pictures.

        Raises:
            ValueError: what was precomputed belongs to another detector.
        """
        self.to(self.device).eval()
        scores, maps = [], []
        for state, size in self._test_states(dataset):
            score, map_ = self.score(state)
            scores.append(score.float().cpu())
            if map_ is not None:
                if size is not None and map_.shape[-2:] != size:
                    map_ = nn.functional.interpolate(map_[:, None], size, mode="bilinear")[:, 0]
                maps.append(map_.float().cpu())
        return Prediction(torch.cat(scores).numpy(), torch.cat(maps).numpy() if maps else None)

    def _test_states(self, dataset) -> Iterator[tuple[list[Tensor], tuple[int, int] | None]]:
        if isinstance(dataset, Frozen):
            if dataset.part != self.frozen_name():
                raise ValueError(
                    f"these features come from {dataset.part}, this detector's are {self.frozen_name()}: "
                    "call its own precompute()"
                )
            for chosen in torch.arange(len(dataset)).split(self.batch_size):
                yield [tensor[chosen].to(self.device) for tensor in dataset.tensors], None
            return
        generator = torch.Generator().manual_seed(self.seed)
        for images in _progress(self._image_batches(dataset), dataset, self.batch_size, "predicting"):
            yield self._frozen(images.to(self.device), False, generator), tuple(images.shape[-2:])

    def _image_batches(self, dataset: Pictures) -> DataLoader:
        return DataLoader(dataset, self.batch_size, collate_fn=_stack)  # type: ignore[arg-type]

    # --- Files ------------------------------------------------------------------------------------

    def arguments(self) -> dict:
        """The arguments this detector was made with, without the device."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name not in ("self", "device")}

    def save(self, path: str | Path) -> Path:
        """Write weights (safetensors) and arguments (JSON, in the same file's header) to ``path``.

        The suffix ``.safetensors`` is added if missing. The file appears whole or not at all.
        """
        return self._write(_with_suffix(path))

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", **replace) -> Detector:
        """The detector that `save` wrote.

        Args:
            path: as given to `save`.
            device: where it shall run.
            replace: arguments to use instead of the stored ones, e.g. an attention block of your own.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of another method, or of no detector at all.
        """
        path = _with_suffix(path)
        tensors, stored = _read(path)
        if stored["method"] != cls.__name__:
            raise ValueError(f"{path} holds a {stored['method']}, not a {cls.__name__}")
        arguments = stored["arguments"] | replace
        own = [name for name, value in arguments.items() if isinstance(value, dict) and "own" in value]
        for name in own:
            raise ValueError(
                f"{path} was saved with {name}={arguments[name]['own']}, an object of your own: "
                f"pass it to load({name}=...)"
            )
        if "weights" in arguments:
            arguments["weights"] = None  # all weights are in the file: nothing needs to be downloaded
        detector = cls(**arguments, device=device)
        if "weights" in arguments:
            detector.weights = stored["arguments"]["weights"]
        for name, buffer in detector.named_buffers():
            if name in tensors and buffer.shape != tensors[name].shape:  # a memory as long as its data set
                owner, _, attribute = name.rpartition(".")
                setattr(detector.get_submodule(owner), attribute, torch.empty_like(tensors[name]))
        detector.load_state_dict(tensors)
        detector.history = stored["history"]
        return detector.to(detector.device).eval()

    def _write(self, path: Path, optimizer: torch.optim.Optimizer | None = None) -> Path:
        arguments = {
            name: value if _is_json(value) else {"own": getattr(value, "__name__", repr(value))}
            for name, value in self.arguments().items()
        }
        stored = {"method": type(self).__name__, "arguments": arguments, "history": self.history}
        tensors = {f"model.{key}": tensor for key, tensor in self.state_dict().items()}
        if optimizer is not None:
            for index, values in optimizer.state_dict()["state"].items():
                for name, tensor in values.items():
                    tensors[f"optimizer.{index}.{name}"] = tensor
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
                partial, metadata={"attnad": json.dumps(stored)},
            )  # fmt: skip
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _resume(self, path: Path, optimizer: torch.optim.Optimizer) -> None:
        tensors, stored = _read(path, everything=True)
        mine = {name: value for name, value in self.arguments().items() if _is_json(value)}
        for name, value in mine.items():
            if name != "epochs" and _plain(value) != stored["arguments"].get(name):
                raise ValueError(
                    f"{path} is a checkpoint with {name}={stored['arguments'].get(name)!r}, this detector "
                    f"has {value!r}: delete the file to start anew, or name another"
                )
        self.load_state_dict({k[len("model.") :]: t for k, t in tensors.items() if k.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.history = stored["history"]


def _check_training_data(dataset: Pictures | Frozen) -> None:
    if len(dataset) == 0:
        raise ValueError("there are no pictures to train on")
    if isinstance(dataset, Dataset) and dataset.labels.any():
        first = dataset.records[int(dataset.labels.argmax())].path
        raise ValueError(f"training takes normal pictures only, but {first} is labelled anomalous")


def _stack(items: list) -> Tensor:
    return torch.stack([torch.as_tensor(getattr(item, "image", item)) for item in items])


def _images(dataset: Pictures, indices: list[int]) -> Tensor:
    return _stack([dataset[i] for i in indices])


def _progress(batches, dataset: Pictures, batch_size: int, what: str):
    return tqdm(batches, what, total=math.ceil(len(dataset) / batch_size), unit="batch", leave=False)


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def _plain(value):
    return json.loads(json.dumps(value))


def _is_json(value) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _read(path: Path, everything: bool = False) -> tuple[dict[str, Tensor], dict]:
    if not path.exists():
        raise FileNotFoundError(f"there is no detector at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads(file.metadata()["attnad"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kinds, and the header may be anything
        raise ValueError(f"{path} is not a detector saved by this package: {error}") from error
    if not everything:
        tensors = {k[len("model.") :]: t for k, t in tensors.items() if k.startswith("model.")}
    return tensors, stored
