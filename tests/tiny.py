"""A backbone small enough for tests of what stands around it, known to `make_backbone` as "tiny"."""

import numpy as np
from torch import nn

from attnad.attention import make_attention
from attnad.backbones import BACKBONES
from attnad.datasets.base import Dataset, Record
from attnad.frozen import Backbone
from attnad.methods import DifferNet


class Tiny(Backbone):
    """Two convolutions with an attention point behind each; 12 channels, stride 8."""

    all_levels = ("last",)
    all_points = ("P1", "P2")

    def __init__(self, attention=None, points=None, levels=None):
        super().__init__(attention, points, levels)
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.gates = nn.ModuleDict(
            {p: make_attention(attention, {"P1": 8, "P2": 12}[p]) for p in self.points}
        )

    def reachable_points(self):
        return self.all_points

    @property
    def channels(self):
        return (12,)

    @property
    def attention(self):
        return dict(self.gates)

    def steps(self):
        steps = [
            ("one", self.one),
            ("P1", self.gates["P1"] if "P1" in self.points else None),
            ("two", self.two),
        ]
        steps += [("P2", self.gates["P2"] if "P2" in self.points else None), ("last", self.pool)]
        return [(name, module) for name, module in steps if module is not None]


BACKBONES["tiny"] = Tiny


def pictures(count, size=32, seed=0, defects=()):
    """(count, 3, size, size): a soft grating with noise; a bright square in those of `defects`."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 3 * np.pi, size)
    images = 0.4 + 0.2 * np.sin(x[None, None, None] + rng.uniform(0, 0.5, (count, 1, 1, 1)))
    images = images + 0.05 * rng.random((count, 3, size, size))
    for i in defects:
        row, column = rng.integers(size // 8, size // 2, 2)
        images[i, :, row : row + size // 4, column : column + size // 4] = 1.0
    return images.clip(0, 1).astype(np.float32)


def dataset(images, labels=None):
    """`images` as a `Dataset`."""
    labels = [0] * len(images) if labels is None else labels
    records = [
        Record(
            label, "hole" if label else "good", f"picture-{i}.png", lambda size, i=i: (images[i], None, None)
        )
        for i, label in enumerate(labels)
    ]
    return Dataset("tiny", "things", "train", records, images.shape[-1])


TRAIN, TEST = pictures(10), pictures(6, seed=1, defects=(3, 4, 5))
VIEWS = {
    "backbone": "tiny", "weights": None, "image_size": 32, "scales": 2, "rotations": "right",
    "test_views": 2, "device": "cpu",
}  # fmt: skip
SMALL = {
    "train_views": 2, "cached_views": 4, "steps": 2, "hidden": 8, "epochs": 3, "batch_size": 4, "cache": True,
}  # fmt: skip


def differnet(**changes):
    """The smallest `DifferNet` that has everything."""
    return DifferNet(**(VIEWS | SMALL | {"normalize": "batchnorm"} | changes))
