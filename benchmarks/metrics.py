"""AUPRO of 200 maps of 256 x 256 pixels: ours beside anomalib's, time and memory.

    pip install anomalib        # only for the comparison
    python benchmarks/metrics.py

Each is run in a process of its own, several times; ``data/results/metrics.csv`` keeps the median.
"""

import argparse
import csv
import importlib.metadata
import multiprocessing
import resource
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from attnad.results import DATA, provenance


def example(n: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) with a few round defects in every second image, and maps that half see them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    masks = np.zeros((n, size, size), dtype=bool)
    maps = np.empty((n, size, size), dtype=np.float32)
    for i in range(n):
        for _ in range(rng.integers(1, 4) if i % 2 else 0):
            row, column = rng.uniform(0, size, 2)
            radius = rng.uniform(0.01, 0.1) * size
            masks[i] |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        maps[i] = ndimage.gaussian_filter(masks[i] + 5 * rng.standard_normal((size, size)), 2)
    return masks, maps


def ours(masks, maps):
    from attnad import metrics

    start = time.perf_counter()
    value = metrics.aupro(masks, maps)
    return value, time.perf_counter() - start


def anomalib(masks, maps):
    import torch
    from anomalib.metrics.aupro import _AUPRO

    maps, masks = torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64))
    start = time.perf_counter()
    metric = _AUPRO(fpr_limit=0.3)
    metric.update(maps, masks)
    return float(metric.compute()), time.perf_counter() - start


def measure(function, n, size, repeats, queue):
    masks, maps = example(n, size)
    function(masks[:2], maps[:2])  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = [function(masks, maps) for _ in range(repeats)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put((results[0][0], statistics.median(seconds for _, seconds in results), (after - before) / 1024))


def run(function, n, size, repeats):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(function, n, size, repeats, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "metrics.csv")
    args = parser.parse_args()
    functions = {"attnad": ours}
    try:
        functions[f"anomalib {importlib.metadata.version('anomalib')}"] = anomalib
    except importlib.metadata.PackageNotFoundError:
        print("anomalib is not installed: ours alone")
    command = shlex.join(["python", "benchmarks/metrics.py", *sys.argv[1:]])
    rows = []
    for n in args.maps:
        for name, function in functions.items():
            value, seconds, memory = run(function, n, args.size, args.repeats)
            print(f"{name}, {n} maps: AUPRO {value:.7f}, {seconds:.3f} s, {memory:.0f} MiB more", flush=True)
            figures = {"aupro": round(value, 7), "seconds": round(seconds, 4), "extra_mib": round(memory)}
            rows.append({"library": name, "maps": n, "size": args.size} | figures | provenance())
    with args.out.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, [*rows[0], "command"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"command": command} for row in rows)


if __name__ == "__main__":
    main()
