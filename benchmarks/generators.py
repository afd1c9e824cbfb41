"""How many generated pictures a second one core draws. Usage: python benchmarks/generators.py [size]"""

from __future__ import annotations

import sys
import time

from attnad import datasets


def rate(name: str, category: str, size: int, seconds: float = 3.0) -> float:
    """Pictures of a test split drawn in one second of processor time."""
    pictures = datasets.load(name, category, "test", size=size)
    pictures[0]
    drawn, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        pictures[drawn % len(pictures)]
        drawn += 1
    return drawn / (time.process_time() - start)


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    for name, source in datasets.SOURCES.items():
        if source.kind == "generated":
            for category in source.categories:
                print(f"{name:10s} {category:32s} {rate(name, category, size):6.1f} pictures/s of {size} px")
