"""What computing frozen features once is worth: seconds of an epoch of DifferNet, with and without a cache.

    python benchmarks/frozen_features.py [--pictures 64] [--epochs 3]

The same pictures, the same four right-angled views of each and the flow of the `quick` profile. Both ways see
every view of every picture in each epoch; the median epoch is compared. A second comparison has a gate at the
last attention point (stride16) trained, so that only what follows the last frozen layer is recomputed.
"""

import argparse
import platform
import statistics

import numpy as np
import torch

from attnad.methods import DifferNet

QUICK = {
    "backbone": "efficientnet_lite0", "image_size": 128, "scales": 2, "steps": 8, "hidden": 256,
    "batch_size": 64,
    "rotations": "right", "train_views": 4, "cached_views": 4, "normalize": "batchnorm",
}  # fmt: skip
CASES = {
    "nothing trained in the backbone": {},
    "SE at stride16, trained": {"attention": "se", "attention_points": ["stride16"]},
}


def epoch_seconds(pictures: np.ndarray, cache: bool, epochs: int, **case) -> float:
    """The median epoch; the time of filling the cache is not in it."""
    detector = DifferNet(**QUICK, **case, cache=cache, epochs=epochs).fit(pictures)
    return statistics.median(entry["seconds"] for entry in detector.history)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    pictures = np.random.default_rng(0).random((chosen.pictures, 3, 128, 128), dtype=np.float32)
    print(f"{chosen.pictures} pictures, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{platform.machine()}")  # fmt: skip
    for name, case in CASES.items():
        # a cached epoch is short: more of them, for a steadier median
        once = epoch_seconds(pictures, True, 5 * chosen.epochs, **case)
        again = epoch_seconds(pictures, False, chosen.epochs, **case)
        print(
            f"{name}: {again:.2f} s an epoch recomputed, {once:.3f} s cached, {again / once:.1f} times faster"
        )


if __name__ == "__main__":
    main()
