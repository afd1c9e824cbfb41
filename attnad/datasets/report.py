"""What is in a folder of pictures, and what looks wrong, before an hour of training is lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from attnad.datasets import folder
from attnad.datasets.images import DataError, open_picture, read_mask

TINY = 64  # pixels a side; the backbones see at most two by two positions of anything smaller
FEW = 20


@dataclass
class Report:
    """What `check` found. Print it.

    Attributes:
        counts: (split, defect) -> number of pictures.
        masks: number of masks.
        sizes: (width, height) -> number of pictures.
        modes: Pillow mode -> number of pictures.
        problems: sentences, each naming a file or a number.
    """

    counts: Counter = field(default_factory=Counter)
    masks: int = 0
    sizes: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{n:6d} {split}/{defect}" for (split, defect), n in sorted(self.counts.items())]
        lines.append(f"{self.masks:6d} masks")
        shown = ", ".join(f"{w} x {h} ({n})" for (w, h), n in self.sizes.most_common(3))
        lines.append(f"sizes: {shown}{', ...' if len(self.sizes) > 3 else ''}")
        lines.append(f"modes: {', '.join(f'{m} ({n})' for m, n in self.modes.most_common())}")
        lines += [f"- {p}" for p in self.problems] or ["nothing looks wrong"]
        return "\n".join(lines)


def check(
    root: str | Path, category: str | None = None, seed: int = 0, train_fraction: float = 0.8
) -> Report:
    """Reads every picture and mask once and reports what was found and what looks wrong.

    Args:
        root, category, seed, train_fraction: as in `attnad.datasets.folder.load`.

    Raises:
        DataError: the folder has no form that could be checked.
    """
    home = Path(root) / category if category else Path(root)
    entries = folder.divided(folder.scan(home), seed, train_fraction)
    report = Report()
    seen: dict[bytes, folder.Entry] = {}
    say = report.problems.append
    for entry in entries:
        report.counts[entry.split, entry.defect] += 1
        try:
            picture = open_picture(entry.path)
        except DataError as error:
            say(str(error))
            continue
        width, height = picture.size
        report.sizes[picture.size] += 1
        report.modes[picture.mode] += 1
        if min(width, height) < TINY:
            say(f"{entry.path}: only {width} x {height} pixels")
        if max(width, height) > 3 * min(width, height):
            say(f"{entry.path}: {width} x {height} pixels will be squeezed into a square; cut it into pieces")
        digest = hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).digest()
        twin = seen.setdefault(digest, entry)
        if twin is not entry:
            across = (
                "" if twin.split == entry.split else " (one in training, one in the test: the test is spoilt)"
            )
            say(f"{entry.path}: the same picture as {twin.path}{across}")
        if entry.mask is not None:
            _check_mask(entry.mask, entry.path, picture.size, report)
    _check_numbers(report, entries)
    return report


def _check_mask(mask_file: Path, path: Path, size: tuple[int, int], report: Report) -> None:
    report.masks += 1
    try:
        mask = read_mask(mask_file, max(8, min(512, *size)), path)
    except DataError as error:
        report.problems.append(str(error))
        return
    if not mask.any():
        report.problems.append(f"{mask_file}: the mask is empty, yet its picture is among the defective ones")
    elif mask.mean() > 0.9:
        report.problems.append(
            f"{mask_file}: the mask covers {mask.mean():.0%} of the picture; is it inverted?"
        )


def _check_numbers(report: Report, entries: list[folder.Entry]) -> None:
    say = report.problems.append
    train = sum(n for (split, _), n in report.counts.items() if split == "train")
    good = report.counts["test", "good"]
    bad = sum(n for (split, defect), n in report.counts.items() if split == "test" and defect != "good")
    if train < FEW:
        say(f"only {train} pictures to train on; {FEW} are little, 200 are comfortable")
    if not good or not bad:
        say(f"the test has {good} normal and {bad} anomalous pictures: an AUROC needs both")
    if 0 < report.masks < bad:
        say(f"{bad - report.masks} of {bad} defective pictures have no mask: pixel figures leave them out")
    kinds = [{e.path.suffix.lower() for e in entries if (e.defect == "good") == g} for g in (True, False)]
    if all(kinds) and not kinds[0] & kinds[1]:
        usual, other = (", ".join(sorted(k)) for k in kinds)
        say(f"good pictures are {usual}, defective ones {other}: a detector may learn the file format")
