"""Our detectors beside anomalib's: same weights, same pictures, one process.

``pip install anomalib`` (nothing else here needs it), then ``TQDM_DISABLE=1 python benchmarks/peers.py``. For
each method the weights of ours are copied into anomalib's model and the outputs are compared where both
define the same; then both are timed in turns. anomalib has RD++ without its projections, reverse
distillation: for it ours are taken out. A ratio below 1 means that ours is faster: kept are the median
over the pairs and its 95 % bootstrap interval. Weights are random: they do not change the time.

``data/results/peers.csv`` has one row for each method, measure and batch size; a new run takes the old one's
place. ``--measures`` and ``--methods`` cut the work into pieces; ``ATTNAD_DATA`` must hold Magnetic Tile for
``quality``. The coreset's rows were made with
``MALLOC_MMAP_THRESHOLD_=4000000``: without it the process once grew beyond 20 GB and was killed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn
from twins import compare, copy, ours, seen, step, theirs

from attnad import datasets, metrics
from attnad.cells import few
from attnad.methods import FastFlow, PatchCore
from attnad.methods.patchcore import k_center
from attnad.results import DATA, provenance
from attnad.seeding import seeded

warnings.filterwarnings("ignore")
FILE = DATA / "results" / "peers.csv"
KEY = ["method", "measure", "batch"]
SIDES = ("ours", "theirs")
FIGURES = ("ours", "theirs", "unit", "ratio", "low", "high", "pairs")
METHODS = ("PatchCore", "FastFlow", "CFLOW-AD", "CS-Flow", "Reverse distillation", "EfficientAD")
MEASURES = ("outputs", "latency", "training step", "memory", "parameters", "coreset", "quality")


def alternate(a, b, seconds: float, least: int = 5) -> dict[str, float]:
    """Time a and b in turns; their medians in ms, and the ratio a/b with its bootstrap interval."""
    a(), b()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        pair = [0.0, 0.0]
        for i in (0, 1) if len(times) % 2 else (1, 0):
            start = time.perf_counter()
            (a, b)[i]()
            pair[i] = time.perf_counter() - start
        times.append(pair)
    ratio = np.divide(*np.transpose(times))
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratio, (2000, len(ratio))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    ours, theirs = 1e3 * np.median(times, axis=0)
    return {"ours": ours, "theirs": theirs, "unit": "ms", "ratio": np.median(ratio), "low": low, "high": high,
            "pairs": len(times)}  # fmt: skip


def record(out: Path, method: str, measure: str, size: int, batch: int | str = "", **figures) -> None:
    """One row of the file `out`, in place of the one that was there, and a line on the screen."""
    row = {"method": method, "measure": measure, "batch": batch, "image_size": size,
           "threads": torch.get_num_threads(), **dict.fromkeys(FIGURES, "")}  # fmt: skip
    row |= {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()} | provenance()
    row["versions"] += f"; anomalib {importlib.metadata.version('anomalib')}"
    row["command"] = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    print(*(f"{k}={row[k]}" for k in (*KEY, *figures)), flush=True)
    table = pd.DataFrame([row]).astype({"batch": str})
    if out.exists():
        old = pd.read_csv(out, dtype={"batch": str}, keep_default_na=False)
        same = (old[KEY] == table[KEY].iloc[0]).all(axis=1)
        table = pd.concat([old[~same], table])
    table.sort_values(KEY, kind="stable").to_csv(out, index=False)


def coreset(out: Path, count: int) -> None:
    """Both on the same `count` projected patch features of real pictures, 10 %."""
    from anomalib.models.components.sampling import KCenterGreedy

    train = datasets.load("elpv", category="mono", split="train", size=128)
    pictures = np.stack([train[i].image for i in range(-(-count // 256))])
    levels = ("stride8", "stride16", "stride32")
    detector = PatchCore("efficientnet_lite0", levels=levels, image_size=128)
    with torch.no_grad():
        points = detector.patches(detector.precompute(pictures).tensors).flatten(0, 2)[:count]
    projection = torch.randn(points.shape[1], 128, generator=torch.Generator().manual_seed(0)) / 128**0.5
    points = points @ projection
    start = time.perf_counter()
    chosen = k_center(points, count // 10, 10, torch.Generator().manual_seed(0))
    own = time.perf_counter() - start
    sampler = KCenterGreedy(points[:, None], 0.1)  # three dimensions: it takes them as they are
    # It draws its first centre at random; given ours, both rules should choose the same centres.
    with mock.patch("torch.randint", return_value=chosen[:1]):
        start = time.perf_counter()
        other = torch.tensor(sampler.select_coreset_idxs())
        their = time.perf_counter() - start
    parts = points.split(2000)
    radii = [float(max(torch.cdist(p, points[c]).amin(1).max() for p in parts)) for c in (chosen, other)]
    same = np.intersect1d(chosen, other).size / len(other)
    record(out, "PatchCore", "coreset time", 128, count, **paired(own, their, "s"))
    record(out, "PatchCore", "coreset radius", 128, count, **paired(*radii, ""))
    record(out, "PatchCore", "coreset shared", 128, count, ours=same, theirs=same, unit="share")


def quality(out: Path, seeds: int = 2, epochs: int = 20) -> None:
    """Image AUROC of both FastFlows on Magnetic Tile, trained alike on the same features of Lite0."""
    from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import create_fast_flow_block

    train, test = (datasets.load("magnetic_tile", split=split, size=128) for split in ("train", "test"))
    train, test = few(train, test, 300, 190)
    arguments = {"levels": ("stride8", "stride16"), "image_size": 128, "epochs": epochs, "cache": True}
    criterion, draw, found = FastflowLoss(), AnomalyMapGenerator((128, 128)), []
    for seed in range(seeds):
        mine = FastFlow("efficientnet_lite0", **arguments, seed=seed, device="cpu")
        seen, asked = mine.precompute(train, training=True), mine.precompute(test)
        own = metrics.image_auroc(test.labels, mine.fit(seen).predict(asked).scores)
        shapes = mine.shapes(128)
        with seeded(seed):
            norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
            blocks = nn.ModuleList(create_fast_flow_block(list(shape), True, 1.0, 8) for shape in shapes)
            optimizer = torch.optim.Adam([*norms.parameters(), *blocks.parameters()], 1e-3, weight_decay=1e-5)
            for _ in range(epochs):
                for chosen in torch.randperm(len(train)).split(32):
                    levels = [norm(x[chosen]) for norm, x in zip(norms, seen.tensors, strict=True)]
                    pairs = [block(x) for block, x in zip(blocks, levels, strict=True)]
                    loss = criterion(*zip(*pairs, strict=True))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        with torch.no_grad():
            triples = zip(blocks, norms, asked.tensors, strict=True)
            maps = draw([block(norm(x))[0] for block, norm, x in triples])
        found.append((own, metrics.image_auroc(test.labels, maps.flatten(1).amax(1).numpy())))
        print(f"seed {seed}: ours {found[-1][0]:.4f}, anomalib {found[-1][1]:.4f}", flush=True)
    own, their = np.mean(found, axis=0)
    record(
        out,
        "FastFlow",
        "image AUROC, Magnetic Tile",
        128,
        pairs=seeds,
        **paired(own, their, "mean over seeds"),
    )


def paired(ours: float, theirs: float, unit: str) -> dict:
    return {"ours": ours, "theirs": theirs, "unit": unit, "ratio": ours / theirs}


def peak(method: str, side: str, images: torch.Tensor) -> None:
    """Predict once and print the most memory that this process ever held, in MB."""
    size = images.shape[-1]
    with torch.no_grad():
        if side == "ours":
            ours(method, size).predict(images)
        else:
            model = theirs(method, size)
            if method == "PatchCore":
                model.memory_bank = torch.rand(2000, 384)
            model(seen(method, images))
    # Not getrusage: a process that was forked off a large one begins with that one's peak.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def memory(method: str, size: int, side: str) -> float:
    """Peak of a fresh process that predicts a batch of 8, in MB."""
    command = [sys.executable, __file__, "--methods", method, "--size", str(size), "--peak", side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="for each measurement")
    parser.add_argument("--coreset", type=int, default=50_000, help="number of patches; 0 to leave it out")
    parser.add_argument("--measures", nargs="*", choices=MEASURES, default=MEASURES)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8], help="of the latency")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, wanted, out = arguments.size, arguments.measures, arguments.out
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    if arguments.peak:
        return peak(arguments.methods[0], arguments.peak, images)
    for method in arguments.methods:
        mine, other = ours(method, size), theirs(method, size)
        copy(mine, other, method)
        if "outputs" in wanted:
            for name, difference in compare(mine, other, method, images[:2]).items():
                record(out, method, f"difference of the {name}", size, 2, ratio=difference)
        for batch in arguments.batches if "latency" in wanted else ():
            x = images[:batch]
            with torch.no_grad():
                functions = partial(mine.predict, x), partial(lambda m, n, x: m(seen(n, x)), other, method, x)
                record(out, method, "latency", size, batch, **alternate(*functions, arguments.seconds))
        if "training step" in wanted and method != "PatchCore":  # which has none
            batch = 1 if method == "EfficientAD" else 4
            steps = [step(method, d, images[:batch], own) for d, own in ((mine, True), (other, False))]
            record(out, method, "training step", size, batch, **alternate(*steps, arguments.seconds, 3))
        if "parameters" in wanted:
            counts = [sum(p.numel() for p in d.parameters()) / 1e6 for d in (mine, other)]
            record(out, method, "parameters", size, **paired(*counts, "million"))
        if "memory" in wanted:
            record(out, method, "memory", size, 8, **paired(*(memory(method, size, s) for s in SIDES), "MB"))
    if arguments.coreset and "coreset" in wanted:
        coreset(out, arguments.coreset)
    if "quality" in wanted:
        quality(out)


if __name__ == "__main__":
    main()
