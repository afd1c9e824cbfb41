"""Attention in visual anomaly detection: the package that the book's chapters import.

Images flow through it in one direction::

    datasets -> backbones (+ attention) -> features -> flow | bank | student -> maps -> Prediction
                                                                      -> metrics, plots, explain

Importing it downloads nothing, seeds nothing and asks no device anything.
"""

import os

__version__ = "0.1.0"

PROFILES = ("quick", "gpu", "paper")


def profile() -> str:
    """The size of experiment the chapters run: ``"quick"``, ``"gpu"`` or ``"paper"``.

    Taken from the environment variable ``ATTNAD_PROFILE``; where that is not set, ``"gpu"`` if
    PyTorch sees a GPU and ``"quick"`` otherwise. ``"paper"`` takes hours and is only ever asked for.

    Raises:
        ValueError: the variable holds anything else.
    """
    name = os.environ.get("ATTNAD_PROFILE")
    if name is None:
        import torch

        return "gpu" if torch.cuda.is_available() else "quick"
    if name not in PROFILES:
        raise ValueError(f"ATTNAD_PROFILE={name!r} is not a profile: use one of {', '.join(PROFILES)}")
    return name
