"""Distillation: a small network learns, without a single label, to say of a picture what a large one says.

The large one is EfficientNet-Lite0, whose ImageNet weights come with a pip package. The small ones are the
papers' own networks: AlexNet, ResNet-18 up to layer 3, each plain or with its attention blocks, and
EfficientAD's teacher. Three steps:

1. `attnad.pool.make_pool` cuts altered crops from the pictures and writes down what the teacher says of each;
2. `train` fits a student, and a 1x1 convolution behind each level it is read at, to what is written;
3. `save` folds batch normalisations where the architecture has none, and keeps 16 bits of each weight.

``python -m attnad distill alexnet --attention se --pictures FOLDER`` does all three.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from attnad.datasets.images import DataError
from attnad.methods.files import read, restore, training_tensors, write
from attnad.pool import LEVELS, folder_pictures, make_pool, package_pictures
from attnad.results import provenance
from attnad.students import PatchStudent, Student, make_student
from attnad.weights import distilled_file

EARLY, SMALL = 0.7, 64  # see `_window`
RECIPE = {"steps": 4000, "batch": 32, "lr": 2e-3, "decay": 0.02}

# --- Training -------------------------------------------------------------------------------------


def train(
    student: Student | PatchStudent,
    parts: Sequence[Path],
    recipe: dict,
    checkpoint: Path,
    every: int = 100,
    stop: int | None = None,
) -> list[dict]:
    """Fit a student to a pool.

    The error is squared, with each of the teacher's channels standardised, and summed over questions.

    Args:
        student: fresh from `make_student`.
        parts: the pool's files.
        recipe: ``steps``, ``batch`` (crops), ``lr`` (the highest; it warms up and then falls as a cosine),
            ``decay`` (of AdamW), ``small`` (see `_window`), ``seed``, ``crops``, ``bfloat16`` (multiply with
            16 bits, which some processors do twice as fast), and whatever else should stand in the file.
        checkpoint: written every `every` steps. If it exists, training goes on from there, to the same
            weights as if it had never stopped.
        stop: end early, as if interrupted, after this many steps.

    Returns:
        a log: one dict for each `every` steps, ``step``, ``loss`` and ``seconds``.

    Raises:
        ValueError: the checkpoint belongs to another recipe.
        FloatingPointError: the loss is not finite.
    """
    pool = [load_file(part) for part in tqdm(parts, "loading the pool", leave=False)]
    images = torch.cat([part.pop("images") for part in pool])
    levels = {name: torch.cat([part.pop(name) for part in pool]) for name in LEVELS}
    # A level with much larger numbers would otherwise drown the others.
    sample = student.targets({name: level[:1024].float() for name, level in levels.items()})
    means = [target.mean((0, 2, 3), keepdim=True) for target in sample]
    stds = [target.std((0, 2, 3)).view(1, -1, 1, 1) + 1e-6 for target in sample]
    student.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=recipe["decay"], fused=True)
    log: list[dict] = []
    first = _resume(checkpoint, student, optimizer, recipe, log) if checkpoint.exists() else 0
    started, total = time.perf_counter(), 0.0
    bar = tqdm(range(first, stop or recipe["steps"]), initial=first, total=recipe["steps"], mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = recipe["lr"] * _schedule(step, recipe["steps"])
        chosen = _batch(step, recipe["batch"], len(images), recipe["seed"])
        window = _window(step, recipe, images.shape[-1])
        batch = images[chosen][window(1)].float() / 255
        seen = {name: level[chosen][window(int(name[len("stride") :]))] for name, level in levels.items()}
        targets = student.targets({name: level.float() for name, level in seen.items()})
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe["bfloat16"]):
            answers = student(batch)
        loss = torch.zeros(())
        for answer, target, mean, std in zip(answers, targets, means, stds, strict=True):
            loss = loss + F.mse_loss(*_same_grid(answer.float(), (target - mean) / std))
        if not math.isfinite(value := float(loss.detach())):
            raise FloatingPointError(f"the loss is {value} in step {step}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += value
        if (step + 1) % every == 0 or step + 1 == recipe["steps"]:
            count = step + 1 - (log[-1]["step"] if log else 0)
            log.append(
                {"step": step + 1, "loss": total / count, "seconds": round(time.perf_counter() - started, 1)}
            )
            started, total = time.perf_counter(), 0.0
            bar.set_postfix(loss=f"{log[-1]['loss']:.4f}")
            write(checkpoint, training_tensors(student, optimizer), _header(recipe, log))
    student.eval()
    return log


def save(path: Path, student: Student | PatchStudent, images: Tensor, recipe: dict, log: list[dict]) -> Path:
    """Write a student's weights, 16 bits each, with recipe and log in the header.

    Args:
        images: (B, 3, H, W) uint8 crops, over which the mean of each gate is taken (see `make_backbone`).
    """
    tensors = {k: t.half() for k, t in student.folded().items() if t.is_floating_point()}
    tensors |= {key: tensor.half() for key, tensor in student.mean_gates(images.float() / 255).items()}
    return write(path, tensors, _header(recipe, log))


def _schedule(step: int, steps: int) -> float:
    """From 0 to 1 in the first twentieth of the steps, and down to 0 along half a cosine."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batch(step: int, size: int, count: int, seed: int) -> Tensor:
    """The crops of a step: every crop once, in a new order, before any is seen again."""
    per_pass = max(1, count // size)
    generator = torch.Generator().manual_seed(1_000_003 * seed + step // per_pass)
    return torch.randperm(count, generator=generator)[step % per_pass * size :][:size]


def _window(step: int, recipe: dict, size: int) -> Callable[[int], tuple]:
    """The part of the crops that is learnt from in this step, as an index into a map of a given stride.

    A window of `SMALL` pixels for the first `EARLY` steps: it costs less than half, and shifts by whole
    cells of the coarsest level, so that a crop looks different each time. The whole crops for the rest.
    """
    side = SMALL if recipe["small"] and step < EARLY * recipe["steps"] else size
    rng = np.random.default_rng([recipe["seed"], step])
    top, left = 32 * rng.integers((size - side) // 32 + 1, size=2)

    def window(stride: int) -> tuple:
        rows, columns = (slice(at // stride, (at + side) // stride) for at in (top, left))
        return ..., rows, columns

    return window


def _same_grid(answer: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The finer of the two averaged down to the grid of the coarser."""
    grid = (min(answer.shape[2], target.shape[2]), min(answer.shape[3], target.shape[3]))
    return F.adaptive_avg_pool2d(answer, grid), F.adaptive_avg_pool2d(target, grid)


def _header(recipe: dict, log: list[dict]) -> dict:
    return {"method": "distillation", "arguments": recipe, "history": log, "pictures": recipe["crops"]}


def _resume(
    checkpoint: Path, student: nn.Module, optimizer: torch.optim.Optimizer, recipe: dict, log: list[dict]
) -> int:
    """Set everything to where the checkpoint left it, and return the next step."""
    tensors, header = read(checkpoint)
    if header["arguments"] != json.loads(json.dumps(recipe)):
        raise ValueError(f"{checkpoint} is a checkpoint of another recipe: delete it to start anew")
    restore(student, optimizer, tensors)
    log += header["history"]
    return log[-1]["step"]


# --- The command line -----------------------------------------------------------------------------


def cli(arguments: list[str]) -> int:
    """``python -m attnad distill ARCHITECTURE``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnad distill",
        description="Train a small network to say of pictures what EfficientNet-Lite0 says of them.",
    )
    parser.add_argument("architecture", choices=["alexnet", "resnet18", "pdn_s", "pdn_m"])
    parser.add_argument("--attention", choices=["se", "cbam", "eca"],
                        help="blocks to train along with it (default: none)")  # fmt: skip
    parser.add_argument("--pictures", nargs="+", type=Path, default=[], metavar="FOLDER",
                        help="more pictures than those that come with pip packages")  # fmt: skip
    parser.add_argument("--crops", type=int, default=12_288, help="in the pool (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"])
    parser.add_argument("--batch", type=int, default=RECIPE["batch"])
    parser.add_argument("--lr", type=float, default=RECIPE["lr"])
    parser.add_argument("--decay", type=float, default=RECIPE["decay"])
    parser.add_argument("--bfloat16", action="store_true", help="multiply with 16 bits: faster on some CPUs")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of crops")
    parser.add_argument("--work", type=Path, default=Path("distilled"),
                        help="folder of pools and checkpoints (default: %(default)s)")  # fmt: skip
    parser.add_argument("--output", type=Path,
                        help="file of the weights (default: where 'distilled' finds them)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.attention and chosen.architecture.startswith("pdn"):
        parser.error("EfficientAD's teacher has no attention; its student has")
    output = chosen.output or distilled_file(chosen.architecture, chosen.attention)
    try:
        files = package_pictures() + folder_pictures(chosen.pictures)
        parts, made_of = make_pool(chosen.work, files, chosen.crops)
        recipe = {
            name: getattr(chosen, name) for name in ("architecture", "attention", *RECIPE, "bfloat16", "seed")
        }
        # A patch network sees too little of a small window.
        recipe |= {"crops": chosen.crops, "pool": made_of, "small": not chosen.architecture.startswith("pdn")}
        student = make_student(chosen.architecture, chosen.attention, chosen.seed)
        log = train(
            student, parts, recipe, chosen.work / f"{output.stem}-{chosen.seed}.checkpoint.safetensors"
        )
        save(output, student, load_file(parts[0])["images"], recipe | provenance(), log)
    except (DataError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, last loss {log[-1]['loss']:.4f}")
    return 0
