"""Out of the notebook: a threshold with a promise, and a detector as an ONNX file that needs no PyTorch."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from attnad.methods import RDPP, Detector, DifferNet, EfficientAD, FastFlow, SimpleNet
from attnad.methods.files import replaced

EXPORTED = (DifferNet, FastFlow, RDPP, SimpleNet, EfficientAD)
WHY_NOT = {
    "PatchCore": "it searches a memory of training patches, which is a data base and not a network",
    "NearestNeighbor": "it searches a memory of training pictures, which is a data base and not a network",
    "Mahalanobis": "it is one linear system after the backbone, shorter in any language than in ONNX",
    "CFlow": "its flow takes single positions, some thousands at a time; an export of that was not compared",
    "CSFlow": "its flow is joined across scales; an export of that was not compared with PyTorch",
}


@dataclass(frozen=True)
class Threshold:
    """Where to draw the line, by normal pictures alone.

    Attributes:
        value: scores above it raise an alarm.
        expected: the chance that a further normal picture raises one.
        low, high: that chance lies between them with 95 %, for these held-out pictures.
    """

    value: float
    expected: float
    low: float
    high: float


def threshold(normal_scores: np.ndarray, false_alarms: float = 0.05) -> Threshold:
    """The lowest line that at most `false_alarms` of further normal pictures will cross.

    With n scores of normal pictures *that the detector was not trained on*, the k-th lowest is crossed by
    a further one with the chance 1 - k / (n + 1), whatever the scores' distribution (at most that, if scores
    can be equal); the true rate behind a given line follows a Beta(n + 1 - k, k) distribution (Vovk,
    "Conditional validity of inductive conformal predictors", 2012). It holds as long as the pictures to come
    are like those held out.

    Args:
        normal_scores: (N,) of held-out normal pictures.
        false_alarms: share of normal pictures, between 0 and 1.

    Raises:
        ValueError: too few scores for so few false alarms; the message says how many it takes.
    """
    scores = np.sort(np.asarray(normal_scores, dtype=float))
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms={false_alarms} is a share of the normal pictures: between 0 and 1")
    if not np.isfinite(scores).all():
        raise ValueError("some scores are not finite: the detector has probably diverged")
    n = len(scores)
    k = math.ceil((n + 1) * (1 - false_alarms) - 1e-9)
    if k > n:
        needed = math.ceil(1 / false_alarms) - 1
        raise ValueError(
            f"{n} held-out pictures cannot promise {false_alarms:.3g} false alarms: it takes {needed}"
        )
    low, high = stats.beta(n + 1 - k, k).ppf([0.025, 0.975])
    return Threshold(float(scores[k - 1]), 1 - k / (n + 1), float(low), float(high))


class _Judge(nn.Module):
    """A detector as one function of a picture, the way `Detector.predict` uses it."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        state = self.detector.frozen(image, False, torch.Generator())
        score, map_ = self.detector.score(state)
        return (score,) if map_ is None else (score, map_)


def to_onnx(detector: Detector, path: str | Path) -> Path:
    """Write a fitted detector as an ONNX file.

    Its input ``image`` is (1, 3, S, S) in [0, 1], S the detector's ``image_size``: resize before. Its outputs
    are ``score`` (1,) and, for methods that make maps, ``map`` (1, H, W). Standardisation, views and
    attention are inside. All is in single precision: on a GPU, `Detector.predict` computes features in half
    precision, so compare with a detector on the CPU.

    Args:
        detector: one of `EXPORTED`, fitted.
        path: of the file; ``.onnx`` is added if missing.

    Raises:
        TypeError: another method; the message says why it is not exported.
        ImportError: the packages are missing: ``pip install "attnad[export]"``.
    """
    if not isinstance(detector, EXPORTED):
        name = type(detector).__name__
        raise TypeError(
            f"{name} has no ONNX form here: {WHY_NOT.get(name, 'its output has not been compared')}"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError('ONNX needs more packages: pip install "attnad[export]"') from error
    path = Path(path)
    path = path if path.suffix == ".onnx" else path.with_name(path.name + ".onnx")
    device, size = detector.device, detector.image_size
    judge = _Judge(detector.eval().cpu())
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(), replaced(path) as partial:
            warnings.simplefilter("ignore")  # of the exporter, about itself
            image = torch.rand(1, 3, size, size)
            names = ["score", "map"][: len(judge(image))]
            torch.onnx.export(
                judge, (image,), partial, input_names=["image"], output_names=names,
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    finally:
        detector.to(device)
    return path
