"""DifferNet (Rudolph et al., WACV 2021) and AttentDifferNet (Vieira e Silva et al., WACV 2024)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from attnad.attention import Attention
from attnad.flows import dense_flow, negative_log_likelihood
from attnad.methods.pictures import Frozen
from attnad.methods.pooled import PooledDetector, mean_and_std, shrunk_precision
from attnad.seeding import seeded


class CollapseWarning(UserWarning):
    """Trained attention is shrinking the embedding to a point, which pleases the loss and detects nothing."""


class DifferNet(PooledDetector):
    """A normalizing flow over the averaged features of a pretrained network.

    An anomaly is a picture whose features are unlikely under the flow. With ``attention="se"`` or
    ``"cbam"`` this is AttentDifferNet: the same in all else, so that a comparison compares attention.

    Defaults are those of the DifferNet paper and its authors' code, except where the arguments below say
    otherwise. The AttentDifferNet paper says that the attention blocks are "trained from scratch", not by
    which loss; here it is the flow's likelihood (``train_attention=True``). That loss has no term for the
    Jacobian of the feature extractor, so a gate can lower it by shrinking all features: ``history`` holds
    the embedding's ``spread`` relative to its start, and a `CollapseWarning` is given below 0.1.

    Args:
        backbone, weights, attention, attention_points, train_attention: see `PooledDetector`. DifferNet
            uses AlexNet with ImageNet weights; AttentDifferNet puts blocks at AB1, AB2 and AB3.
        image_size, scales: 448 px and 3 scales (448, 224, 112).
        rotations, train_views, test_views: 4 random rotations of each picture in training, 64 equally
            spaced ones in testing (the authors' training loop tests on random ones).
        cached_views: used with ``cache=True`` only, see `PooledDetector`.
        steps, hidden, clamp: 8 couplings, three hidden layers of 2048 units in each subnet, clamp 3.
        normalize: of the embedding before the flow. None as published (the loss then starts very high);
            ``"standardize"`` by mean and spread of the training embeddings before training;
            ``"batchnorm"`` by those of each batch, without affine parameters, which takes away what a
            gate could gain by shrinking, as long as variances stay well above the 1e-5 that is added to
            them; after training by those of all training pictures if ``cache``, else by running averages,
            which lag behind features that shrink. ``"whiten"`` by the root of the shrunk precision of
            `Mahalanobis`, measured before training: uncorrelated, where there are many more pictures than
            features.
        epochs: 192 (24 x 8 in the authors' code; the AttentDifferNet paper trains for 100).
        batch_size: 24 pictures.
        lr, weight_decay: of Adam (betas 0.8 and 0.8, eps 1e-4).
        cache, seed, device: see `Detector`.
    """

    start_spread: Tensor

    trained_by = "likelihood"

    def __init__(
        self,
        backbone: str = "alexnet",
        weights: str | None = "imagenet",
        attention: Attention | None = None,
        attention_points: Iterable[str] | None = None,
        train_attention: bool = True,
        image_size: int = 448,
        scales: int = 3,
        rotations: str = "any",
        train_views: int = 4,
        test_views: int = 64,
        cached_views: int = 8,
        steps: int = 8,
        hidden: int = 2048,
        clamp: float = 3.0,
        normalize: str | None = None,
        epochs: int = 192,
        batch_size: int = 24,
        lr: float = 2e-4,
        weight_decay: float = 1e-5,
        cache: bool = False,
        seed: int = 0,
        device: str = "auto",
    ):
        super().__init__(
            backbone, weights, attention, attention_points, train_attention, image_size, scales,
            rotations, train_views, test_views, cached_views, epochs, batch_size, cache, seed, device,
        )  # fmt: skip
        if normalize not in (None, "standardize", "batchnorm", "whiten"):
            raise ValueError(f"normalize={normalize!r}: use None, 'standardize', 'batchnorm' or 'whiten'")
        self.steps, self.hidden, self.clamp, self.normalize = steps, hidden, clamp, normalize
        self.lr, self.weight_decay = lr, weight_decay
        with seeded(seed):
            self.flow = dense_flow(self.width, steps, hidden, clamp, seed)
            if normalize == "whiten":
                self.norm: nn.Module = nn.Linear(self.width, self.width).requires_grad_(False)
            else:  # the same layer for both: one keeps its statistics, the other follows the batches
                self.norm = nn.BatchNorm1d(self.width, affine=False) if normalize else nn.Identity()
        self.register_buffer("start_spread", torch.tensor(float("nan")))
        self._moments: list[Tensor] = []

    def train(self, mode: bool = True) -> DifferNet:
        super().train(mode)
        if self.normalize == "standardize":
            self.norm.eval()
        return self

    def begin(self, state: Frozen | None) -> None:
        if state is None and self.normalize in ("standardize", "whiten"):
            raise ValueError(f"normalize={self.normalize!r} measures the embedding once: it needs cache=True")
        if state is not None:
            embedding = self.embed_all(state).flatten(0, 1)  # (N*V, D)
            self.start_spread.fill_(_spread(embedding.mean(0), embedding.square().mean(0)))
            if isinstance(self.norm, nn.BatchNorm1d):
                self._keep_moments(embedding)
            elif self.normalize == "whiten":
                self.norm.load_state_dict(_whitening(embedding))

    def _keep_moments(self, embedding: Tensor) -> None:
        statistics = {"running_mean": embedding.mean(0), "running_var": embedding.var(0)}
        self.norm.load_state_dict(statistics, strict=False)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.trainable(), self.lr, betas=(0.8, 0.8), eps=1e-4, weight_decay=self.weight_decay, fused=True
        )

    def loss(self, state: list[Tensor], generator: torch.Generator) -> Tensor:
        views = state[0].shape[1]
        if views > self.train_views:  # some of the cached rotations, others in each step
            chosen = torch.randperm(views, generator=generator)[: self.train_views]
            state = [tensor[:, chosen.to(tensor.device)] for tensor in state]
        embedding = self.embed(state).flatten(0, 1)  # (B*V, D)
        self._remember(embedding.detach())
        z, log_det = self.flow(self.norm(embedding))
        return negative_log_likelihood(z, log_det).mean()

    def score(self, state: list[Tensor]) -> tuple[Tensor, None]:
        # As published, the mean of z^2: not the loss, which also counts the determinant.
        embedding = self.embed(state)  # (B, V, D)
        z, _ = self.flow(self.norm(embedding.flatten(0, 1)))
        return z.unflatten(0, embedding.shape[:2]).square().mean(dim=(1, 2)), None

    def _remember(self, embedding: Tensor) -> None:
        if torch.isnan(self.start_spread):  # nothing was precomputed: the first batch has to do
            self.start_spread.fill_(_spread(embedding.mean(0), embedding.square().mean(0)))
        count = torch.tensor(float(len(embedding)), device=embedding.device)
        moments = [count, embedding.sum(0), embedding.square().sum(0)]
        if self._moments:
            moments = [a + b for a, b in zip(self._moments, moments, strict=True)]
        self._moments = moments

    def end_of_epoch(self, state: Frozen | None) -> dict:
        if state is not None and self.normalize == "batchnorm" and self.gates_are_trained():
            self._keep_moments(self.embed_all(state).flatten(0, 1))
        count, total, squares = self._moments
        self._moments = []
        spread = _spread(total / count, squares / count)
        relative = spread / float(self.start_spread)
        if relative < 0.1 and not any(entry["spread"] < 0.1 for entry in self.history):
            warnings.warn(
                f"the embedding's spread fell to {relative:.3f} of its start: the attention shrinks the "
                "features to please the likelihood"
                + (", past what batch normalisation scales back" if self.normalize == "batchnorm" else
                   "; normalize='batchnorm' takes away most of what that gains")
                + ". With train_attention=False the gates stay as they are.",
                CollapseWarning, stacklevel=3,
            )  # fmt: skip
        return {"spread": relative}


def _whitening(embedding: Tensor) -> dict[str, Tensor]:
    """Embeddings (M, D) -> weight (D, D) and bias (D,) that whiten them, nearly so unless M >> D."""
    mean, std = mean_and_std(embedding)
    values, vectors = torch.linalg.eigh(shrunk_precision((embedding - mean) / std))
    weight = ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float() / std
    return {"weight": weight, "bias": -weight @ mean}


def _spread(mean: Tensor, mean_of_squares: Tensor) -> float:
    """Root of the summed variances of all features."""
    return float((mean_of_squares - mean.square()).clamp(min=0).sum().sqrt())


def AttentDifferNet(attention: Attention = "se", **arguments) -> DifferNet:
    """`DifferNet` with attention in its backbone, as Vieira e Silva et al. named it (WACV 2024)."""
    return DifferNet(attention=attention, **arguments)
