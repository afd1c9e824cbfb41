"""The detectors: one file for each paper."""

from attnad.methods.base import Detector
from attnad.methods.baselines import CentrePrior, EdgeMagnitude, Mahalanobis, NearestNeighbor
from attnad.methods.cflow import CFlow
from attnad.methods.csflow import CSFlow
from attnad.methods.differnet import AttentDifferNet, CollapseWarning, DifferNet
from attnad.methods.efficientad import EfficientAD
from attnad.methods.fastflow import FastFlow
from attnad.methods.patchcore import PatchCore
from attnad.methods.pictures import Frozen, Prediction, Shared
from attnad.methods.rdpp import RDPP
from attnad.methods.simplenet import SimpleNet

__all__ = [
    "RDPP", "AttentDifferNet", "CFlow", "CSFlow", "CentrePrior", "CollapseWarning", "Detector", "DifferNet",
    "EdgeMagnitude", "EfficientAD", "FastFlow", "Frozen", "Mahalanobis", "NearestNeighbor", "PatchCore",
    "Prediction", "Shared", "SimpleNet",
]  # fmt: skip
