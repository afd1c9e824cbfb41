"""The numbers: what the two papers print, what we measured, and where a measurement comes from."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

import attnad

# In a checkout the files lie beside the package; a wheel carries them inside it.
_HERE = Path(__file__).resolve().parent
DATA = _HERE / "_data" if (_HERE / "_data").is_dir() else _HERE.parent / "data"

RECORDED = ("torch", "torchvision", "timm", "FrEIA", "numpy", "scipy", "scikit-learn")


def paper_tables() -> list[str]:
    """The names that `paper_table` takes; ``data/paper/README.md`` says which table each one is."""
    return _names("paper")


def paper_table(name: str) -> pd.DataFrame:
    """One table of the papers, as printed: AUROC and AUPRO in per cent, one row per number.

    Rows with ``is_average`` are the paper's own averages. See ``data/paper/README.md`` for the sources.

    Raises:
        FileNotFoundError: there is no such table; the message lists those there are.
    """
    return _table("paper", name)


def read(name: str) -> pd.DataFrame:
    """What we measured and recorded in ``data/results/NAME.csv``: one row per run, with its provenance.

    Raises:
        FileNotFoundError: there is no such file; the message lists those there are.
    """
    return _table("results", name)


def scores(name: str) -> dict[str, np.ndarray]:
    """What stands beside `read`: for each run of ``data/results/NAME.csv``, by its command or key, (2, N).

    The first row are the test pictures' labels, the second their scores.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = DATA / "results" / f"{name}_scores.npz"
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: no single scores were kept of {name!r}")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def provenance(device: str = "cpu") -> dict[str, str]:
    """What has to stand beside a measured number so that someone else can judge and repeat it.

    Args:
        device: the one that did the work, as PyTorch names it.

    Returns:
        ``device, python, versions, commit, date``: texts without commas, ready for a row of a CSV file.
        ``commit`` ends in ``+`` if the sources had been changed since, and is empty outside a git checkout.
    """
    versions = [f"attnad {attnad.__version__}"]
    for name in RECORDED:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": _device(device),
        "python": platform.python_version(),
        "versions": "; ".join(versions),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _names(folder: str) -> list[str]:
    return sorted(path.stem for path in (DATA / folder).glob("*.csv"))


def _table(folder: str, name: str) -> pd.DataFrame:
    if name not in _names(folder):
        there = ", ".join(_names(folder)) or "none yet"
        raise FileNotFoundError(f"There is no {name!r} in {DATA / folder}; there are: {there}")
    return pd.read_csv(DATA / folder / f"{name}.csv")


def _device(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{device}: {model}".replace(",", ";")


@functools.cache
def _commit() -> str:
    """Of the checkout that holds this file, when it was first asked for: that of the sources in this process.

    Empty for an installed copy, which its version identifies."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_HERE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return ""
        commit = git("rev-parse", "HEAD")
        sources = (":/attnad", ":/benchmarks", ":/book/*.md")  # not the results, which every run changes
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")
