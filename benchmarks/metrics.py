"""AUPRO of 200 maps of 256 x 256 pixels: ours beside anomalib's, time and memory.

    pip install anomalib        # only for the comparison
    python benchmarks/metrics.py

Each is run in a process of its own, several times; the median is printed.
"""

import argparse
import importlib.metadata
import multiprocessing
import platform
import resource
import statistics
import time

import numpy as np
from scipy import ndimage


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
    args = parser.parse_args()
    functions = {"attnad": ours}
    try:
        functions[f"anomalib {importlib.metadata.version('anomalib')}"] = anomalib
    except importlib.metadata.PackageNotFoundError:
        print("anomalib is not installed: ours alone")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, size {args.size}"
    )
    print(f"{'':16} {'maps':>5} {'AUPRO':>10} {'seconds':>8} {'extra MiB':>10}")
    for name, function in functions.items():
        for n in args.maps:
            value, seconds, memory = run(function, n, args.size, args.repeats)
            print(f"{name:16} {n:5d} {value:10.7f} {seconds:8.3f} {memory:10.0f}")


if __name__ == "__main__":
    main()
