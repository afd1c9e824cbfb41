"""Our FastFlow, CFLOW-AD, CS-Flow and PatchCore beside anomalib's: same weights, same pictures, one process.

``pip install anomalib`` (nothing else here needs it), then ``python benchmarks/peers.py``. For each method
the weights of ours are copied into anomalib's model and the outputs are compared where both define the
same; then both are timed in turns. A ratio below 1 means that ours is faster: printed are the median over the
pairs and its 95 % bootstrap interval. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn

from attnad import datasets
from attnad.methods import CFlow, CSFlow, FastFlow, PatchCore
from attnad.methods.patchcore import k_center

warnings.filterwarnings("ignore")
os.environ["TQDM_DISABLE"] = "1"
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


@torch.no_grad()
def copy(mine: nn.Module, other: nn.Module, method: str) -> None:
    """The weights of our detector into anomalib's model."""
    tensors = mine.state_dict()
    wanted = other.state_dict()
    if method == "PatchCore":
        other.memory_bank = tensors["bank"].clone()
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
    for key, value in wanted.items():
        tail = key.split("feature_extractor.")[-1].removeprefix("encoder.").replace("features_", "features.")
        tail = tail.replace("fast_flow_blocks.", "flows.").replace("decoders.", "flows.")
        if key.endswith(("w_perm", "w_perm_inv")):
            order = tensors[tail.rsplit(".", 1)[0] + ".order"]
            matrix = torch.eye(len(order))[order]
            value.copy_((matrix.T if key.endswith("inv") else matrix).view(value.shape))
            continue
        for name in (tail, f"extractor.{tail}"):
            if name in tensors and tensors[name].shape == value.shape:
                value.copy_(tensors[name])
    missing = [k for k in wanted if "feature_extractor" in k and "running_mean" in k]
    assert missing, "the copied backbone has no batch normalisation: the names must have changed"


@torch.no_grad()
def compare(mine, other, method: str, images) -> dict[str, float]:
    """Largest difference of the outputs, relative to their range, where both mean the same thing."""
    if method == "CFLOW-AD":  # anomalib divides by the maximum over the batch, ours by that of the training
        state = mine.frozen(images, False, torch.Generator())
        for i, x in enumerate(mine.features(state)):
            mine.top[i] = mine.log_likelihood(i, *mine.positions(x)).max()
    mine_out, their_out = mine.predict(images), other((images - MEAN) / STD)
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
        else:
            from anomalib.models.image.csflow.loss import CsFlowLoss as Loss
        for name, parameter in detector.named_parameters():
            if "feature_extractor" in name:
                parameter.requires_grad_(False)
        trained = [p for p in detector.parameters() if p.requires_grad]
        optimizer, criterion = torch.optim.Adam(trained, lr=1e-4), Loss()

        def run():
            detector.train()
            loss = criterion(*detector((images - MEAN) / STD))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def alternate(a, b, seconds: float, least: int = 5) -> str:
    """Time a and b in turns; their medians, and the ratio a/b with its bootstrap interval."""
    a(), b()
    times, end = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        pair = []
        for f in (a, b) if len(times) % 2 else (b, a):
            start = time.perf_counter()
            f()
            pair.append(time.perf_counter() - start)
        times.append(pair if len(times) % 2 else pair[::-1])
    times = np.array(times)
    ratio = times[:, 0] / times[:, 1]
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratio, (2000, len(ratio))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    mine, other = 1e3 * np.median(times, axis=0)
    text = f"{mine:.1f} ms / {other:.1f} ms, ratio {np.median(ratio):.2f} [{low:.2f}, {high:.2f}]"
    return f"{text} of {len(times)}"


def coreset(count: int) -> None:
    """Both on the same `count` projected patch features of real pictures, 10 %."""
    from anomalib.models.components.sampling import KCenterGreedy

    train = datasets.load("elpv", category="mono", split="train", size=128)
    pictures = np.stack([train[i].image for i in range(-(-count // 256))])
    levels = ("stride8", "stride16", "stride32")
    detector = PatchCore("efficientnet_lite0", levels=levels, image_size=128)
    with torch.no_grad():
        points = detector.patches(detector.precompute(pictures).tensors).flatten(0, 2)[:count]
    projection = torch.randn(points.shape[1], 128, generator=torch.Generator().manual_seed(0)) / 128**0.5
    points = points @ projection
    start = time.perf_counter()
    chosen = k_center(points, count // 10, 10, torch.Generator().manual_seed(0))
    own = time.perf_counter() - start
    sampler = KCenterGreedy(points[:, None], 0.1)  # three dimensions: it takes them as they are
    start = time.perf_counter()
    other = torch.tensor(sampler.select_coreset_idxs())
    their = time.perf_counter() - start
    parts = points.split(2000)
    radii = [max(torch.cdist(p, points[c]).amin(1).max() for p in parts) for c in (chosen, other)]
    print(f"coreset of {count}: {own:.1f} s / {their:.1f} s = {their / own:.1f} times faster; "
          f"covering radius {radii[0]:.4f} / {radii[1]:.4f}", flush=True)  # fmt: skip


def memory(method: str, size: int, side: str) -> float:
    """Peak of a fresh process that predicts a batch of 8, in MB."""
    command = [sys.executable, __file__, "--methods", method, "--size", str(size), "--peak", side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=["PatchCore", "FastFlow", "CFLOW-AD", "CS-Flow"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20, help="for each measurement")
    parser.add_argument("--coreset", type=int, default=50_000, help="number of patches; 0 to leave it out")
    parser.add_argument("--peak", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for method in arguments.methods:
        images = torch.rand(8, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(0))
        if arguments.peak:
            with torch.no_grad():
                if arguments.peak == "ours":
                    ours(method, arguments.size).predict(images)
                else:
                    model = theirs(method, arguments.size)
                    if method == "PatchCore":
                        model.memory_bank = torch.rand(2000, 384)
                    model((images - MEAN) / STD)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        mine, other = ours(method, arguments.size), theirs(method, arguments.size)
        copy(mine, other, method)
        differences = {k: f"{v:.1e}" for k, v in compare(mine, other, method, images[:2]).items()}
        print(f"{method}, {arguments.size} px: outputs differ by {differences} of their range", flush=True)
        for batch in (1, 8):
            x = images[:batch]
            with torch.no_grad():
                functions = partial(mine.predict, x), partial(lambda m, x: m((x - MEAN) / STD), other, x)
                line = alternate(*functions, arguments.seconds)
            print(f"  latency, batch {batch}: {line}", flush=True)
        if method != "PatchCore":
            steps = [step(method, d, images[:4], own) for d, own in ((mine, True), (other, False))]
            print(f"  training step, batch 4: {alternate(*steps, arguments.seconds, 3)}", flush=True)
        parameters = [sum(p.numel() for p in d.parameters()) / 1e6 for d in (mine, other)]
        print(f"  parameters: {parameters[0]:.2f} M / {parameters[1]:.2f} M", flush=True)
        peaks = [memory(method, arguments.size, side) for side in ("ours", "theirs")]
        print(f"  peak memory of the process, batch 8: {peaks[0]:.0f} MB / {peaks[1]:.0f} MB", flush=True)
    if arguments.coreset:
        coreset(arguments.coreset)


if __name__ == "__main__":
    main()
