"""One test over every detector: it trains, sees an obvious defect, repeats itself, and survives a file.

A new method needs one line in `ARGUMENTS`: what makes it small, and sure enough of itself to see a bright
square after two epochs. Weights are random: the pictures are simple, and nothing is downloaded.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import pictures

from attnad import methods
from attnad.methods import Detector
from attnad.methods.pictures import Shared
from attnad.pdn import PDN

POOLED = {
    "backbone": "efficientnet_lite0", "weights": None, "image_size": 64, "scales": 1, "rotations": "none",
}  # fmt: skip
RESNET = {"backbone": "resnet18", "weights": None, "image_size": 64}
FLOW = {"steps": 2, "hidden": 16, "train_views": 1, "normalize": "standardize", "cache": True}


def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PDN("S")


ARGUMENTS = {
    "DifferNet": lambda: POOLED | FLOW | {"epochs": 2},
    "AttentDifferNet": lambda: POOLED | FLOW | {"epochs": 2, "attention": "cbam"},
    "Mahalanobis": lambda: POOLED,
    "NearestNeighbor": lambda: POOLED,
    "PatchCore": lambda: RESNET | {"dimensions": 64, "projection": 16, "coreset": 0.2},
    "FastFlow": lambda: RESNET | {"steps": 2, "epochs": 2},
    "CFlow": lambda: RESNET | {"steps": 2, "epochs": 2, "condition": 16},
    "CSFlow": lambda: RESNET | {"steps": 2, "epochs": 2, "hidden": 16, "levels": ["layer2"]},
    "SimpleNet": lambda: RESNET | {"epochs": 2, "dim": 64, "hidden": 32},
    "RDPP": lambda: RESNET | {"epochs": 2},
    "EfficientAD": lambda: {"teacher": teacher(), "image_size": 64, "steps": 9},
}
BLIND = methods.EdgeMagnitude, methods.CentrePrior  # which see no defect: the test below is theirs
NO_MAPS = {"DifferNet", "AttentDifferNet", "Mahalanobis", "NearestNeighbor"}
NAMES = sorted(
    name for name, kind in vars(methods).items()
    if name == "AttentDifferNet"
    or (isinstance(kind, type) and issubclass(kind, Detector) and kind not in (Detector, *BLIND))
)  # fmt: skip

TRAIN, TEST = pictures(10, size=72), pictures(6, size=72, seed=1, defects=(3, 4, 5))


def made(name: str, seed: int = 0) -> Detector:
    return getattr(methods, name)(**ARGUMENTS[name](), seed=seed, device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_method(name, tmp_path):
    assert name in ARGUMENTS, f"add a line for {name} to ARGUMENTS"
    random_numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    detector = made(name).fit(TRAIN)
    prediction = detector.predict(TEST)

    assert prediction.scores.shape == (6,)
    assert np.isfinite(prediction.scores).all()
    assert prediction.scores[3:].mean() > prediction.scores[:3].max()
    if name in NO_MAPS:
        assert prediction.maps is None
    else:
        assert prediction.maps.shape == (6, 72, 72)
        assert prediction.maps.dtype == np.float32
        assert np.isfinite(prediction.maps).all()
        features = detector.predict(detector.precompute(TEST))
        np.testing.assert_allclose(features.maps, prediction.maps, rtol=1e-4, atol=1e-6)

    loaded = type(detector).load(detector.save(tmp_path / name), device="cpu").predict(TEST)
    np.testing.assert_array_equal(loaded.scores, prediction.scores)
    if prediction.maps is not None:
        np.testing.assert_array_equal(loaded.maps, prediction.maps)

    np.testing.assert_array_equal(made(name).fit(TRAIN).predict(TEST).scores, prediction.scores)
    assert not np.array_equal(made(name, seed=1).fit(TRAIN).predict(TEST).scores, prediction.scores)
    assert torch.equal(torch.get_rng_state(), random_numbers[0])
    assert np.array_equal(np.random.get_state()[1], random_numbers[1])  # noqa: NPY002


def test_maps_that_know_nothing():
    edges = methods.EdgeMagnitude(64, device="cpu").predict(pictures(3, size=64))
    for image, map_, score in zip(pictures(3, size=64), edges.maps, edges.scores):
        slopes = (ndimage.sobel(image.mean(axis=0), axis) for axis in (0, 1))
        wanted = ndimage.gaussian_filter(np.hypot(*slopes), 4)
        np.testing.assert_allclose(map_, wanted, atol=1e-5)
        assert score == map_.max()
    hill = methods.CentrePrior(64, device="cpu").predict(pictures(3, size=72))
    assert hill.maps.shape == (3, 72, 72) and np.array_equal(hill.scores, np.ones(3))
    assert np.unravel_index(hill.maps[0].argmax(), (72, 72))[0] in (35, 36)
    np.testing.assert_allclose(hill.maps[0], hill.maps[0][::-1, ::-1], atol=1e-6)


def test_the_frozen_part_runs_once_for_all_alike_and_noise_is_that_of_its_seed():
    frozen = RESNET | {"weights": "distilled", "device": "cpu"}

    def rdpp(seed=0, **more):
        return methods.RDPP(**frozen | more, seed=seed)

    shared = Shared(TRAIN, TEST)
    (first, test), (second, same) = shared(rdpp()), shared(rdpp(1))
    assert shared(rdpp())[0] is first and second is not first
    assert same is test, "a test draws nothing: any seed may share it"
    clean = len(first.tensors) // 2
    assert all(torch.equal(a, b) for a, b in zip(first.tensors[:clean], second.tensors))
    assert not torch.equal(first.tensors[-1], second.tensors[-1])
    loud = rdpp(noise=0.5)
    assert loud.frozen_name() == rdpp().frozen_name()
    assert not torch.equal(shared(loud)[0].tensors[-1], first.tensors[-1])
    zero, one = (shared(methods.PatchCore(**frozen, seed=seed))[0] for seed in (0, 1))
    assert zero is one, "nothing is drawn here"
    few = Shared(TRAIN[:2], most=1)
    kept = few(rdpp())[0]
    assert few(rdpp())[0] is kept and few(rdpp(1)) and few(rdpp())[0] is not kept, "the oldest goes"


def test_what_is_shared_tells_apart_blocks_of_ones_own_and_noise_that_comes_in_batches():
    shared = Shared(TRAIN, TEST)
    for scale in (1.0, 2.0, 3.0, 4.0):  # made anew each time, so that an address is used again

        def attention(channels, scale=scale):
            return torch.nn.Sequential(torch.nn.Conv2d(channels, channels, 1), Scaled(scale))

        detector = methods.Mahalanobis(**POOLED, attention=attention, device="cpu")
        assert torch.equal(shared(detector)[1].tensors[0], detector.precompute(TEST).tensors[0])
        del detector, attention
    for name in ("RDPP", "EfficientAD"):
        small, large = (
            getattr(methods, name)(**ARGUMENTS[name]() | {"batch_size": size}, device="cpu")
            for size in (2, 4)
        )
        assert small.shown(training=True) != large.shown(training=True)
        assert small.shown(training=False) == large.shown(training=False) == ""


class Scaled(torch.nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * x
