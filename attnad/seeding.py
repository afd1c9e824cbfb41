"""Random numbers that can be repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers drawn on the CPU inside follow `seed`; outside nothing changes.

    Those of numpy's global generator too: FrEIA draws its permutations from it. And those of `device`, if it
    is a GPU.
    """
    state = np.random.get_state()  # noqa: NPY002
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change every GPU's as well
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
