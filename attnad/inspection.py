"""A folder of pictures in, a page to look at out: ``python -m attnad train`` and ``predict``."""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from attnad import datasets, plots
from attnad.datasets.folder import MASK_FOLDERS, without_masks
from attnad.datasets.images import DataError, is_picture, read_image
from attnad.export import threshold
from attnad.methods import Detector
from attnad.methods.files import read_header, with_suffix
from attnad.sizes import METHODS, SIZES

SHOWN = 224  # pixels, side of a picture on the page


@dataclass(frozen=True)
class Judged:
    """One picture file and what the detector says of it.

    Attributes:
        path: of the file.
        score: nan if the file could not be read.
        image: (3, H, W) in [0, 1], or None.
        map: (H, W), or None.
        error: why it could not be read, or empty.
    """

    path: Path
    score: float
    image: np.ndarray | None = None
    map: np.ndarray | None = None
    error: str = ""


def load(path: str | Path, device: str = "auto") -> Detector:
    """The detector in a file, of whatever method.

    Raises:
        FileNotFoundError, ValueError: see `attnad.methods.files.Kept.load`.
    """
    name = read_header(with_suffix(path))["method"]
    if name not in METHODS:
        raise ValueError(f"{path} holds a {name}, which is no method of this package")
    return METHODS[name].load(path, device=device)


def judge(detector: Detector, folder: str | Path) -> list[Judged]:
    """Every picture in a folder and the folders in it; a file that cannot be read stops nothing.

    Masks are no pictures: files in a folder of masks, and ``a_mask.png`` beside ``a.png``, are left out.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_picture(path))
    paths = [
        p for p in paths if not any(part.lower() in MASK_FOLDERS for part in p.relative_to(folder).parts)
    ]
    beside: dict[Path, list[Path]] = {}
    for path in paths:
        beside.setdefault(path.parent, []).append(path)
    paths = [path for group in beside.values() for path in without_masks(group)]
    if not paths:
        raise DataError(f"there are no pictures in {folder}")
    found, broken = [], []
    for path in paths:
        try:
            found.append((path, read_image(path, detector.image_size)))
        except DataError as error:
            broken.append(Judged(path, float("nan"), error=str(error)))
    if not found:
        return broken
    prediction = detector.predict(np.stack([image for _, image in found]))
    maps = prediction.maps if prediction.maps is not None else [None] * len(found)
    judged = [
        Judged(path, float(score), image, map_)
        for (path, image), score, map_ in zip(found, prediction.scores, maps, strict=True)
    ]
    return sorted(judged, key=lambda one: -one.score) + broken


def report(judged: Sequence[Judged], line: float | None = None, title: str = "Inspection") -> str:
    """A page of its own (HTML, nothing to fetch): the most anomalous pictures first, maps laid over them.

    All maps share one scale, from the median to the highest value in any of them, so that a colour means
    the same everywhere.

    Args:
        judged: from `judge`.
        line: scores above it are alarms; None marks none.
        title: of the page.
    """
    maps = [one.map for one in judged if one.map is not None]
    low, high = (float(np.median(maps)), float(np.max(maps))) if maps else (0.0, 1.0)
    alarms = sum(line is not None and one.score > line for one in judged)
    unread = sum(bool(one.error) for one in judged)
    counts = [f"{len(judged) - unread} pictures"]
    counts += [f"<b>{alarms} above the threshold of {line:.4g}</b>"] if line is not None else []
    counts += [f"{unread} could not be read"] if unread else []
    cards = "\n".join(_card(one, line, low, high) for one in judged)
    return _PAGE.format(title=html.escape(title), counts=", ".join(counts), cards=cards, shown=SHOWN)


def framed(page: str, title: str, height: int = 430) -> str:
    """A page inside another one, as HTML: what `report` returns, shown in a notebook."""
    style = f"width:100%;height:{height}px;border:1px solid #8888"
    title, page = html.escape(title), html.escape(page)
    return f'<div><iframe title="{title}" srcdoc="{page}" style="{style}"></iframe></div>'


def _card(one: Judged, line: float | None, low: float, high: float) -> str:
    name = html.escape(str(one.path))
    if one.image is None:
        said = f"<b>not read</b><br>{html.escape(one.error)}"
        return f'<figure class="unread"><figcaption>{said}</figcaption></figure>'
    alarm = line is not None and one.score > line
    said = "alarm" if alarm else ("below the threshold" if line is not None else "")
    views = _view(one.image, f"{name}, as it is")
    if one.map is not None:
        shade = matplotlib.colormaps["viridis"](np.clip((one.map - low) / max(high - low, 1e-12), 0, 1))
        grey = one.image.mean(axis=0)
        views += _view(
            0.45 * grey + 0.55 * shade[..., :3].transpose(2, 0, 1), f"{name}, anomaly map laid over it"
        )
    return (
        f'<figure class="{"alarm" if alarm else "calm"}">{views}<figcaption><b>{one.score:.4g}</b> {said}<br>'
        f"<span>{name}</span></figcaption></figure>"
    )


def _view(image: np.ndarray, alt: str) -> str:
    pixels = (np.clip(image, 0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR)
    return f'<img src="{plots.encode(picture)}" alt="{alt}" width="{SHOWN}" height="{SHOWN}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1080px; padding: 0 1rem; }}
main {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; padding: .6rem; border: 2px solid #8888; border-radius: 8px; }}
figure {{ max-width: 100%; box-sizing: border-box; }}
figure.alarm {{ border-color: #d55e00; }}
figure.alarm b {{ color: #d55e00; }}
img {{ max-width: min({shown}px, 46%); height: auto; margin-right: .3rem; border-radius: 4px; }}
figcaption span {{ font-size: .8rem; overflow-wrap: anywhere; opacity: .8; }}
figure.unread {{ max-width: 24rem; }}
</style></head>
<body><h1>{title}</h1>
<p>{counts}. The most anomalous first. Bright is anomalous; all maps share one scale.</p>
<main>
{cards}
</main></body></html>
"""


def train_cli(arguments: list[str]) -> int:
    """``python -m attnad train FOLDER``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m attnad train", description="Fit a detector to a folder.")
    parser.add_argument("folder", type=Path, help="normal pictures, in FOLDER/good")
    parser.add_argument("--method", choices=METHODS, default="PatchCore")
    parser.add_argument("--attention", help="none, se, cbam, ...")
    parser.add_argument("--profile", choices=SIZES, default="quick", help="sizes (quick)")
    parser.add_argument("--false-alarms", type=float, default=0.05, help="share of normal pictures (0.05)")
    parser.add_argument("--out", type=Path, required=True, help="file for the detector")
    given = parser.parse_args(arguments)
    more = {"attention": given.attention} if given.attention not in (None, "none") else {}
    try:
        detector = METHODS[given.method](**SIZES[given.profile].get(given.method, {}) | more)
        options = {"size": detector.image_size, "root": given.folder}
        train, test = (datasets.load("folder", split=split, **options) for split in ("train", "test"))
        # A detector is at ease with what it was trained on: the line needs normal pictures new to it.
        back = test[np.flatnonzero(test.labels == 0)]
        if not len(back):
            raise ValueError("no threshold: it takes normal pictures that were not trained on")
        detector.fit(train)
        print(f"fitted to {len(train)} pictures: {detector.save(given.out)}")
        line = threshold(detector.predict(back).scores, given.false_alarms)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"threshold {line.value:.6g}: {line.expected:.1%} false alarms are expected among pictures like "
        f"these ({line.low:.1%} to {line.high:.1%}, by {len(back)} pictures held back)"
    )
    return 0


def predict_cli(arguments: list[str]) -> int:
    """``python -m attnad predict FOLDER``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m attnad predict", description="Judge pictures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detector", type=Path, required=True, help="file that train has written")
    parser.add_argument("--threshold", type=float, help="scores above it are alarms")
    parser.add_argument("--report", type=Path, metavar="PAGE.html", help="write a page to look at")
    given = parser.parse_args(arguments)
    try:
        judged = judge(load(given.detector), given.folder)
        for one in judged:
            print(f"{one.score:.6g}\t{one.path}" + (f"\t{one.error}" if one.error else ""))
        if given.report:
            title = f"{given.folder.resolve().name}: inspection"
            given.report.write_text(report(judged, given.threshold, title), encoding="utf8")
            print(f"see {given.report.resolve()}", file=sys.stderr)
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
