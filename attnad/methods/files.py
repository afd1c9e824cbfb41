"""How a detector is kept: one file of tensors (safetensors) with a JSON header. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


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


def write(path: Path, tensors: dict[str, Tensor], header: dict) -> Path:
    """Write a file that appears whole or not at all.

    Raises:
        OSError: it could not be written; what was at `path` before is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
            partial, metadata={"attnad": json.dumps(header)},
        )  # fmt: skip
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} could not be written ({error}); what was there before is untouched. Free some space "
            "or choose another place."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """The tensors whose name begins with `prefix`, without it, and the header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that this package did not write.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no detector at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["attnad"])
            for key in ("method", "arguments", "history", "pictures"):
                header[key]
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name[len(prefix) :]: file.get_tensor(name) for name in names}, header
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or was not saved by this package ({error!r}): delete it, or get it again"
        ) from error
