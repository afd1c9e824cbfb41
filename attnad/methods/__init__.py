"""The detectors: one file for each paper."""

from attnad.methods.base import Detector, Frozen, Prediction
from attnad.methods.baselines import Mahalanobis, NearestNeighbor
from attnad.methods.differnet import AttentDifferNet, CollapseWarning, DifferNet
from attnad.methods.efficientad import EfficientAD
from attnad.methods.rdpp import RDPP
from attnad.methods.simplenet import SimpleNet

__all__ = [
    "AttentDifferNet", "CollapseWarning", "Detector", "DifferNet", "EfficientAD", "Frozen",
    "Mahalanobis", "NearestNeighbor", "Prediction", "RDPP", "SimpleNet",
]  # fmt: skip
