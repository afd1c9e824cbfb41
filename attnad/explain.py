"""What a detector looks at: Grad-CAM, gradient maps, and the gates of attention.

`attnad.plots.side_by_side` draws them; how far they can be believed is measured in `attnad.agreement`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torchvision.transforms.functional as TF
from torch import Tensor, nn

from attnad.attention import Gate
from attnad.frozen import CHUNK, Backbone
from attnad.maps import smooth
from attnad.methods.base import Detector
from attnad.methods.pictures import Pictures, stacked
from attnad.methods.pooled import PooledDetector
from attnad.methods.pyramid import PyramidDetector


def grad_cam(detector: Detector, images: Pictures, layer: str | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the anomaly score, by the package pytorch-grad-cam.

    The channels of a feature map, each weighted by the mean over positions of the score's derivative with
    respect to it, are added up; what is negative is cut off. A high value says: more of what is here would
    make the picture more anomalous.

    The AttentDifferNet paper (figures 5 and 6) takes "the last convolutional layer of the feature extractor"
    as the layer. It does not say which number it differentiates (it is "focusing on the feature extractor
    step only", so perhaps one without the flow), nor whether the layer lies before or behind the attention
    block; a feature extractor has no class, whose score Grad-CAM was made for. Here it is the anomaly score,
    and the layer is an argument.

    A detector that sees a picture turned and at several scales is explained by its full-size upright view:
    the other scales count in the score, but not in the map. (DifferNet's score is a mean over views, so
    that the other views would change the map by a constant factor only.)

    Args:
        detector: fitted, with a pretrained feature extractor.
        images: a data set, or (N, 3, H, W) in [0, 1].
        layer: the step of the extractor whose output is weighted, see `layers`; None for the last one with a
            convolution that is no attention block: as in the paper, and before the last gate (in a ResNet,
            whose gates lie inside its blocks, behind it).

    Returns:
        (N, H, W) float32, each map stretched from 0 to 1; all zero where no channel speaks for an anomaly.

    Raises:
        TypeError: the detector has no feature extractor.
        ValueError: no such layer, no pictures, or a score that cannot be differentiated.
    """
    from pytorch_grad_cam import GradCAM  # here, since it is slow to import

    known = layers(detector)
    layer = layer or _last_convolution(check(detector).extractor)
    if layer not in known:
        raise ValueError(f"the extractor has no layer {layer!r}: use one of {', '.join(known)}")
    maps = []
    for batch in _tensor(images).split(CHUNK):
        with (
            _differentiable(detector, layer) as model,
            # Copied: the step behind the layer may work in place (AlexNet's ReLU does).
            GradCAM(model, [model.mark], reshape_transform=torch.clone) as cam,
        ):
            maps.append(cam(batch.to(detector.device), [lambda score: score] * len(batch)))
    return np.concatenate(maps)


def gradient_maps(
    detector: Detector, images: Pictures, views: int | None = None, sigma: float = 3.0
) -> np.ndarray:
    """Gradient of the anomaly score with respect to the picture, mean over rotations (DifferNet, 2021).

    For each rotation the gradient is turned back, smoothed, and its absolute values are added up over the
    colour channels, as in the DifferNet paper (there of the negative log-likelihood; the score is its part
    that depends on the picture's place in the latent space).

    Args:
        detector: fitted, with a pretrained feature extractor.
        images: a data set, or (N, 3, H, W) in [0, 1].
        views: rotations, equally spaced; None for those that the detector tests with.
        sigma: of the smoothing, in pixels.

    Returns:
        (N, H, W) float32 of at least 0, in units of score per brightness. Raises as `grad_cam` does.
    """
    angles = [0.0]
    if isinstance(detector, PooledDetector):  # it sees pictures turned
        angles = detector.angles(views or detector.test_views)
    maps = []
    for batch in _tensor(images).split(CHUNK):
        total = torch.zeros(len(batch), *batch.shape[-2:])
        for angle in angles:
            upright = batch.to(detector.device).requires_grad_()
            with _differentiable(detector) as model:
                score = model(TF.rotate(upright, angle))
                # With respect to the upright picture: the gradient comes back turned back.
                (gradient,) = torch.autograd.grad(score.sum(), upright)
            blurred = smooth(gradient.flatten(0, 1), sigma).unflatten(0, gradient.shape[:2])
            total += blurred.abs().sum(dim=1).cpu() / len(angles)
        maps.append(total.numpy())
    return np.concatenate(maps)


@torch.no_grad()
def attention_maps(detector: Detector, image: np.ndarray | Tensor) -> dict[str, np.ndarray]:
    """The gates of every attention block for one picture, as the network computes them.

    Args:
        detector: with attention blocks made of `attnad.attention.Gate`.
        image: (3, H, W) in [0, 1].

    Returns:
        name of the gate -> one value in [0, 1] for each channel (C,), or for each position (h, w). A name is
        the attention point, for blocks inside a stage the number in it, and ``channel`` or ``position``.

    Raises:
        TypeError: the detector has no feature extractor.
        ValueError: there is no gate in it.
    """
    extractor, found = check(detector.to(detector.device)).extractor, {}

    def remember(name: str, gate: Gate, inputs: tuple[Tensor], _: Tensor) -> None:
        values = gate.gate(inputs[0])[0].cpu().numpy()  # (C, 1, 1) or (1, h, w)
        whole = values.shape[1:] == (1, 1)
        found[f"{name} {'channel' if whole else 'position'}"] = values[:, 0, 0] if whole else values[0]

    handles = [
        module.register_forward_hook(partial(remember, name))
        for name, block in extractor.blocks_in_order()
        for module in block.modules()
        if isinstance(module, Gate)
    ]
    try:
        extractor(check(detector).resized(_tensor(image[None])).to(detector.device))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError(f"{type(detector).__name__} has no gates: pass attention='se', 'cbam' or 'eca'")
    return found


def layers(detector: Detector) -> list[str]:
    """The names that `grad_cam` takes for ``layer``: the steps of the feature extractor, in order."""
    return [name for name, _ in check(detector).extractor.steps()]


# --- Inside ---------------------------------------------------------------------------------------


class _Mark(nn.Module):
    """Where Grad-CAM looks: gradients come down to here and go no further."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().requires_grad_().clone()


class _Score(nn.Module):
    """The anomaly score (B,) of upright pictures, all of it differentiable; `mark` stands behind one step."""

    def __init__(self, detector: PyramidDetector, layer: str | None):
        super().__init__()
        self.detector, self.layer, self.mark = detector, layer, _Mark()
        self.marked = False

    def forward(self, images: Tensor) -> Tensor:
        self.marked = False
        score, _ = self.detector.score(self.detector.frozen(images, False, torch.Generator()))
        if not score.requires_grad:
            raise ValueError(f"the score of {type(self.detector).__name__} cannot be differentiated")
        return score

    def levels(self, images: Tensor) -> list[Tensor]:
        """Takes the place of `Backbone.frozen_part`; only its first call, at full size, passes `mark`."""
        extractor = self.detector.extractor
        steps = extractor.steps()
        if not self.marked:
            steps = [(n, nn.Sequential(m, self.mark) if n == self.layer else m) for n, m in steps]
        self.marked = True
        return extractor._run(steps, (images - extractor._mean) / extractor._std)[1]


@contextlib.contextmanager
def _differentiable(detector: Detector, layer: str | None = None) -> Iterator[_Score]:
    """Inside, all of the extractor runs with gradients, no parameter collects any, pictures stay upright."""
    extractor, trained = check(detector).extractor, detector.trainable()
    own = vars(detector)
    rotations = {"rotations": own["rotations"]} if "rotations" in own else {}
    model = _Score(check(detector.to(detector.device)).eval().requires_grad_(False), layer)
    extractor.frozen_part = model.levels  # type: ignore[method-assign]
    own.update(dict.fromkeys(rotations, "none"))
    try:
        with torch.enable_grad():
            yield model
    finally:
        del extractor.frozen_part
        own.update(rotations)
        for parameter in trained:
            parameter.requires_grad_(True)


def check(detector: Detector) -> PyramidDetector:
    if not isinstance(detector, PyramidDetector):
        raise TypeError(
            f"{type(detector).__name__} has no pretrained feature extractor to look into; "
            "its anomaly maps are predict(...).maps"
        )
    return detector


def _last_convolution(extractor: Backbone) -> str:
    """The last step with a convolution, without those that are attention blocks themselves."""
    blocks = {id(block) for _, block in extractor.blocks_in_order()}
    return next(
        name for name, step in reversed(extractor.steps())
        if id(step) not in blocks and any(isinstance(module, nn.Conv2d) for module in step.modules())
    )  # fmt: skip


def _tensor(images: Pictures) -> Tensor:
    """(N, 3, H, W) float32."""
    tensor = stacked(images)
    if tensor.ndim != 4 or tensor.shape[1] != 3 or len(tensor) == 0:
        raise ValueError(f"pictures must be (N, 3, H, W), at least one; these are {tuple(tensor.shape)}")
    return tensor
