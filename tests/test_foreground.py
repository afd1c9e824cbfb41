"""Masks of the object, and maps weighted by them."""

import numpy as np
import pytest
import tiny  # noqa: F401  (registers the backbone "tiny")

from attnad import datasets
from attnad.datasets import powerline
from attnad.foreground import Foreground, as_masks, iou, otsu, weighted
from attnad.methods import Prediction
from attnad.seeding import seeded

SMALL = {"backbone": "tiny", "weights": None, "levels": ("last",), "image_size": 64}


def small():
    """The smallest `Foreground`, with the same random weights each time."""
    with seeded(0):
        return Foreground(**SMALL)


def scenes(count=12, size=64, seed=0):
    """A bright disc near the middle on a dark ground, and where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    images, objects = np.empty((count, 3, size, size), np.float32), np.empty((count, size, size), bool)
    for image, thing in zip(images, objects, strict=True):
        cx, cy = rng.uniform(0.4 * size, 0.6 * size, 2)
        thing[:] = np.hypot(x - cx, y - cy) < size / 4
        image[:] = 0.2 + 0.6 * thing + 0.05 * rng.random((3, size, size))
    return images, objects


@pytest.mark.parametrize("taught", [False, True])
def test_finds_a_bright_thing_in_the_middle(taught):
    images, objects = scenes()
    foreground = small().fit(images, objects if taught else None)
    others, truth = scenes(seed=1)
    masks = foreground.masks(others)
    assert masks.shape == truth.shape and masks.dtype == np.float32
    assert masks.min() >= 0 and masks.max() <= 1
    assert iou(masks, truth).mean() > 0.6
    assert iou(1 - masks, truth).mean() < 0.2


def test_sign_does_not_depend_on_brightness():
    """A dark thing on a bright ground is foreground too: the border decides."""
    images, objects = scenes()
    assert iou(small().fit(1 - images).masks(1 - images), objects).mean() > 0.6


def test_grown_masks_hold_the_others():
    images, _ = scenes()
    foreground = small().fit(images)
    values, size = foreground.values(images), images.shape[-2:]
    before, after = as_masks(values, size), as_masks(values, size, grow=1)
    assert np.array_equal(before, foreground.masks(images))
    assert (after >= before).all() and after.mean() > before.mean()


def test_takes_data_sets_and_samples():
    train = datasets.load("powerline", size=64, train_count=4)
    foreground = small().fit(train)
    as_array = np.stack([sample.image for sample in train])
    assert np.array_equal(foreground.masks(train), foreground.masks(as_array))
    assert np.array_equal(foreground.masks(list(train)), foreground.masks(as_array))


def test_wrong_use_is_named():
    images, objects = scenes(4)
    with pytest.raises(RuntimeError, match="fit"):
        small().masks(images)
    with pytest.raises(ValueError, match="4 pictures, but 3 masks"):
        small().fit(images, objects[:3])
    with pytest.raises(ValueError, match="no pictures"):
        small().fit(images[:0])


def test_otsu_splits_two_heaps():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 3000), rng.normal(8, 1, 1000)])
    assert 3 < otsu(values) < 5
    assert 3 < -otsu(-values) < 5


def test_weighted():
    maps = np.array([[[1.0, 5.0], [3.0, 0.0]], [[4.0, 2.0], [2.0, 2.0]]], np.float32)
    prediction = Prediction(np.array([9.0, 9.0]), maps)
    plain = weighted(prediction, 1.0)
    assert np.array_equal(plain.maps, maps) and plain.scores.tolist() == [5, 4]
    mask = np.array([[1.0, 0.0], [0.5, 1.0]])
    found = weighted(prediction, mask)
    assert found.scores.tolist() == [1.5, 4] and found.maps[0, 0, 1] == 0
    assert prediction.scores.tolist() == [9, 9] and prediction.maps is maps  # the old one stays
    assert np.array_equal(weighted(prediction, np.stack([mask, mask])).maps, found.maps)


def test_weighted_maps_below_zero():
    """FastFlow's maps lie between -1 and 0: what is cut off must become the lowest, not the highest."""
    prediction = Prediction(np.zeros(1), np.array([[[-0.9, -0.1], [-0.5, -1.0]]], np.float32))
    found = weighted(prediction, np.array([[1.0, 0.0], [1.0, 1.0]]), zero=-0.95)
    assert np.allclose(found.maps, [[[-0.9, -0.95], [-0.5, -0.95]]]) and np.isclose(found.scores[0], -0.5)


def test_weighted_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no maps"):
        weighted(Prediction(np.zeros(2)), 1.0)
    with pytest.raises(ValueError, match="do not fit"):
        weighted(Prediction(np.zeros(2), np.zeros((2, 4, 4), np.float32)), np.ones((3, 4, 4)))


def test_iou():
    one, other = np.zeros((3, 2, 2)), np.zeros((3, 2, 2), bool)
    one[0, 0], other[0, :, 0] = 1, True
    one[1] = other[1] = 1
    assert np.allclose(iou(one, other), [1 / 3, 1, 1])


def test_a_roof_changes_the_background_alone():
    for category in powerline.ASSETS:
        defect = powerline.ASSETS[category][1][0]
        changed = []
        for index in range(4):
            view = {"category": category, "index": index, "defect": defect, "size": 96}
            plain, mask, thing = powerline.picture(**view)
            house, same_mask, same_thing = powerline.picture(**view, roof=True)
            assert (mask == same_mask).all() and (thing == same_thing).all()
            change = np.abs(plain - house).max(axis=0) > 0.1
            changed.append(change.mean())
            if category != "glass_insulator":  # glass shows what is behind it
                assert change[thing[0]].mean() < 0.15 < change.max()
        assert 0.03 < np.mean(changed) < 0.5
    off = powerline.picture(roof=False, size=64)[0]
    assert np.array_equal(off, powerline.picture(size=64)[0])
    test = datasets.load("powerline", split="test", size=64, test_count=1, roof=True)
    assert np.array_equal(test[0].image, powerline.picture(size=64, roof=True)[0])
