"""PatchCore: the coreset against the plain loop, the nearest neighbour against cdist, known answers."""

import numpy as np
import pytest
import torch
from tiny import pictures

from attnad.methods import PatchCore
from attnad.methods.patchcore import k_center, nearest_neighbor

SMALL = {"backbone": "tiny", "weights": None, "levels": ("last",), "image_size": 32, "device": "cpu"}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shortfall(points, chosen):
    """How much nearer than the farthest point (0: not at all) a centre ever was when it was chosen.

    One centre at a time, every distance computed, in double precision: the plain loop.
    """
    points, worst = points.double(), 0.0
    nearest = (points - points[chosen[0]]).norm(dim=1)
    for center in chosen[1:]:
        worst = max(worst, float(1 - nearest[center] / nearest.max()))
        nearest = torch.minimum(nearest, (points - points[center]).norm(dim=1))
    return worst


@pytest.mark.parametrize("count", [2, 60, 1400])
@pytest.mark.parametrize("kind", ["cloud", "clusters"])
def test_k_center_chooses_as_the_plain_loop_does(kind, count):
    points = random(1500, 12)
    if kind == "clusters":
        points = 0.1 * points + 5 * random(8, 12, seed=1)[torch.arange(1500) % 8]
    chosen = k_center(points, count, 5, torch.Generator().manual_seed(3)).tolist()
    assert len(set(chosen)) == count
    # Rounding only, which is larger where points are much nearer to each other than to their mean.
    assert shortfall(points, chosen) < (1e-4 if kind == "cloud" else 5e-3)


def test_k_center_starts_with_the_point_farthest_on_average():
    points = torch.cat([random(50, 3), torch.full((1, 3), 100.0)])
    assert int(k_center(points, 1, 10, torch.Generator().manual_seed(0))[0]) == 50


def test_k_center_of_equal_points_takes_none_twice():
    chosen = k_center(torch.ones(30, 4), 20, 3, torch.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == 20


def test_nearest_neighbor_is_that_of_cdist():
    points, bank = random(300, 16), random(200, 16, seed=1)
    distance, nearest = nearest_neighbor(points, bank)
    wanted = torch.cdist(points.double(), bank.double()).min(dim=1)
    assert (nearest == wanted.indices).all()
    torch.testing.assert_close(distance.double(), wanted.values, rtol=1e-5, atol=1e-5)


def test_training_pictures_score_zero_with_the_whole_bank():
    train = pictures(6)
    detector = PatchCore(**SMALL, coreset=1.0).fit(train)
    assert detector.bank.shape == (6 * 4 * 4, 12)
    prediction = detector.predict(train)
    np.testing.assert_array_equal(prediction.scores, 0)
    np.testing.assert_array_equal(prediction.maps, 0)


def test_a_defect_scores_higher_and_is_where_it_is():
    images = pictures(4, 64, 1, defects=(2, 3))
    small = SMALL | {"image_size": 64}
    prediction = PatchCore(**small, coreset=0.5).fit(pictures(8, 64)).predict(images)
    assert prediction.maps.shape == (4, 64, 64)
    assert prediction.scores[2:].min() > prediction.scores[:2].max()
    bright = images[2].min(axis=0) == 1
    assert prediction.maps[2][bright].mean() > 1.5 * prediction.maps[2][~bright].mean()


def test_the_coreset_has_its_share_and_the_projection_may_be_left_out():
    detector = PatchCore(**SMALL, coreset=0.25, projection=None).fit(pictures(6))
    assert len(detector.bank) == 6 * 16 // 4


def test_features_longer_than_asked_are_averaged():
    detector = PatchCore(**SMALL, dimensions=6, coreset=1.0).fit(pictures(2))
    state = detector.precompute(pictures(2)).tensors
    wide = PatchCore(**SMALL, dimensions=None)
    pairs = wide.patches(state).flatten(0, 2).view(-1, 6, 2).mean(dim=2)
    torch.testing.assert_close(detector.patches(state).flatten(0, 2), pairs)


def test_reweighting_lowers_a_score_and_never_below_zero():
    train, images = pictures(6), pictures(3, seed=1, defects=(2,))
    plain = PatchCore(**SMALL, coreset=0.5).fit(train).predict(images).scores
    weighted = PatchCore(**SMALL, coreset=0.5, neighbors=9).fit(train).predict(images).scores
    assert (weighted < plain).all() and (weighted >= 0).all()


@pytest.mark.parametrize("wrong", [{"coreset": 0}, {"coreset": 2}, {"patch": 2}])
def test_impossible_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PatchCore(**SMALL, **wrong)


def test_prediction_before_fitting_says_so():
    with pytest.raises(RuntimeError, match="fit"):
        PatchCore(**SMALL).predict(pictures(1))


def test_a_bank_comes_back_from_a_file(tmp_path):
    detector = PatchCore(**SMALL, attention="se", coreset=0.5).fit(pictures(4))
    again = PatchCore.load(detector.save(tmp_path / "bank"), device="cpu")
    images = pictures(3, seed=1)
    np.testing.assert_array_equal(detector.predict(images).maps, again.predict(images).maps)
    assert detector.gates == "untrained"
