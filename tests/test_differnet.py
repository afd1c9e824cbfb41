"""DifferNet, its baselines, and what every detector shares: training, resuming, files, errors."""

import json
import math
import os
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from safetensors.torch import save_file
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from tiny import TEST, TRAIN, VIEWS, dataset, differnet
from torch import nn

from attnad.attention import SqueezeExcitation
from attnad.methods import (
    AttentDifferNet,
    CollapseWarning,
    DifferNet,
    Frozen,
    Mahalanobis,
    NearestNeighbor,
)
from attnad.seeding import seeded

ROOT = Path(__file__).parents[1]


def weights(detector):
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- The method -----------------------------------------------------------------------------------


def test_loss_by_hand():
    """mean over the batch of (0.5 ||z||^2 - log det) / D, on the averaged features of both scales."""
    detector = differnet(rotations="none", normalize=None).eval()
    images = torch.from_numpy(TRAIN[:3])
    state = detector.frozen(images, True, torch.Generator())
    pooled = []
    for size in (32, 16):
        x = nn.functional.interpolate(images, (size, size), mode="nearest")
        x = (x - detector.extractor._mean) / detector.extractor._std
        x = detector.extractor.pool(detector.extractor.two(detector.extractor.one(x)))
        pooled.append(x.flatten(2).mean(dim=2))
    embedding = torch.cat(pooled, dim=1)
    torch.testing.assert_close(detector.embed(state)[:, 0], embedding)
    z, log_det = detector.flow(embedding)
    expected = sum((0.5 * (row @ row) - j) / 24 for row, j in zip(z, log_det)) / 3
    torch.testing.assert_close(detector.loss(state, torch.Generator()), expected)


def test_score_by_hand():
    """The mean of z^2 over views and dimensions."""
    detector = differnet(normalize=None).fit(TRAIN)
    state = detector.precompute(TEST)
    with torch.no_grad():
        expected = [float((detector.flow(views)[0] ** 2).mean()) for views in detector.embed_all(state)]
    np.testing.assert_allclose(detector.predict(TEST).scores, expected, rtol=1e-5)
    assert detector.predict(TEST).maps is None


@pytest.mark.parametrize("normalize", [None, "standardize", "batchnorm", "whiten"])
def test_it_learns_and_finds_the_defects(normalize):
    detector = differnet(normalize=normalize, epochs=30, lr=2e-3).fit(TRAIN)
    losses = [entry["loss"] for entry in detector.history]
    assert [entry["epoch"] for entry in detector.history] == list(range(30))
    assert losses[-1] < losses[0]
    scores = detector.predict(TEST).scores
    assert scores[3:].min() > scores[:3].max()


def test_standardising_makes_the_training_embedding_standard():
    detector = differnet(normalize="standardize", epochs=1).fit(TRAIN)
    state = detector.precompute(TRAIN, training=True)
    normal = detector.norm(detector.embed_all(state).flatten(0, 1))
    varied = normal.std(0) > 0.5  # a dead channel stays where it is
    assert varied.any()
    torch.testing.assert_close(normal[:, varied].mean(0), torch.zeros(int(varied.sum())), atol=1e-3, rtol=0)


def test_features_that_shrink_are_normalized_by_what_they_are_at_the_end():
    detector = differnet(attention="cbam", normalize="batchnorm", epochs=3, lr=0.05)
    state = detector.precompute(TRAIN, training=True)
    embedding = detector.fit(state).embed_all(state).flatten(0, 1)
    assert detector.history[-1]["spread"] < 0.9  # running averages would lag behind
    torch.testing.assert_close(detector.norm.running_mean, embedding.mean(0))
    torch.testing.assert_close(detector.norm.running_var, embedding.var(0))


def test_whitening_makes_embeddings_uncorrelated_with_variance_one():
    from attnad.methods.differnet import _whitening

    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20_000, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    mixed = mixed * torch.tensor([100.0, 1, 1, 1, 1, 0]) + 7  # of very different size, one that never varies
    found = _whitening(mixed)
    white = mixed @ found["weight"].T + found["bias"]
    torch.testing.assert_close(torch.cov(white[:, :5].T), torch.eye(5), atol=0.02, rtol=0)
    torch.testing.assert_close(white.mean(0), torch.zeros(6), atol=1e-2, rtol=0)


def test_whitening_with_fewer_pictures_than_features_stays_finite():
    from attnad.methods.differnet import _whitening

    few, more = torch.randn(2, 50, 100, generator=torch.Generator().manual_seed(0))
    found = _whitening(few)
    white = more @ found["weight"].T + found["bias"]  # pictures that it was not measured on
    assert white.isfinite().all() and 0.1 < white.var() < 10


def test_the_square_of_a_whitened_embedding_is_its_mahalanobis_distance():
    detector = differnet(normalize="whiten", epochs=1).fit(TRAIN)
    embedding = detector.embed_all(detector.precompute(TEST, training=False))
    squares = detector.norm(embedding).square().mean(dim=(1, 2)).detach().numpy()
    views = VIEWS | {"cached_views": detector.cached_views}
    np.testing.assert_allclose(squares, Mahalanobis(**views).fit(TRAIN).predict(TEST).scores, rtol=1e-3)


@pytest.mark.parametrize("normalize", ["standardize", "whiten"])
def test_measuring_the_embedding_once_needs_it_beforehand(normalize):
    with pytest.raises(ValueError, match="cache=True"):
        differnet(normalize=normalize, cache=False).fit(TRAIN)


@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90, 37.5])
def test_pictures_turn_as_torchvision_turns_them(angle):
    from attnad.methods.pooled import _rotated

    image = torch.from_numpy(TRAIN[0])
    assert torch.equal(_rotated(image, angle), TF.rotate(image, angle))


def test_angles():
    draw = torch.Generator().manual_seed(0)
    assert differnet(rotations="none").angles(64) == [0.0]
    assert differnet(rotations="any").angles(4) == [0.0, 90.0, 180.0, 270.0]
    assert differnet(rotations="right").angles(64) == [0.0, 90.0, 180.0, 270.0]  # there are no more
    assert differnet(rotations="right").angles(2) == [0.0, 180.0]
    assert sorted(differnet(rotations="right").angles(4, draw)) == [0.0, 90.0, 180.0, 270.0]
    drawn = differnet(rotations="any").angles(1000, draw)
    assert -180 <= min(drawn) < -170 and 170 < max(drawn) <= 180


def test_attentdiffernet_is_differnet_with_attention():
    arguments = dict(
        VIEWS, train_views=2, cached_views=4, steps=2, hidden=8, epochs=2, batch_size=4, cache=True
    )
    one, other = AttentDifferNet(**arguments), DifferNet(attention="se", **arguments)
    assert one.arguments() == other.arguments()
    assert same(weights(one.fit(TRAIN)), weights(other.fit(TRAIN)))
    assert AttentDifferNet("cbam", **arguments).extractor.points == ("P1", "P2")


def test_attention_changes_nothing_but_itself():
    """The flow starts from the same weights: a comparison is a comparison of attention."""
    plain, attentive = weights(differnet()), weights(differnet(attention="se"))
    assert plain.keys() < attentive.keys()
    for key in plain:
        torch.testing.assert_close(plain[key], attentive[key], rtol=0, atol=0, equal_nan=True)


def test_an_identity_gate_gives_the_plain_network():
    plain, gated = differnet().fit(TRAIN), differnet(attention="identity").fit(TRAIN)
    assert np.array_equal(plain.predict(TEST).scores, gated.predict(TEST).scores)


# --- Collapse -------------------------------------------------------------------------------------


class Shrinking(nn.Module):
    """A gate that can do one thing: make everything smaller."""

    def __init__(self, channels):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x * torch.exp(10 * self.log_scale)


@pytest.mark.parametrize("cache", [True, False])
def test_a_collapse_is_noticed_once(cache):
    bright = 100 * TRAIN  # features so large that the likelihood gains by shrinking them
    detector = differnet(
        attention=Shrinking, attention_points=["P2"], normalize=None, lr=0.05, epochs=8, cache=cache
    )
    with pytest.warns(CollapseWarning, match="shrinks the features") as caught:
        detector.fit(bright)
    assert len([w for w in caught if issubclass(w.category, CollapseWarning)]) == 1
    assert detector.history[-1]["spread"] < 0.1
    assert detector.history[0]["spread"] > 0.5  # it was measured before the gate began to shrink


def test_without_training_the_gate_the_spread_stays():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        detector = differnet(attention="se", train_attention=False, rotations="none").fit(TRAIN)
    assert all(entry["spread"] == pytest.approx(1, rel=1e-3) for entry in detector.history)


# --- Baselines ------------------------------------------------------------------------------------


def standardised(detector, train, test):
    """Embeddings of all views by numpy, each feature standardised by the training ones: (N, V, D) each."""
    train = detector.embed_all(detector.precompute(train, training=True)).numpy()
    test = detector.embed_all(detector.precompute(test)).numpy()
    mean, std = train.mean(axis=(0, 1)), train.reshape(-1, train.shape[-1]).std(axis=0, ddof=1)
    std = np.where(std > 1e-6, std, 1)
    return (train - mean) / std, (test - mean) / std


def test_mahalanobis_beside_scikit_learn():
    detector = Mahalanobis(**VIEWS, cached_views=4).fit(TRAIN)
    train, test = standardised(detector, TRAIN, TEST)
    covariance = LedoitWolf(assume_centered=True).fit(train.reshape(-1, 24)).covariance_
    expected = [
        np.mean([v @ np.linalg.solve(covariance, v) for v in views.astype(float)]) / 24 for views in test
    ]
    np.testing.assert_allclose(detector.predict(TEST).scores, expected, rtol=1e-3)


def test_nearest_neighbour_by_brute_force():
    detector = NearestNeighbor(**VIEWS, cached_views=4).fit(TRAIN)
    train, test = standardised(detector, TRAIN, TEST)
    expected = [cdist(views, train.reshape(-1, 24)).min(axis=1).mean() for views in test]
    np.testing.assert_allclose(detector.predict(TEST).scores, expected, rtol=1e-3)


def test_nearest_neighbour_knows_its_training_pictures():
    detector = NearestNeighbor(**VIEWS, cached_views=4).fit(TRAIN)
    assert detector.predict(TRAIN).scores.max() < 1e-2 * detector.predict(TEST).scores.min()


@pytest.mark.parametrize("method", [Mahalanobis, NearestNeighbor])
def test_a_baseline_that_saw_nothing_says_so(method):
    with pytest.raises(ValueError, match=r"call fit\(\) first"):
        method(**VIEWS).predict(TEST)


# --- What is computed once ------------------------------------------------------------------------


class Count:
    """Pictures that each step of a backbone processed, by step."""

    def __init__(self, extractor):
        self.calls = {name: 0 for name, _ in extractor.steps()}
        for name, module in extractor.steps():
            module.register_forward_hook(lambda m, x, y, name=name: self.add(name, len(y)))

    def add(self, name, count):
        self.calls[name] += count


def test_frozen_features_are_computed_once():
    detector = differnet(epochs=5)
    count = Count(detector.extractor)
    detector.fit(TRAIN)
    assert set(count.calls.values()) == {10 * 4 * 2}  # pictures x cached views x scales
    again = differnet(epochs=5, cache=False)
    count = Count(again.extractor)
    again.fit(TRAIN)
    assert set(count.calls.values()) == {5 * 10 * 2 * 2}  # epochs x pictures x training views x scales


def test_with_a_gate_at_the_last_point_only_what_follows_is_recomputed():
    detector = differnet(attention="se", attention_points=["P2"], epochs=5)
    count = Count(detector.extractor)
    detector.fit(TRAIN)
    once, trained = 10 * 4 * 2, 5 * 10 * 2 * 2
    again = once + trained + 5 * once  # before, in training, and after each epoch for the normalisation
    assert count.calls == {"one": once, "two": once, "P2": again, "last": again}


def test_precomputed_features_give_the_same_as_pictures():
    one, other = differnet(), differnet()
    features = other.precompute(dataset(TRAIN), training=True)
    assert len(features) == 10 and features.size == (32, 32)
    assert same(weights(one.fit(TRAIN)), weights(other.fit(features)))
    np.testing.assert_array_equal(one.predict(TEST).scores, other.predict(other.precompute(TEST)).scores)


@pytest.mark.parametrize(
    "change",
    [{"image_size": 64}, {"scales": 1}, {"seed": 1}, {"attention": "se"}, {"rotations": "none"}],
)
def test_features_of_another_network_are_refused(change):
    features = differnet(**change).precompute(TRAIN, training=True)
    for use in (differnet().fit, differnet().predict):
        with pytest.raises(ValueError, match=r"these features come from tiny.*its own precompute\(\)"):
            use(features)


def test_a_data_set_an_array_and_a_tensor_are_the_same_to_it():
    detector = differnet().fit(dataset(TRAIN))
    expected = detector.predict(dataset(TEST)).scores
    for same_pictures in (TEST, torch.from_numpy(TEST), TEST.astype(np.float64)):
        np.testing.assert_array_equal(detector.predict(same_pictures).scores, expected)


def test_a_last_picture_alone_in_its_batch_is_no_problem():
    """Batch normalisation has no variance of one example."""
    differnet(rotations="none", batch_size=3, cache=False).fit(TRAIN)


# --- Random numbers -------------------------------------------------------------------------------


def test_the_seed_decides():
    one, same_seed, other = (weights(differnet(seed=seed, attention="se").fit(TRAIN)) for seed in (0, 0, 1))
    assert same(one, same_seed)
    assert not same(one, other)


@pytest.mark.parametrize("cache", [True, False])
def test_global_random_numbers_are_left_alone(cache):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    detector = differnet(attention="random", cache=cache, rotations="any")
    assert state() == before
    detector.fit(TRAIN)
    assert state() == before
    detector.predict(TEST)
    Mahalanobis(**VIEWS).fit(TRAIN).predict(TEST)
    assert state() == before


def test_global_random_numbers_do_not_matter():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        results.append(weights(differnet(attention="se", cache=False, rotations="any").fit(TRAIN)))
    assert same(*results)


def test_seeded_puts_everything_back_after_an_error():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(KeyError), seeded(3):
        torch.rand(1), np.random.rand(1)  # noqa: NPY002
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_a_callback_does_not_disturb_training():
    def busy(detector, epoch):
        torch.rand(7), np.random.rand(7)  # noqa: NPY002
        detector.eval()
        return {"highest": float(detector.predict(TEST).scores.max()), "seen": epoch}

    watched = differnet(attention="se").fit(TRAIN, on_epoch=busy)
    assert same(weights(watched), weights(differnet(attention="se").fit(TRAIN)))
    assert [entry["seen"] for entry in watched.history] == [0, 1, 2]
    assert watched.history[-1]["highest"] == watched.predict(TEST).scores.max()
    assert not watched.training


# --- Interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("normalize", "attention"), [(None, "se"), ("batchnorm", "se"), ("batchnorm", "cbam")]
)
def test_resuming_gives_the_same_weights(tmp_path, cache, normalize, attention):
    arguments = {"attention": attention, "cache": cache, "normalize": normalize, "rotations": "any"}
    whole = differnet(epochs=4, **arguments).fit(TRAIN)
    part = tmp_path / "part.safetensors"
    differnet(epochs=2, **arguments).fit(TRAIN, checkpoint=part)
    resumed = differnet(epochs=4, **arguments).fit(TRAIN, checkpoint=part)
    assert same(weights(whole), weights(resumed))
    assert [h["loss"] for h in resumed.history] == [h["loss"] for h in whole.history]
    assert [h["spread"] for h in resumed.history] == [h["spread"] for h in whole.history]
    finished = differnet(epochs=4, **arguments).fit(TRAIN, checkpoint=part)  # nothing is left to do
    assert same(weights(whole), weights(finished))


KILLED = textwrap.dedent(
    """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)  # so that a fork is safe
    from tiny import TRAIN, differnet

    chance = random.Random(0)
    for cache in (True, False):
        arguments = dict(attention="se", cache=cache, normalize="batchnorm", rotations="any", epochs=9)
        checkpoint, kills = Path(sys.argv[1]) / f"killed-{cache}.safetensors", 0

        def written():
            return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

        while True:
            before, child = written(), os.fork()
            if child == 0:
                detector = differnet(**arguments)
                detector.fit(TRAIN, checkpoint=checkpoint, on_epoch=lambda d, e: time.sleep(0.02))
                os._exit(0)
            if kills < 4:
                while written() == before:  # every attempt gets a little further
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.06))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                break
            kills += 1
        assert status == 0 and kills >= 3, (status, kills)
        differnet(**arguments).fit(TRAIN).save(checkpoint.with_name(f"whole-{cache}"))
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which Windows does not have")
def test_killed_again_and_again_it_ends_with_the_same_weights(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    for cache in (True, False):
        killed, whole = (DifferNet.load(tmp_path / f"{how}-{cache}") for how in ("killed", "whole"))
        assert same(weights(killed), weights(whole))
        assert [h["loss"] for h in killed.history] == [h["loss"] for h in whole.history]
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"seed": 1}, {"attention": "se"}, {"hidden": 16}])
def test_a_checkpoint_of_other_arguments_is_refused(tmp_path, change):
    path = tmp_path / "run.safetensors"
    differnet().fit(TRAIN, checkpoint=path)
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"run.safetensors is a checkpoint with {name}=.*delete the file"):
        differnet(**change).fit(TRAIN, checkpoint=path)


def test_a_checkpoint_of_other_pictures_or_too_many_epochs_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    differnet().fit(TRAIN, checkpoint=path)
    with pytest.raises(ValueError, match="with pictures=10, here it would be 5"):
        differnet().fit(TRAIN[:5], checkpoint=path)
    with pytest.raises(ValueError, match="after 3 epochs, more than 1"):
        differnet(epochs=1).fit(TRAIN, checkpoint=path)


class Poisoned(DifferNet):
    """Its loss is not a number from the third epoch on."""

    def loss(self, state, generator):
        return super().loss(state, generator) * (math.nan if len(self.history) == 2 else 1)


def test_nan_stops_training_names_the_step_and_keeps_the_good_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    detector = Poisoned(**differnet().arguments() | {"device": "cpu", "epochs": 4})
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 2, step 0; .*run.safetensors holds"):
        detector.fit(TRAIN, checkpoint=path)
    kept = Poisoned.load(path)
    assert len(kept.history) == 2
    assert all(tensor.isfinite().all() for tensor in kept.state_dict().values())


def test_a_weight_that_is_not_finite_is_not_kept_either(tmp_path):
    """A finite loss may have a gradient that is not: the last step of an epoch would go unnoticed."""
    path = tmp_path / "run.safetensors"
    detector = differnet(epochs=4, batch_size=10)
    weight = next(p for p in detector.flow.parameters() if p.requires_grad)
    weight.register_hook(lambda gradient: gradient * (math.inf if len(detector.history) == 2 else 1))
    with pytest.raises(FloatingPointError, match="a weight is not finite in epoch 2"):
        detector.fit(TRAIN, checkpoint=path)
    assert len(DifferNet.load(path).history) == 2


# --- Files ----------------------------------------------------------------------------------------

DETECTORS = [
    lambda: differnet(attention="se", normalize="batchnorm"),
    lambda: differnet(attention="shuffled_cbam", normalize="standardize", attention_points=["P2"]),
    lambda: differnet(attention="random", normalize=None, cache=False),
    lambda: differnet(normalize="whiten"),
    lambda: Mahalanobis(**VIEWS),
    lambda: NearestNeighbor(**VIEWS),
]


@pytest.mark.parametrize("make", DETECTORS)
def test_what_is_saved_scores_the_same_when_loaded(tmp_path, make):
    detector = make().fit(TRAIN)
    path = detector.save(tmp_path / "deep" / "detector")
    assert path == tmp_path / "deep" / "detector.safetensors"
    loaded = type(detector).load(tmp_path / "deep" / "detector", device="cpu")
    assert loaded.arguments() == detector.arguments()
    assert loaded.history == detector.history
    assert loaded.frozen_name() == detector.frozen_name()
    np.testing.assert_array_equal(loaded.predict(TEST).scores, detector.predict(TEST).scores)
    assert [file.name for file in path.parent.iterdir()] == ["detector.safetensors"]


def test_a_block_of_your_own_is_asked_for(tmp_path):
    detector = differnet(attention=SqueezeExcitation).fit(TRAIN)
    path = detector.save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"attention=SqueezeExcitation, .*pass it to load\(attention=...\)"):
        DifferNet.load(path)
    loaded = DifferNet.load(path, attention=SqueezeExcitation)
    np.testing.assert_array_equal(loaded.predict(TEST).scores, detector.predict(TEST).scores)


def test_loading_what_is_no_detector(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        DifferNet.load(tmp_path / "nothing")
    good = differnet().fit(TRAIN).save(tmp_path / "good")
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"garbage", good.read_bytes()[:-100], good.read_bytes()[:50]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.safetensors is damaged or was not saved by this package"):
            DifferNet.load(bad)
        with pytest.raises(ValueError, match=r"bad.safetensors is damaged"):
            differnet().fit(TRAIN, checkpoint=bad)
    for metadata in (None, {"attnad": "no json"}, {"attnad": json.dumps({"method": "DifferNet"})}):
        save_file({"a": torch.zeros(1)}, bad, metadata)
        with pytest.raises(ValueError, match=r"bad.safetensors is damaged or was not saved by this package"):
            DifferNet.load(bad)
    with pytest.raises(ValueError, match=r"good.safetensors holds a DifferNet, not a Mahalanobis"):
        Mahalanobis.load(good)
    with pytest.raises(ValueError, match=r"good.safetensors does not fit a DifferNet"):
        DifferNet.load(good, hidden=16)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    differnet(epochs=1).fit(TRAIN, checkpoint=path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"the beginning of a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attnad.methods.files.save_file", full)
    with pytest.raises(OSError, match=r"run.safetensors could not be written .*No space left.*untouched"):
        differnet(epochs=2).fit(TRAIN, checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


# --- Bad input ------------------------------------------------------------------------------------


def test_an_anomalous_training_picture_is_refused_by_name():
    mixed = dataset(TRAIN, [0] * 7 + [1] * 3)
    for refuse in (
        differnet().fit,
        lambda d: differnet().precompute(d, training=True),
        Mahalanobis(**VIEWS).fit,
    ):
        with pytest.raises(ValueError, match=r"normal pictures only, but picture-7\.png is labelled"):
            refuse(mixed)
    assert len(differnet().predict(mixed)) == 10  # in testing they are welcome


def test_no_pictures():
    for use in (differnet().fit, differnet().predict, differnet().precompute):
        for nothing in (TRAIN[:0], dataset(TRAIN)[:0]):
            with pytest.raises(ValueError, match="no pictures in this data set"):
                use(nothing)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (TRAIN[0], r"must be \(N, 3, H, W\), these are \(3, 32, 32\)"),
        (TRAIN.transpose(0, 2, 3, 1), r"these are \(10, 32, 32, 3\)"),
        ((255 * TRAIN).astype(np.uint8), r"not uint8: divide by 255"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "divide by 255"),
    ],
)
def test_pictures_of_another_shape_or_kind_are_refused(images, message):
    for use in (differnet().fit, differnet().predict):
        with pytest.raises(ValueError, match=message):
            use(images)


def test_arguments_with_a_choice_name_it():
    with pytest.raises(ValueError, match="rotations='all': use 'any', 'right' or 'none'"):
        differnet(rotations="all")
    with pytest.raises(ValueError, match="normalize='layer'"):
        differnet(normalize="layer")


def test_frozen_has_a_length_and_parts():
    seven = Frozen([torch.arange(7), torch.zeros(7, 2)], "part", (4, 4))
    assert len(seven) == 7
    some = seven[np.array([5, 0])]
    assert some.tensors[0].tolist() == [5, 0] and some.tensors[1].shape == (2, 2)
    assert (some.part, some.size) == ("part", (4, 4))
    assert len(seven[np.arange(7) > 4]) == len(seven[5:]) == 2
    with pytest.raises(TypeError, match=r"take \[\[3\]\]"):
        seven[3]


# --- Importing ------------------------------------------------------------------------------------


def test_importing_is_quick_and_touches_nothing():
    """In a process of its own: no library behind `import attnad`, no seed, no download, no device."""
    code = textwrap.dedent(
        """
        import sys, time
        import random, socket
        import numpy as np, torch

        def refuse(*arguments):
            raise AssertionError("importing opened a connection")

        def random_states():
            return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

        socket.socket.connect, states = refuse, random_states()
        known, start = set(sys.modules), time.perf_counter()
        import attnad
        seconds = time.perf_counter() - start
        print(sorted({name.split(".")[0] for name in set(sys.modules) - known}), seconds)
        assert seconds < 2, seconds
        import attnad.methods
        assert "sklearn" not in sys.modules or "sklearn" in known  # slow, and only Mahalanobis needs it
        assert states == random_states()
        assert not torch.cuda.is_initialized()
        """
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("['attnad']")
