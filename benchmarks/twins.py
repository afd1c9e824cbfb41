"""Our detectors and anomalib's as twins: the same architecture, weights and inputs, for ``peers.py``."""

from __future__ import annotations

import torch
from torch import nn

from attnad.methods import RDPP, CFlow, CSFlow, EfficientAD, FastFlow, PatchCore

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def ours(method: str, size: int) -> nn.Module:
    arguments = {"weights": None, "image_size": size, "device": "cpu"}
    if method == "PatchCore":
        generator = torch.Generator().manual_seed(0)
        detector = PatchCore("resnet18", dimensions=None, neighbors=9, **arguments)
        detector.bank = torch.randn(2000, 384, generator=generator).abs()
    elif method == "FastFlow":
        detector = FastFlow("resnet18", **arguments)
    elif method == "CFLOW-AD":
        detector = CFlow("resnet18", fiber=256, **arguments)
        detector.top.zero_()
    elif method == "Reverse distillation":
        detector = RDPP(projection_weight=0, **arguments)
        detector.projections = nn.ModuleList(nn.Identity() for _ in range(3))
    elif method == "EfficientAD":
        detector = EfficientAD(
            teacher=None, penalty=torch.rand(1, 3, size, size), image_size=size, device="cpu"
        )
    else:
        detector = CSFlow(hidden=256, **arguments)
    for name, parameter in detector.named_parameters():
        if "gamma" in name:
            parameter.data.fill_(0.3)  # else the coupling does nothing
    return detector.eval()


def theirs(method: str, size: int) -> nn.Module:
    if method == "PatchCore":
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        model = PatchcoreModel(["layer2", "layer3"], "resnet18", pre_trained=False, num_neighbors=9)
    elif method == "FastFlow":
        from anomalib.models.image.fastflow.torch_model import FastflowModel

        model = FastflowModel((size, size), "resnet18", pre_trained=False, conv3x3_only=True)
    elif method == "CFLOW-AD":
        from anomalib.models.image.cflow.torch_model import CflowModel

        levels = ["layer1", "layer2", "layer3"]
        model = CflowModel("resnet18", levels, pre_trained=False, fiber_batch_size=256)
    elif method == "Reverse distillation":
        from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
        from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

        levels, add = ["layer1", "layer2", "layer3"], AnomalyMapGenerationMode.ADD
        model = ReverseDistillationModel("resnet18", (size, size), levels, add, pre_trained=False)
    elif method == "EfficientAD":
        from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize

        model = EfficientAdModel(384, EfficientAdModelSize.S)
    else:
        from anomalib.models.image.csflow import torch_model

        build = torch_model.efficientnet_b5
        torch_model.efficientnet_b5 = lambda weights: build()  # it would download them
        model = torch_model.CsFlowModel((size, size), cross_conv_hidden_channels=256)
        torch_model.efficientnet_b5 = build
    return model.eval()


CROSS = (
    {f"conv_scale{i}_0": f"hidden.{i}" for i in range(3)} | {f"conv_scale{i}_1": f"own.{i}" for i in range(3)}
    | {"up_conv10": "up.0", "up_conv21": "up.1", "down_conv01": "down.0", "down_conv12": "down.1"}
)  # fmt: skip
# Parts of ours and of theirs that hold the same tensors in the same order.
SAME = {
    "EfficientAD": {"teacher": "teacher", "student": "student", "autoencoder": "ae"},
    "Reverse distillation": {
        "bottleneck.fine.0.0": "bottleneck.conv1", "bottleneck.fine.0.1": "bottleneck.bn1",
        "bottleneck.fine.2.0": "bottleneck.conv2", "bottleneck.fine.2.1": "bottleneck.bn2",
        "bottleneck.middle.0.0": "bottleneck.conv3", "bottleneck.middle.0.1": "bottleneck.bn3",
        "bottleneck.press": "bottleneck.bn_layer", "decoder": "decoder",
    },
}  # fmt: skip


@torch.no_grad()
def copy(mine: nn.Module, other: nn.Module, method: str) -> None:
    """The weights of our detector into anomalib's model."""
    tensors = mine.state_dict()
    wanted = other.state_dict()
    if method == "PatchCore":
        other.memory_bank = tensors["bank"].clone()
    for own, their in SAME.get(method, {}).items():
        pair = (m.get_submodule(name).state_dict().values() for m, name in ((mine, own), (other, their)))
        for source, target in zip(*pair, strict=True):
            target.copy_(source)
    if method == "EfficientAD":  # set to what ours begins with
        values = {"mean": 0.0, "std": 1.0, "qa_st": 0.0, "qb_st": 1.0, "qa_ae": 0.0, "qb_ae": 1.0}
        for name, parameter in [*other.mean_std.items(), *other.quantiles.items()]:
            parameter.fill_(values[name])
        return
    if method == "CS-Flow":
        layers = [m for m in other.modules() if type(m).__name__ == "ParallelGlowCouplingLayer"]
        permutes = [m for m in other.modules() if type(m).__name__ == "ParallelPermute"]
        couplings = [m for m in mine.modules() if type(m).__name__ == "CrossScaleCoupling"]
        for coupling, layer, permute in zip(couplings, layers, permutes, strict=True):
            permute.perm = list(coupling.orders)
            sides = (coupling.from_first, coupling.from_second)
            peers = (layer.cross_convolution1, layer.cross_convolution2)
            for subnet, their in zip(sides, peers, strict=True):
                for i in range(3):
                    getattr(their, f"gamma{i}").copy_(subnet.gamma[i : i + 1])
                for name, own in CROSS.items():
                    getattr(their, name).load_state_dict(subnet.get_submodule(own).state_dict())
    copied = set()
    for key, value in wanted.items():
        tail = key.split("feature_extractor.")[-1].removeprefix("encoder.").removeprefix("backbone.")
        tail = tail.replace("fast_flow_blocks.", "flows.").replace("decoders.", "flows.")
        if key.endswith(("w_perm", "w_perm_inv")):
            order = tensors[tail.rsplit(".", 1)[0] + ".order"]
            matrix = torch.eye(len(order))[order]
            value.copy_((matrix.T if key.endswith("inv") else matrix).view(value.shape))
            continue
        for name in (tail, f"extractor.{tail}"):
            if name in tensors and tensors[name].shape == value.shape:
                value.copy_(tensors[name])
                copied.add(name)
    means = {k for k in tensors if k.startswith("extractor.") and k.endswith("running_mean")}
    assert means <= copied, f"not copied, the names must have changed: {sorted(means - copied)}"


def seen(method: str, images: torch.Tensor) -> torch.Tensor:
    """What anomalib's model is handed: EfficientAD's standardises the pictures itself."""
    return images if method == "EfficientAD" else (images - MEAN) / STD


@torch.no_grad()
def compare(mine, other, method: str, images) -> dict[str, float]:
    """Largest difference of the outputs, relative to their range, where both mean the same thing."""
    if method == "CFLOW-AD":  # anomalib divides by the maximum over the batch, ours by that of the training
        state = mine.frozen(images, False, torch.Generator())
        for i, x in enumerate(mine.features(state)):
            mine.top[i] = mine.log_likelihood(i, *mine.positions(x)).max()
    mine_out, their_out = mine.predict(images), other(seen(method, images))
    if method == "CS-Flow":
        features = other.feature_extractor((images - MEAN) / STD)
        made_up = [torch.randn(f.shape, generator=torch.Generator().manual_seed(0)) for f in features]
        z, z2 = mine.flow(made_up)[0], other.graph(made_up)[0]  # those of random weights are nearly constant
        pairs = {"z": (torch.cat([s.flatten() for s in z]), torch.cat([s.flatten() for s in z2]))}
        pairs["score"] = (torch.from_numpy(mine_out.scores), their_out.pred_score)
    elif method == "PatchCore":
        pairs = {"score": (torch.from_numpy(mine_out.scores), their_out.pred_score)}
    else:
        a, b = torch.from_numpy(mine_out.maps), their_out.anomaly_map.reshape(mine_out.maps.shape)
        if method == "Reverse distillation":  # the two mirror the picture differently where they blur its rim
            a, b = a[:, 16:-16, 16:-16], b[:, 16:-16, 16:-16]
        pairs = {"map": (a - a.max(), b - b.max())}  # CFLOW-AD: equal up to a constant
    ranges = {k: (a.max() - a.min()).clamp(min=1e-9) for k, (a, _) in pairs.items()}
    return {k: float((a - b).abs().max() / ranges[k]) for k, (a, b) in pairs.items()}


def step(method: str, detector, images, own: bool):
    """One training step on a batch as each of the two does it, as a function without arguments."""
    if own:
        optimizer = detector.make_optimizer()

        def run():
            detector.train()
            generator = torch.Generator().manual_seed(0)
            for state in detector._batches(images, generator):
                loss = detector.loss(state, generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    elif method == "CFLOW-AD":
        from anomalib.models.image.cflow.lightning_model import Cflow

        module = Cflow(
            "resnet18", ["layer1", "layer2", "layer3"], pre_trained=False, evaluator=False, visualizer=False
        )
        module.model, optimizer = detector, torch.optim.Adam(detector.decoders.parameters(), lr=1e-4)
        module.optimizers, module.manual_backward = lambda: optimizer, lambda loss: loss.backward()
        module.log = lambda *a, **k: None
        batch = type("Batch", (), {"image": (images - MEAN) / STD})

        def run():
            module.training_step(batch)
    else:
        if method == "FastFlow":
            from anomalib.models.image.fastflow.loss import FastflowLoss as Loss
        elif method == "Reverse distillation":
            from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss as Loss
        elif method == "EfficientAD":
            Loss = lambda: lambda *parts: sum(parts)  # noqa: E731
        else:
            from anomalib.models.image.csflow.loss import CsFlowLoss as Loss
        inputs = (images, images) if method == "EfficientAD" else (seen(method, images),)
        for name, parameter in detector.named_parameters():
            if name.startswith(("feature_extractor", "encoder", "teacher", "mean_std", "quantiles")):
                parameter.requires_grad_(False)
        trained = [p for p in detector.parameters() if p.requires_grad]
        optimizer, criterion = torch.optim.Adam(trained, lr=1e-4), Loss()

        def run():
            detector.train()
            loss = criterion(*detector(*inputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run
