"""What a background does to anomaly maps, whether attention helps, and what weighting by a mask does.

``python benchmarks/backgrounds.py`` (about 15 minutes on one core; ``ATTNAD_DATA`` must hold Magnetic Tile)
writes ``data/results/backgrounds.csv``. Three parts:

- ``attention``: a house behind the glass insulator (``roof=True`` of powerline; two missing caps, a smooth
  background): methods with attention and its controls, before and after weighting.
- ``weighting``: all categories of powerline with and without the house, Magnetic Tile and ELPV: maps
  weighted by masks of several kinds. ``gain`` is the difference to maps that are not weighted.
- ``masks``: how well a mask fits the object, and how much of the defects it keeps.

``false_alarms`` is the share of normal pictures above the threshold that finds 80 % of the anomalous ones;
``old_threshold`` the same with a house, at the threshold found without one. Intervals hold 95 % of a
bootstrap that draws categories, seeds and test pictures anew, the pictures the same for all that is
compared, as `attnad.comparison` does for AUROC; here for all figures alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from attnad import comparison, datasets, metrics
from attnad.cells import few
from attnad.foreground import Foreground, as_masks, iou, weighted
from attnad.methods import CentrePrior, Prediction, Shared
from attnad.results import DATA, provenance
from attnad.sizes import LITE0, METHODS

FILE = DATA / "results" / "backgrounds.csv"
SIZE, DRAWS, RECALL, LIMIT, BINS = 128, 500, 0.8, 0.3, 400
GLASS = {"clutter": 0.2, "defect_size": 2.0}  # the laboratory of the first part
WEIGHTED = tuple(LITE0)
ASSETS = datasets.SOURCES["powerline"].categories
LAST = {"attention_points": ("stride16",), "train_attention": True}  # by FastFlow's likelihood
CONTROLS = ("se", "cbam", "shuffled_se", "shuffled_cbam")
# What trained the gates -> the method, and its further arguments with each attention.
ATTENTION: dict[str, tuple[str, dict[str, dict]]] = {
    "untrained": ("PatchCore", {name: {} for name in ("none", *CONTROLS, "random")}),
    "likelihood": ("FastFlow", {"none": {}} | {name: LAST for name in CONTROLS}),  # noqa: C420
}


class Draws:
    """How often each test picture is drawn, (DRAWS + 1, N): the first row is the data as they are."""

    def __init__(self, labels: np.ndarray, masks: np.ndarray | None):
        rng = np.random.default_rng(0)
        self.labels, self.masks = labels.astype(bool), masks
        self.weights = np.empty((DRAWS + 1, len(labels)))
        for kind in (self.labels, ~self.labels):
            n = kind.sum()
            self.weights[0, kind] = 1 / n
            self.weights[1:, kind] = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n

    def figures(self, prediction: Prediction, before: Prediction | None) -> dict[str, np.ndarray]:
        """(DRAWS + 1,) values of each figure; `before`: of the same scenes without a house."""
        good = prediction.scores[~self.labels]
        of_bad, of_good = self.weights[:, self.labels], self.weights[:, ~self.labels]
        wins = comparison.wins(self.labels, prediction.scores)
        found = {"image_auroc": ((of_bad @ wins) * of_good).sum(axis=1)}
        for name, setter in (("false_alarms", prediction), ("old_threshold", before)):
            if setter is not None:
                alarm = good[None] >= self._thresholds(setter)[:, None]
                found[name] = (alarm * of_good).sum(axis=1)
        return found if self.masks is None else found | {"aupro": self._aupro(prediction.maps)}

    def _thresholds(self, prediction: Prediction) -> np.ndarray:
        """(DRAWS + 1,) at which RECALL of the anomalous pictures are found."""
        bad = prediction.scores[self.labels]
        order = np.argsort(-bad)
        enough = self.weights[:, self.labels][:, order].cumsum(axis=1) >= RECALL - 1e-9
        return bad[order][enough.argmax(axis=1)]

    def _aupro(self, maps: np.ndarray) -> np.ndarray:
        """As `metrics.aupro`, from histograms of each picture, which any draw can add up."""
        top = np.sort(maps[~self.masks])[::-1]
        edges = np.unique(top[np.linspace(0, 1.5 * LIMIT * len(top), BINS).astype(int)])
        level = np.searchsorted(edges, maps, side="right")  # 0 below all edges
        normal, region, count = (np.zeros((len(maps), len(edges) + 1)) for _ in range(3))
        for i, (bins, mask) in enumerate(zip(level, self.masks, strict=True)):
            normal[i] = np.bincount(bins[~mask], minlength=len(edges) + 1)
            regions, n = ndimage.label(mask, metrics.EIGHT_NEIGHBOURS)
            sizes = np.bincount(regions.ravel())
            region[i] = np.bincount(bins[mask], 1 / sizes[regions[mask]], minlength=len(edges) + 1)
            count[i] = n
        # Both kinds of picture count as often as there are of them.
        times = self.weights * np.where(self.labels, self.labels.sum(), (~self.labels).sum())
        false, overlap = (
            np.cumsum((times @ h)[:, ::-1], axis=1) / (times @ total)[:, None]
            for h, total in ((normal, normal.sum(axis=1)), (region, count[:, 0]))
        )
        grid = np.linspace(0, LIMIT, 301)
        curves = [np.interp(grid, np.r_[0, x], np.r_[0, y]) for x, y in zip(false, overlap, strict=True)]
        return np.trapezoid(curves, grid, axis=1) / LIMIT


def interval(values: dict[tuple[str, int], np.ndarray], least: float = 0.0) -> tuple[float, float, float]:
    """(category, seed) -> (DRAWS + 1,): the mean over categories and seeds, and its interval's ends.

    Few categories, or few seeds of one, vary less among themselves than many would: what they add to the
    interval is stretched, as in `attnad.comparison`.
    """
    by: dict[str, list[np.ndarray]] = {}
    for (category, _), values_drawn in sorted(values.items()):
        by.setdefault(category, []).append(values_drawn)
    every = [np.stack(seeds, axis=1) for seeds in by.values()]  # (DRAWS + 1, seeds) each
    found = comparison.redrawn([seeds[1:] for seeds in every], 0.95, np.random.default_rng(1), (least, 1.0))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(np.mean([seeds[0].mean() for seeds in every])), float(low), float(high)


def arrays(samples) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Pictures, labels, defect masks and object masks (None where there are none) of samples."""
    samples = list(samples)
    images, labels = np.stack([s.image for s in samples]), np.array([s.label for s in samples])
    nothing = np.zeros((SIZE, SIZE), bool)
    masks = objects = None
    if any(s.mask is not None for s in samples):
        masks = np.stack([nothing if s.mask is None else s.mask[0] for s in samples])
    if samples[0].object_mask is not None:
        objects = np.stack([s.object_mask[0] for s in samples])
    return images, labels, masks, objects


class Scene:
    """Pictures of one category to train on, test sets of it, and masks of all kinds for these."""

    def __init__(self, name: str, train, tests: dict, taught: Foreground | None = None):
        self.name = name
        self.images, _, _, objects = arrays(train)
        self.tests = {key: arrays(test) for key, test in tests.items()}
        self.shared = Shared(self.images, self.images, *(test[0] for test in self.tests.values()))
        self.draws = {key: Draws(test[1], test[2]) for key, test in self.tests.items()}
        component = Foreground().fit(self.images)
        taught = taught or Foreground().fit(self.images, objects)
        usual = component.masks(self.images).mean(axis=0) if objects is None else objects.mean(axis=0)
        centre = CentrePrior(SIZE, device="cpu").predict(self.images[:1]).maps[0]
        self.masks = {}
        for key, (images, _, _, true) in self.tests.items():
            values, size = taught.values(images), (SIZE, SIZE)
            masks = {"none": 1.0, "component": component.masks(images), "segmenter": as_masks(values, size)}
            masks["segmenter, grown"] = as_masks(values, size, grow=2)
            if true is not None:
                masks["true mask"] = true.astype(np.float32)
                reach = np.ones((1, 33, 33), bool)  # 16 pixels, as far as two cells of the grid
                masks["true mask, grown"] = ndimage.maximum_filter(masks["true mask"], footprint=reach)
            self.masks[key] = masks | {"usual place": usual / usual.max(), "centre": centre / centre.max()}

    def run(self, method: str, seed: int, weightings=None, **arguments) -> dict:
        """(test set, weighting, figure) -> (DRAWS + 1,) of a detector trained here."""
        begin = time.perf_counter()
        detector = METHODS[method](**LITE0[method] | arguments, seed=seed, device="cpu")
        fitted, normal, *tested = self.shared(detector) if detector.cache else self.shared.sets
        detector.fit(fitted)
        zero = float(detector.predict(normal).maps.min())
        found, before = {}, {}
        for key, pictures in zip(self.tests, tested, strict=True):
            prediction = detector.predict(pictures)
            for weighting, mask in self.masks[key].items():
                if weightings is None or weighting in weightings:
                    now = weighted(prediction, mask, zero)
                    figures = self.draws[key].figures(now, before.get(weighting))
                    before[weighting] = now  # the set without a house comes first
                    found |= {(key, weighting, figure): values for figure, values in figures.items()}
        took = time.perf_counter() - begin
        print(self.name, method, arguments, seed, f"{took:.0f} s", flush=True)
        return found


def row(part, data, roof, method, attention, weighting, figure, mine, control, **more) -> dict:
    """One row: the figure with its interval, and its difference to the control's."""
    mean, low, high = interval(mine)
    gain = interval({key: mine[key] - control[key] for key in mine}, least=-1)
    return {
        "part": part, "data": data, "roof": roof, "method": method, "attention": attention,
        "weighting": weighting, "figure": figure, "mean": mean, "low": low, "high": high,
        "gain": gain[0], "gain_low": gain[1], "gain_high": gain[2],
        "categories": len({c for c, _ in mine}), "seeds": len({s for _, s in mine}), **more,
    }  # fmt: skip


def powerline(category: str, count: int, each: int, **look) -> tuple:
    """Training pictures, and the test sets without and with a house."""
    options = {"size": SIZE, "train_count": count, "test_count": each} | look
    train = datasets.load("powerline", category, "train", **options)
    tests = {r: datasets.load("powerline", category, "test", **options, roof=r) for r in (False, True)}
    return train, tests


def attention(seeds: int, count: int, each: int) -> list[dict]:
    scene = Scene("glass", *powerline("glass_insulator", count, each, **GLASS))
    runs: dict = {}
    for gates, (method, variants) in ATTENTION.items():
        for name, options in variants.items():
            chosen = options if name == "none" else options | {"attention": name}
            for seed in range(seeds):
                for key, values in scene.run(method, seed, ("none", "component"), **chosen).items():
                    runs.setdefault((gates, name, *key), {})["glass", seed] = values
    rows = []
    for (gates, name, roof, weighting, figure), mine in runs.items():
        control = runs[gates, "none", roof, weighting, figure]
        rows.append(row("attention", "glass insulator", roof, ATTENTION[gates][0], name, weighting, figure,
                        mine, control, gates=gates, train=count, test_each=each))  # fmt: skip
    return rows


def weighting(scenes: dict[str, list[Scene]], seeds: int, count: int, each: int) -> list[dict]:
    """Rows for each group of scenes, and for each of its scenes if there are several."""
    rows = []
    for data, group in scenes.items():
        runs: dict = {}
        for scene in group:
            for method in WEIGHTED:
                for seed in range(seeds):
                    for key, values in scene.run(method, seed).items():
                        runs.setdefault((method, *key), {})[scene.name, seed] = values
        subsets = {data: {s.name for s in group}}
        if len(group) > 1:
            subsets |= {s.name: {s.name} for s in group}
        for name, members in subsets.items():
            for (method, roof, kind, figure), values in runs.items():
                mine = {k: v for k, v in values.items() if k[0] in members}
                control = runs[method, roof, "none", figure]
                rows.append(row("weighting", name, roof, method, "none", kind, figure, mine, control,
                                train=count, test_each=each))  # fmt: skip
    return rows


def fits(scenes: list[Scene], count: int, each: int) -> list[dict]:
    """How well each kind of mask fits: IoU with the object, and the share of the defects' pixels kept."""
    rows = []
    for scene in scenes:
        for roof, (_, labels, defects, objects) in scene.tests.items():
            for kind, masks in scene.masks[roof].items():
                masks = np.broadcast_to(masks, (len(labels), SIZE, SIZE)) > 0.5
                found = {"share": masks.mean(axis=(1, 2))}
                if objects is not None:
                    found["iou"] = iou(masks, objects)
                if defects is not None:
                    there = defects.any(axis=(1, 2))
                    found["kept"] = (masks & defects)[there].sum((1, 2)) / defects[there].sum((1, 2))
                for figure, values in found.items():
                    share = comparison.mean_interval({(scene.name, 0): values}, draws=DRAWS)
                    rows.append({"part": "masks", "data": scene.name, "roof": roof, "weighting": kind,
                                 "figure": figure, "mean": share.mean, "low": share.low, "high": share.high,
                                 "train": count, "test_each": each})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=80)
    parser.add_argument("--test", type=int, default=40, help="of each kind")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    sizes = chosen.train, chosen.test
    drawn = {category: powerline(category, *sizes) for category in ASSETS}
    groups = {"powerline": [Scene(category, *parts) for category, parts in drawn.items()]}
    # Real pictures come without masks of their object: what was learned on drawings has to do.
    images, _, _, objects = arrays(sample for train, _ in drawn.values() for sample in train[:30])
    taught = Foreground().fit(images, objects)
    real = {
        "elpv mono": ("elpv", "mono"), "elpv poly": ("elpv", "poly"),
        "magnetic tile": ("magnetic_tile", "magnetic_tile"),
    }  # fmt: skip
    for name, pair in real.items():
        parts = (datasets.load(*pair, split, size=SIZE) for split in ("train", "test"))
        train, test = few(*parts, *sizes)
        groups[name] = [Scene(name, train, {False: test}, taught)]
    rows = fits([scene for group in groups.values() for scene in group], *sizes)
    rows += attention(chosen.seeds, *sizes)
    rows += weighting(groups, chosen.seeds, *sizes)
    table = pd.DataFrame(rows).round(4).assign(image_size=SIZE, recall=RECALL, draws=DRAWS, **provenance())
    table["command"] = (
        f"python benchmarks/backgrounds.py --seeds {chosen.seeds} --train {chosen.train} --test {chosen.test}"
    )
    table.to_csv(chosen.out, index=False)
    print(f"{len(table)} rows in {chosen.out}")


if __name__ == "__main__":
    main()
