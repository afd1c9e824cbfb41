"""EfficientAD's networks: the patch description network, the autoencoder, and where a teacher comes from."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import functional as TF
from tqdm import tqdm

from attnad.attention import Attention, make_attention
from attnad.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone
from attnad.methods.base import seeded
from attnad.weights import WeightsUnavailable

CHANNELS = 384  # of the teacher's description of a patch
WEIGHTS = Path(__file__).parent / "pretrained"

# (output channels, kernel size, whether an average pooling follows); the last layer's channels are free.
LAYERS = {
    "S": ((128, 4, True), (256, 4, True), (256, 3, False), (None, 4, False)),
    "M": (
        (256, 4, True), (512, 4, True), (512, 1, False), (512, 3, False), (384, 4, False), (None, 1, False),
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
    """

    def __init__(self, size: str = "S", channels: int = CHANNELS, attention: Attention | None = None):
        if size not in LAYERS:
            raise ValueError(f"size={size!r}: a PDN is 'S' or 'M'")
        layers: OrderedDict[str, nn.Module] = OrderedDict(norm=_Standardise())
        before = 3
        for index, (width, kernel, pool) in enumerate(LAYERS[size], start=1):
            layers[f"conv{index}"] = nn.Conv2d(before, width or channels, kernel)
            if width is not None:
                layers[f"relu{index}"] = nn.ReLU()
                if attention is not None:
                    layers[f"attention{index}"] = make_attention(attention, width)
                if pool:
                    layers[f"pool{index}"] = nn.AvgPool2d(2)
                before = width
        super().__init__(layers)

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
        layers += [nn.Upsample(s // 4 - 8, mode="bilinear"), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(64, CHANNELS, 3, padding=1)]
        super().__init__(*layers)


class _Standardise(nn.Module):
    """Pictures in [0, 1] by ImageNet's mean and standard deviation."""

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
    else:
        file = WEIGHTS / f"pdn_{size.lower()}.safetensors" if teacher == "distilled" else Path(teacher)
        if not file.exists():
            raise WeightsUnavailable(
                f"There is no teacher at {file}. Make one in some minutes: "
                "teacher = attnad.pdn.distill_teacher(make_backbone('efficientnet_lite0', "
                "levels=('stride8', 'stride16')), attnad.pdn.free_pictures(), steps=500), and pass "
                "teacher=teacher. More, and more varied, pictures make a better one: the paper uses ImageNet."
            )
        try:
            tensors, name = load_file(file), str(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{name}: no teacher of size {size!r} with {CHANNELS} channels: {error}") from error
    return network


def distill_teacher(
    backbone: Backbone,
    pictures: Sequence[Tensor],
    steps: int = 60_000,
    size: str = "S",
    image_size: int = 256,
    batch_size: int = 16,
    lr: float = 1e-4,
    seed: int = 0,
    device: str = "cpu",
) -> PDN:
    """Train a `PDN` to say of each 33 x 33 px patch what a large network says of it in its surroundings.

    As in the paper, the backbone sees the picture at twice the size and its two levels become 384
    standardised numbers at each position (`attnad.methods.simplenet.patch_embedding`, there by way of
    1024). Unlike there, where the PDN pads while it is trained, the rim of the targets is cut off.

    Args:
        backbone: of two levels, at strides 8 and 16.
        pictures: (3, H, W) in [0, 1], of any size; random crops of them are learnt.
        steps: 60,000 in the paper.
        size, image_size, batch_size, lr: 256 px, 16 pictures, 1e-4 in the paper.

    Returns:
        the teacher, frozen.
    """
    from attnad.methods.simplenet import patch_embedding

    generator = torch.Generator().manual_seed(seed)
    backbone = backbone.to(device).eval()
    with seeded(seed):
        teacher = PDN(size).to(device)

    @torch.no_grad()
    def batch() -> tuple[Tensor, Tensor]:
        crops = [_random_crop(pictures, 2 * image_size, generator) for _ in range(batch_size)]
        large = torch.stack(crops).to(device)
        target = patch_embedding(backbone(large), 3, CHANNELS).permute(0, 3, 1, 2)[:, :, 4:-4, 4:-4]
        return F.interpolate(large, (image_size, image_size), mode="bilinear", antialias=True), target

    sample = torch.cat([batch()[1] for _ in range(8)])
    mean, std = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=lr, weight_decay=1e-5, fused=True)
    bar = tqdm(range(steps), "distilling the teacher", leave=False)
    for _ in bar:
        images, target = batch()
        loss = F.mse_loss(teacher(images), (target - mean) / std)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    return teacher.requires_grad_(False).eval()


def free_pictures() -> list[Tensor]:
    """Photographs that come with scikit-learn and, if installed, scikit-image: (3, H, W) in [0, 1] each."""
    from sklearn.datasets import load_sample_images

    arrays = list(load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        pass
    else:
        arrays += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.hubble_deep_field()]
    return [torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255 for array in arrays]


def _random_crop(pictures: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """A square of 30 to 100 % of a random picture's shorter side, resized; at times mirrored, grey."""
    picture = torch.as_tensor(pictures[int(torch.randint(len(pictures), (), generator=generator))])
    u = torch.rand(5, generator=generator).tolist()
    height, width = picture.shape[-2:]
    side = int((0.3 + 0.7 * u[0]) * min(height, width))
    top, left = int(u[1] * (height - side)), int(u[2] * (width - side))
    crop = TF.resized_crop(picture, top, left, side, side, [size, size], antialias=True)
    crop = crop.flip(-1) if u[3] < 0.5 else crop
    return TF.rgb_to_grayscale(crop, 3) if u[4] < 0.1 else crop
