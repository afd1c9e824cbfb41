"""What is in a folder of pictures, and what looks wrong, before an hour of training is lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attnad.datasets import folder
from attnad.datasets.images import DataError, is_picture, open_picture, read_mask, to_rgb

TINY = 64  # pixels a side; the backbones see at most two by two positions of anything smaller
FEW = 20
FLAT = 32  # of 255 grey levels: a picture with fewer shows nothing
# Pictures, or films of them, that a camera makes and nobody here can read.
FOREIGN = {".heic", ".heif", ".avif", ".jfif", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw",
           ".psd", ".npy", ".mov", ".mp4"}  # fmt: skip


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
    entries = folder.divided(folder.scan(home, strict=False), seed, train_fraction)
    report = Report()
    seen: dict[bytes, folder.Entry] = {}
    # What gives a picture's kind away: name -> of the defective ones, of the good ones.
    traits: dict[str, tuple[set[str], set[str]]] = {
        trait: (set(), set()) for trait in ("file format", "size", "mode")
    }
    say = report.problems.append
    for entry in entries:
        report.counts[entry.split, entry.defect] += 1
        traits["file format"][entry.defect == "good"].add(entry.path.suffix.lower())
        try:
            picture = open_picture(entry.path)
            rgb = to_rgb(picture, entry.path)
        except DataError as error:
            say(str(error))
            continue
        width, height = picture.size
        report.sizes[picture.size] += 1
        report.modes[picture.mode] += 1
        traits["size"][entry.defect == "good"].add(f"{width} x {height}")
        traits["mode"][entry.defect == "good"].add(picture.mode)
        if min(width, height) < TINY:
            say(f"{entry.path}: only {width} x {height} pixels")
        if max(width, height) > 3 * min(width, height):
            say(f"{entry.path}: {width} x {height} pixels will be squeezed into a square; cut it into pieces")
        pixels = np.asarray(rgb)
        if np.ptp(pixels) < FLAT:
            deep = "; 12 bits in a file of 16? Then scale them up" if picture.mode.startswith("I") else ""
            say(f"{entry.path}: hardly any contrast, {pixels.min()} to {pixels.max()} of 255{deep}")
        digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).digest()
        twin = seen.setdefault(digest, entry)
        if twin is not entry:
            say(f"{entry.path}: the same picture as {twin.path}{_spoilt(entry, twin)}")
        if entry.mask is not None:
            _check_mask(entry.mask, entry.path, picture.size, report)
    for trait, (other, usual) in traits.items():
        # Where nearly every picture has a size of its own, good and defective ones differ by chance.
        if 0 < len(other) <= 3 and 0 < len(usual) <= 3 and not other & usual:
            good, bad = (", ".join(sorted(values)) for values in (usual, other))
            say(f"good pictures are {good}, defective ones {bad}: a detector may learn the {trait}")
    _check_numbers(report)
    if home.is_dir():
        _check_left_out(report, home, entries)
    return report


def _spoilt(entry: folder.Entry, twin: folder.Entry) -> str:
    if (entry.defect == "good") != (twin.defect == "good"):
        return " (once good, once defective: which is it?)"
    if entry.split != twin.split:
        return " (one in training, one in the test: the test is spoilt)"
    return ""


def _check_left_out(report: Report, home: Path, entries: list[folder.Entry]) -> None:
    """Files that nobody will ever read, and whose owner may think that they are."""
    used = {e.path for e in entries} | {e.mask for e in entries}
    # Masks of good pictures are empty, and are not missed; they lie among all masks or in a folder "good".
    good, mine = {e.path.stem for e in entries if e.defect == "good"}, folder.GOOD + folder.MASK_FOLDERS
    left: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home).parts
        if path in used or any(part.startswith((".", "__MACOSX")) for part in inside) or not path.is_file():
            continue
        if path.suffix.lower() in FOREIGN:
            left.setdefault((path.parent, path.suffix), []).append(path)
        elif is_picture(path):
            mask = (
                any(part.lower() in folder.MASK_FOLDERS for part in inside)
                or folder.base_stem(path) != path.stem
            )
            if not mask:
                left.setdefault((path.parent, "picture"), []).append(path)
            elif path.parent.name.lower() not in mine or not good & {folder.base_stem(path), path.stem}:
                left.setdefault((path.parent, "mask"), []).append(path)
    for (parent, what), paths in left.items():
        which = str(paths[0]) if len(paths) == 1 else f"{parent}: {len(paths)} files, e.g. {paths[0].name}"
        why = {
            "picture": "not read, since no picture is looked for in this place",
            "mask": "a mask without its picture, or a second one for the same picture",
        }.get(what, f"not read, since nothing here understands {what}; save it as PNG or JPEG")
        report.problems.append(f"{which}: {why}")


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


def _check_numbers(report: Report) -> None:
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
