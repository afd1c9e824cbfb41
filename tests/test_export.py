"""Thresholds keep their promise; ONNX files say what PyTorch says."""

import numpy as np
import pytest
import torch

from attnad import export, methods
from attnad.export import threshold

SMALL = {"backbone": "efficientnet_lite0", "image_size": 64, "device": "cpu"}
TINY = {
    methods.DifferNet: SMALL
    | {"scales": 2, "test_views": 3, "hidden": 16, "steps": 2, "normalize": "batchnorm"},
    methods.FastFlow: SMALL | {"levels": ("stride8", "stride16"), "steps": 2},
    methods.RDPP: SMALL,
    methods.SimpleNet: SMALL | {"dim": 32, "hidden": 32},
    methods.EfficientAD: {"teacher": None, "image_size": 64, "device": "cpu"},
}  # fmt: skip


def test_threshold_by_hand():
    got = threshold(np.arange(1, 20), 0.1)  # n = 19, k = 18
    assert got.value == 18 and got.expected == pytest.approx(0.1)
    assert threshold(np.arange(1, 20), 0.05).value == 19  # the highest of all, and not one less


def test_promise_is_kept_on_average_whatever_the_distribution():
    rng, rates = np.random.default_rng(0), []
    covered = 0
    for _ in range(400):
        line = threshold(rng.exponential(size=60), 0.1)
        rate = np.exp(-line.value)  # the true chance that an exponential score lies above
        rates.append(rate)
        covered += line.low <= rate <= line.high
    assert np.mean(rates) == pytest.approx(line.expected, abs=0.01) and line.expected <= 0.1
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


def test_too_few_pictures_promise_nothing():
    with pytest.raises(ValueError, match="it takes 99"):
        threshold(np.arange(98), 0.01)
    assert threshold(np.arange(99), 0.01).value == 98
    with pytest.raises(ValueError, match="between 0 and 1"):
        threshold(np.arange(9), 5)
    with pytest.raises(ValueError, match="finite"):
        threshold(np.array([1, np.nan]), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [None, "se", "cbam"])
@pytest.mark.parametrize("method", TINY, ids=lambda method: method.__name__)
def test_onnx_says_what_pytorch_says(method, attention, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    detector = method(**TINY[method], attention=attention).eval()
    file = export.to_onnx(detector, tmp_path / "detector")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    got = session.run(None, {"image": image.numpy()})
    wanted = detector.predict(image)
    names = ["score"] if wanted.maps is None else ["score", "map"]
    assert [output.name for output in session.get_outputs()] == names
    for name, one, other in zip(("score", "map"), got, (wanted.scores, wanted.maps)):
        error = np.abs(one - other).max() / np.abs(other).max()
        assert error < 1e-4, f"{name}: {error:.1e}"
    assert [p.name for p in tmp_path.iterdir()] == ["detector.onnx"]


@pytest.mark.parametrize("method", ["PatchCore", "CFlow", "CSFlow", "Mahalanobis", "NearestNeighbor"])
def test_what_is_not_exported_says_why(method, tmp_path):
    assert method in export.WHY_NOT
    with pytest.raises(TypeError, match=f"{method} has no ONNX form here: it"):
        export.to_onnx(getattr(methods, method)(**SMALL), tmp_path / "x")
    assert not list(tmp_path.iterdir())
