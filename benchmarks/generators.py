"""How many generated pictures a second one core draws. Usage: python benchmarks/generators.py [size] [rounds]

Categories take turns, so that a busy moment of the machine does not fall on one of them, and each counts with
its best round: what else runs can only slow it down.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from attnad import datasets

PICTURES = 24  # in a round: half of them good, half anomalous


def seconds(pictures: datasets.Dataset) -> float:
    """Processor time to draw them all."""
    start = time.process_time()
    for sample in pictures:
        assert sample.image is not None
    return time.process_time() - start


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    tests = [
        datasets.load(name, category, "test", size=size, test_count=PICTURES // 2)
        for name, source in datasets.SOURCES.items() if source.kind == "generated"
        for category in source.categories
    ]  # fmt: skip
    rates = PICTURES / np.array([[seconds(test) for test in tests] for _ in range(rounds)])
    print(f"Pictures a second of processor time, {size} px: best and median of {rounds} rounds of {PICTURES}")
    for test, best, median in zip(tests, rates.max(axis=0), np.median(rates, axis=0), strict=True):
        print(f"{test.name:10s} {test.category:32s} {best:6.1f} {median:6.1f}")
