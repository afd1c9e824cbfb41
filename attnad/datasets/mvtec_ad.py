"""MVTec AD: fifteen categories of objects and textures in a controlled scene, with masks.

Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
The layout was not checked against the archive here; it is the one that the authors document.
"""

from __future__ import annotations

from functools import partial

from attnad.datasets.base import Source
from attnad.datasets.folder import load_published

COUNTS = {
    "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109), "carpet": (280, 28, 89),
    "grid": (264, 21, 57), "hazelnut": (391, 40, 70), "leather": (245, 32, 92), "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141), "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
}  # fmt: skip

SOURCE = Source(
    name="mvtec_ad",
    title="MVTec AD: fifteen categories of industrial objects and textures",
    kind="real",
    licence="CC BY-NC-SA 4.0",
    size="4.9 GB",
    url="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    how="fill in the form at https://www.mvtec.com/company/research/datasets/mvtec-ad, download the "
    "archive, and unpack it with: python -m attnad data get mvtec_ad --archive FILE",
    categories=tuple(COUNTS),
    counts=COUNTS,
)

load = partial(load_published, SOURCE)
