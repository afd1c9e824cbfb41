"""The detectors: one file for each paper."""

from attnad.methods.base import Detector, Frozen, Prediction
from attnad.methods.baselines import Mahalanobis, NearestNeighbor
from attnad.methods.differnet import AttentDifferNet, CollapseWarning, DifferNet

__all__ = [
    "AttentDifferNet", "CollapseWarning", "Detector", "DifferNet", "Frozen", "Mahalanobis",
    "NearestNeighbor", "Prediction",
]  # fmt: skip
