"""How a detector is kept: one file of tensors (safetensors) with a JSON header. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Optimizer(Protocol):
    """What training asks of an optimiser: PyTorch's have it all, and so do SimpleNet's two in one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self) -> None: ...

    def step(self) -> object: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, stored: dict[str, Any], /) -> None: ...


Self = TypeVar("Self", bound="Kept")  # typing has it from Python 3.11 on


def with_suffix(path: str | Path) -> Path:
    """`path`, ending in ``.safetensors``."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def plain(arguments: dict) -> dict:
    """`arguments` as they come back from JSON; an object unknown to it becomes ``{"own": its name}``."""

    def own(value):
        if isinstance(value, np.generic):
            return value.item()
        return {"own": getattr(value, "__name__", type(value).__name__)}

    return json.loads(json.dumps(arguments, default=own))


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write what shall be at `path`: it is put there in one step at the end, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # no one who looks for *.csv finds half of one
    try:
        yield partial
        with partial.open("rb+") as file:  # on the disk, before its name says so
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, tensors: dict[str, Tensor], header: dict) -> Path:
    """Write a file that appears whole or not at all.

    Raises:
        OSError: it could not be written; what was at `path` before is untouched.
    """
    try:
        with replaced(path) as partial:
            save_file(
                {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
                partial, metadata={"attnad": json.dumps(header)},
            )  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} could not be written ({error}); what was there before is untouched. Free some space "
            "or choose another place."
        ) from error
    return path


def read(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """The tensors whose name begins with `prefix`, without it, and the header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that this package did not write.
    """
    with _opened(path) as (file, header):
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name[len(prefix) :]: file.get_tensor(name) for name in names}, header


def read_header(path: Path) -> dict:
    """What `read` returns second, without the tensors; raises as `read` does."""
    with _opened(path) as (_, header):
        return header


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no detector at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["attnad"])
            for key in ("method", "arguments", "history", "pictures"):
                header[key]
            yield file, header
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or was not saved by this package ({error!r}): delete it, or get it again"
        ) from error


def training_tensors(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Tensor]:
    """What a model, and an optimiser in the middle of its work, consist of, by name."""
    tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    if optimizer is not None:
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    return tensors


def restore(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set both to what `training_tensors` took down."""
    model.load_state_dict({k[len("model.") :]: t for k, t in tensors.items() if k.startswith("model.")})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            if tensor.dim():  # a fused optimiser walks through memory: in the order of its parameter's
                tensor = torch.empty_like(parameters[int(index)], dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[name] = tensor.detach()
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


class Kept(nn.Module):
    """A module that can be written to a file and made again from it, also in the middle of its training.

    Its constructor keeps every argument as an attribute of the same name.

    Attributes:
        device: where it runs.
        epochs: that it is to be trained for.
        history: one dict for each finished epoch.
    """

    device: torch.device
    epochs: int
    history: list[dict]

    def arguments(self) -> dict:
        """The arguments this detector was made with, without the device."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name not in ("self", "device")}

    def save(self, path: str | Path) -> Path:
        """Write weights (safetensors) and arguments (JSON, in the same file's header) to ``path``.

        The suffix ``.safetensors`` is added if missing. The file appears whole or not at all.

        Raises:
            OSError: it could not be written, e.g. to a full disk.
        """
        return self._write(with_suffix(path))

    @classmethod
    def load(cls: type[Self], path: str | Path, device: str = "auto", **replace) -> Self:
        """The detector that `save` wrote.

        Args:
            path: as given to `save`.
            device: where it shall run.
            replace: arguments to use instead of the stored ones, e.g. an attention block of your own.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of another method, of other arguments, or of no detector at all.
        """
        path = with_suffix(path)
        tensors, stored = read(path, "model.")
        if stored["method"] != cls.__name__:
            raise ValueError(f"{path} holds a {stored['method']}, not a {cls.__name__}")
        arguments = stored["arguments"] | replace
        for name, value in arguments.items():
            if isinstance(value, dict) and "own" in value:
                raise ValueError(
                    f"{path} was saved with {name}={value['own']}, an object of your own: "
                    f"pass it to load({name}=...)"
                )
        if "weights" in arguments:
            arguments["weights"] = None  # all weights are in the file: nothing needs to be downloaded
        detector = cls(**arguments, device=device)
        if "weights" in arguments:
            detector.weights = (stored["arguments"] | replace)["weights"]
        for name, buffer in detector.named_buffers():
            if name in tensors and buffer.shape != tensors[name].shape:  # a memory as long as its data set
                owner, _, attribute = name.rpartition(".")
                setattr(detector.get_submodule(owner), attribute, torch.empty_like(tensors[name]))
        try:
            detector.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit a {cls.__name__} with its arguments: {error}") from error
        detector.history = stored["history"]
        return detector.to(detector.device).eval()

    def _write(self, path: Path, optimizer: Optimizer | None = None, pictures: int = 0) -> Path:
        arguments = plain(self.arguments())
        stored = {"method": type(self).__name__, "arguments": arguments, "history": self.history}
        return write(path, training_tensors(self, optimizer), stored | {"pictures": pictures})

    def _resume(self, path: Path, optimizer: Optimizer, pictures: int) -> None:
        tensors, stored = read(path)
        theirs = {"method": stored["method"], "pictures": stored["pictures"], **stored["arguments"]}
        mine = {"method": type(self).__name__, "pictures": pictures, **plain(self.arguments())}
        for name, value in mine.items():
            if name != "epochs" and value != theirs.get(name):
                raise ValueError(
                    f"{path} is a checkpoint with {name}={theirs.get(name)!r}, here it would be "
                    f"{value!r}: delete the file to start anew, or name another"
                )
        if len(stored["history"]) > self.epochs:
            raise ValueError(
                f"{path} is a checkpoint after {len(stored['history'])} epochs, more than {self.epochs}: "
                "delete the file to start anew, or name another"
            )
        restore(self, optimizer, tensors)
        self.history = stored["history"]
