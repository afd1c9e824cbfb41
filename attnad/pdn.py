"""EfficientAD's networks: the patch description network, the autoencoder, and where a teacher comes from."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from attnad.attention import Attention, make_attention
from attnad.frozen import IMAGENET_MEAN, IMAGENET_STD
from attnad.weights import WeightsUnavailable, distilled

CHANNELS = 384  # of the teacher's description of a patch

# (output channels, kernel size, whether an average pooling follows); None: as many as the network's output.
LAYERS = {
    "S": ((128, 4, True), (256, 4, True), (256, 3, False), (None, 4, False)),
    "M": (
        (256, 4, True), (512, 4, True), (512, 1, False), (512, 3, False), (None, 4, False), (None, 1, False),
    ),
}  # fmt: skip


class PDN(nn.Sequential):
    """Patch description network: four (S) or six (M) convolutions that describe each 33 x 33 px patch.

    Nothing is padded, so that no description knows anything but its patch: (B, 3, H, W) in [0, 1] becomes
    (B, channels, H/4 - 8, W/4 - 8), and cell (i, j) sees the pixels from (4i, 4j) to (4i + 32, 4j + 32).

    Args:
        size: ``"S"`` or ``"M"``.
        channels: of the output: 384 for a teacher, 768 for a student.
        attention: name or constructor of a block behind each hidden convolution and its ReLU; None for none.
        width: of the hidden layers, as a share of the published one.
    """

    conv1: nn.Conv2d

    def __init__(
        self,
        size: str = "S",
        channels: int = CHANNELS,
        attention: Attention | None = None,
        width: float = 1.0,
    ):
        if size not in LAYERS:
            raise ValueError(f"size={size!r}: a PDN is 'S' or 'M'")
        layers: OrderedDict[str, nn.Module] = OrderedDict(norm=_Standardise())
        before = 3
        for index, (published, kernel, pool) in enumerate(LAYERS[size], start=1):
            after = round(width * published) if published else channels
            layers[f"conv{index}"] = nn.Conv2d(before, after, kernel)
            if index < len(LAYERS[size]):
                layers[f"relu{index}"] = nn.ReLU()
                if attention is not None:
                    layers[f"attention{index}"] = make_attention(attention, after)
                if pool:
                    layers[f"pool{index}"] = nn.AvgPool2d(2)
                before = after
        super().__init__(layers)

    def forward(self, images: Tensor, outputs: slice = slice(None)) -> Tensor:
        """All output channels, or only some of them: nothing is spent on the others."""
        *hidden, last = self
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        for layer in hidden:
            images = layer(images)
        return F.conv2d(images, last.weight[outputs], last.bias[outputs])

    def attention_parameters(self) -> list[nn.Parameter]:
        """The parameters of all attention blocks."""
        blocks = (module for name, module in self.named_children() if name.startswith("attention"))
        return [parameter for block in blocks for parameter in block.parameters()]


class Autoencoder(nn.Sequential):
    """Presses a picture through 64 numbers and draws from them what the teacher would have said.

    Args:
        image_size: 256 px; other sizes keep the layers, and the grids follow in proportion.
    """

    def __init__(self, image_size: int = 256):
        layers: list[nn.Module] = [_Standardise()]
        for before, after in itertools.pairwise((3, 32, 32, 64, 64, 64)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, image_size // 32)]  # (B, 64, 1, 1)
        s = image_size
        for grid in (max(1, s // 64 - 1), s // 32, s // 16 - 1, s // 8, s // 4 - 1, s // 2 - 1):
            layers += [nn.Upsample(grid, mode="bilinear"), nn.Conv2d(64, 64, 4, padding=2), nn.ReLU()]
            layers += [nn.Dropout(0.2)]
        layers += [nn.Upsample(s // 4 - 8, mode="bilinear"), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(64, CHANNELS, 3, padding=1)]
        super().__init__(*layers)


class _Standardise(nn.Module):
    """Pictures in [0, 1] by ImageNet's mean and standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def load_teacher(teacher: PDN | str | Path | None, size: str) -> PDN:
    """A teacher network: the PDN itself, one from a safetensors file, or a random one for None.

    Raises:
        WeightsUnavailable: there is no such file.
        ValueError: the file or the network is not a teacher of this size.
    """
    network = PDN(size)
    if teacher is None:
        return network
    if isinstance(teacher, PDN):
        tensors, name = teacher.state_dict(), "this network"
    elif teacher == "distilled":
        tensors, name = distilled(f"pdn_{size.lower()}"), "the distilled teacher"
    else:
        file = Path(teacher)
        if not file.exists():
            raise WeightsUnavailable(
                f"There is no teacher at {file}. Make one in some minutes with "
                f"python -m attnad distill pdn_{size.lower()} --output teacher.safetensors, and pass "
                "teacher='teacher.safetensors'. More, and more varied, pictures (--pictures FOLDER) make a "
                "better one: the paper uses ImageNet."
            )
        try:
            tensors = {key: tensor.float() for key, tensor in load_file(file).items()}  # kept as float16
            name = str(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{name}: no teacher of size {size!r} with {CHANNELS} channels: {error}") from error
    return network
