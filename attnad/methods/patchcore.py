"""PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnad.attention import Attention
from attnad.maps import peak, smooth, upsample
from attnad.methods.pictures import Frozen
from attnad.methods.pyramid import PyramidDetector

ROWS = 1024  # distances are computed for so many points at a time: the block stays small


class PatchCore(PyramidDetector):
    """A memory of normal patches; a patch is as anomalous as it is far from the nearest of them.

    Nothing is trained. The patch features of all training pictures form a bank, of which a coreset is
    kept: few patches that leave none of the others far away (`k_center`). With m* the patch of the bank
    M that is nearest to a patch m, the map is ``||m - m*||`` and a picture's score its maximum.

    With ``dimensions=None`` and ``neighbors=9`` the scores equal those of anomalib with the same bank; its
    map is not interpolated between positions before it is blurred.

    Attention is never trained by this method, which has no loss: gates are what the weights brought
    (see `gates`).

    While fitting, memory holds the levels of all training pictures and their projections (128 numbers a
    patch); of the full features only the chosen ones. At 224 px with WideResNet-50 that is 2.4 MB + 0.4 MB
    a picture; the bank is ``4 * D * coreset`` bytes a patch: 0.3 MB a picture at 10 %.

    Args:
        backbone, weights, attention, attention_points: see `PyramidDetector`. The paper has WideResNet-50.
        levels: layers 2 and 3 of a ResNet, strides 8 and 16 of EfficientNet-Lite0.
        image_size: 224 px. The authors resize to 256 and keep the middle; here nothing is cut off, because
            a defect may lie at the border.
        patch: a position's features are averaged over ``patch x patch`` neighbours, 3 in the paper.
        dimensions: of a patch's features; longer ones are averaged down to 1024. The authors' code pools each
            level's nine neighbours and channels together to 1024, which mixes neighbouring channels even
            where there are few; here only what is too long is pooled, after the neighbourhood average that
            the paper writes down. None: as they come.
        coreset: the share of patches that is kept, 0.1.
        projection: the coreset is chosen on so many random projections, 128; None for the features as such.
        starting_points: the first centre is the patch farthest on average from so many random ones, 10.
        neighbors: b of the paper's reweighting: a score is lowered where its nearest patch m* itself lies
            in a sparse region, judged by b neighbours of m*. The paper's text has it (b = 9 is usual), the
            authors' released command does not; 1 leaves it out.
        sigma: of the map's blur in pixels, 4.
        batch_size, seed, device: see `Detector`.
    """

    default_levels: ClassVar = {
        "wide_resnet50_2": ("layer2", "layer3"), "resnet18": ("layer2", "layer3"),
        "efficientnet_lite0": ("stride8", "stride16"),
    }  # fmt: skip

    bank: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
        image_size: int = 224,
        patch: int = 3,
        dimensions: int | None = 1024,
        coreset: float = 0.1,
        projection: int | None = 128,
        starting_points: int = 10,
        neighbors: int = 1,
        sigma: float = 4.0,
        batch_size: int = 32,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, levels, attention, attention_points, False, image_size, 0, batch_size,
            True, seed, device,
        )  # fmt: skip
        if not 0 < coreset <= 1:
            raise ValueError(f"coreset={coreset}: the share of patches to keep lies in (0, 1]")
        if patch % 2 == 0:
            raise ValueError(f"patch={patch}: a neighbourhood with a middle has an odd width")
        self.patch, self.dimensions, self.coreset, self.projection = patch, dimensions, coreset, projection
        self.starting_points, self.neighbors, self.sigma = starting_points, neighbors, sigma
        width = sum(self.extractor.channels)
        self.register_buffer("bank", torch.zeros(0, min(width, dimensions or width)))

    def patches(self, state: list[Tensor]) -> Tensor:
        """The levels of B pictures -> (B, h, w, D) patch features on the grid of the first level."""
        levels = [F.avg_pool2d(level, self.patch, 1, self.patch // 2) for level in self.features(state)]
        size = levels[0].shape[-2:]
        levels[1:] = [F.interpolate(level, size, mode="bilinear") for level in levels[1:]]
        x = torch.cat([level.permute(0, 2, 3, 1) for level in levels], dim=-1)  # (B, h, w, C)
        if self.dimensions is not None and x.shape[-1] > self.dimensions:
            x = F.adaptive_avg_pool1d(x.flatten(0, 2), self.dimensions).unflatten(0, x.shape[:3])
        return x

    def begin(self, state: Frozen | None) -> None:
        assert state is not None  # cache is always on
        generator = torch.Generator().manual_seed(self.seed)
        project = None
        if self.projection is not None:
            project = torch.randn(self.bank.shape[1], self.projection, generator=generator).to(self.device)

        def parts():
            for chosen in torch.arange(len(state)).split(self.batch_size):
                yield self.patches([t[chosen].to(self.device) for t in state.tensors]).flatten(0, 2)

        with torch.no_grad():
            points = torch.cat([part if project is None else part @ project for part in parts()])
            count = max(1, round(self.coreset * len(points)))
            centers = k_center(points, count, self.starting_points, generator).to(self.device)
            kept, start = [], 0
            for part in parts():  # a second pass: the full features of all patches never exist at once
                inside = centers[(centers >= start) & (centers < start + len(part))]
                kept.append(part[inside - start])
                start += len(part)
            self.bank = torch.cat(kept)

    def score(self, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        if len(self.bank) == 0:
            raise RuntimeError("the bank is empty: call fit() first")
        patches = self.patches(state)  # (B, h, w, D)
        flat = patches.flatten(0, 2)
        distance, nearest = nearest_neighbor(flat, self.bank)
        maps = distance.unflatten(0, patches.shape[:3])  # (B, h, w)
        scores = peak(maps)
        if self.neighbors > 1:
            top = maps.flatten(1).argmax(dim=1)
            top += torch.arange(len(maps), device=top.device) * maps[0].numel()
            scores = scores * self._weight(flat[top], self.bank[nearest[top]])
        return scores, smooth(upsample(maps, (self.image_size,) * 2), self.sigma)

    def _weight(self, m: Tensor, m_star: Tensor) -> Tensor:
        """Equation 7 of the paper: 1 - softmax over the b neighbours of m*, at m* itself."""
        b = min(self.neighbors, len(self.bank))
        neighbors = torch.cdist(m_star, self.bank).topk(b, largest=False).indices  # (B, b), m* comes first
        distances = (m[:, None] - self.bank[neighbors]).norm(dim=2)
        return 1 - distances.softmax(dim=1)[:, 0]


def nearest_neighbor(points: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from each of the points (N, D) to the nearest in the bank (M, D), and its index: (N,) each.

    Which one is nearest is decided by one matrix product, ``||b||^2 - 2 p.b``; how far it is, by the
    difference itself, so that a point of the bank is at distance zero exactly.
    """
    squares = bank.square().sum(dim=1)
    nearest = torch.cat(
        [torch.addmm(squares, part, bank.T, alpha=-2).min(dim=1).indices for part in points.split(ROWS)]
    )
    return (points - bank[nearest]).norm(dim=1), nearest


def k_center(points: Tensor, count: int, starting_points: int, generator: torch.Generator) -> Tensor:
    """Greedy k-centre: again and again the point farthest from all centres so far becomes a centre.

    The same choice, up to rounding, as the plain loop, which for each centre computes N distances; but
    here most of the work is done in matrix products. Only the farthest points can be chosen next: while
    the farthest of the best `B` candidates is no nearer than every point that is not a candidate was to
    begin with, it is the farthest of all (distances only shrink). So centres are chosen among the
    candidates, whose distances to each other are known, and all N points hear of them afterwards, in
    one product.

    Args:
        points: (N, D).
        count: of centres, k <= N.
        starting_points: the first centre is the point farthest on average from so many random ones. (The
            authors also keep those averages as upper bounds of the distances; here only centres count.)
        generator: of the starting points.

    Returns:
        (k,) indices in the order in which they were chosen, on the CPU.
    """
    points = points - points.mean(dim=0)  # smaller numbers: less is lost in the difference of squares
    squares = points.square().sum(dim=1)
    start = torch.randperm(len(points), generator=generator)[:starting_points].to(points.device)
    first = torch.cdist(points, points[start]).mean(dim=1).argmax()
    chosen = [int(first)]
    nearest = _nearest_squared(points, squares, first[None])  # of each point to its nearest centre
    nearest[first] = -1.0
    while len(chosen) < count:
        candidates = nearest.topk(min(ROWS, len(points)))
        among = points[candidates.indices]
        between = torch.cdist(among, among).square().cpu().numpy()  # (B, B)
        left = candidates.values.cpu().numpy().copy()
        bound = left[-1] if len(left) < len(points) else -np.inf
        new: list[int] = []
        while len(chosen) + len(new) < count:
            best = int(left.argmax())
            if new and left[best] < bound:
                break
            new.append(best)
            np.minimum(left, between[best], out=left)
            left[best] = -1.0  # not twice, even among equal points
        rows = candidates.indices[torch.tensor(new, device=points.device)]
        torch.minimum(nearest, _nearest_squared(points, squares, rows), out=nearest)
        nearest[rows] = -1.0
        chosen += rows.tolist()
    return torch.tensor(chosen)


def _nearest_squared(points: Tensor, squares: Tensor, rows: Tensor) -> Tensor:
    """(N,) squared distance of each of the points (N, D) to the nearest of points[rows]; `squares`: norms."""
    centers = points[rows].T.contiguous()
    parts = points.split(ROWS)
    return squares + torch.cat([torch.addmm(squares[rows], p, centers, alpha=-2).amin(dim=1) for p in parts])
