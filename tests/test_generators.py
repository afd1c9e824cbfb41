"""The generators: the same picture everywhere, masks that mean something, knobs that turn one thing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnad import datasets
from attnad.datasets import powerline, wafer

SIZE = 96
CASES = [(powerline, c, d) for c, (_, kinds) in powerline.ASSETS.items() for d in kinds]
CASES += [(wafer, c, d) for c in wafer.SOURCE.categories for d in wafer.DEFECTS]
DIGEST = """
import hashlib
from attnad.datasets import powerline, wafer
sha = hashlib.sha256()
for module, names in ((powerline, powerline.ASSETS), (wafer, wafer.SOURCE.categories)):
    for name in names:
        kind = (powerline.ASSETS[name][1] if module is powerline else wafer.DEFECTS)[0]
        for array in module.picture(name, 3, kind, 96):
            sha.update(array.tobytes())
print(sha.hexdigest())
"""


def digest_of(python: str) -> str:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "random"}
    run = subprocess.run([python, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize("module, category, defect", CASES)
def test_defect_and_its_good_twin(module, category, defect):
    """The defect changes the picture where its mask is, and nowhere far from it."""
    shown = 0
    for index in range(4):
        good, none, thing = module.picture(category, index, "good", SIZE)
        bad, mask, _ = module.picture(category, index, defect, SIZE)
        assert good.shape == (3, SIZE, SIZE) and good.dtype == np.float32
        assert mask.shape == none.shape == thing.shape == (1, SIZE, SIZE) and mask.dtype == bool
        assert good.min() >= 0 and good.max() <= 1 and not none.any()
        assert 0.01 < thing.mean() < 0.99 and mask.mean() < 0.5
        if mask.any():
            change = np.abs(good - bad).mean(axis=0)
            assert change[mask[0]].mean() > 2 * change[~mask[0]].mean()
            shown += 1
    assert shown >= 3  # a defect may lie outside the picture, rarely


def test_same_in_another_process():
    assert digest_of(sys.executable) == digest_of(sys.executable)


@pytest.mark.parametrize("variable", ["ATTNAD_PYTHON_A", "ATTNAD_PYTHON_B"])
def test_same_on_another_python(variable):
    """Set these variables to interpreters that have numpy and Pillow only."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no interpreter")
    assert digest_of(python) == digest_of(sys.executable)


def test_pictures_differ_and_splits_share_none():
    seen = set()
    for split in ("train", "test"):
        for seed in (0, 1):
            for sample in datasets.load(
                "powerline", split=split, size=32, seed=seed, train_count=4, test_count=3
            ):
                seen.add(hashlib.sha256(sample.image.tobytes()).digest())
    assert len(seen) == 2 * (4 + 2 * 3)


def test_counts_labels_and_paths():
    test = datasets.load("powerline", "vari_grip", "test", size=32, test_count=4)
    assert test.labels.tolist() == [0] * 4 + [1] * 4
    assert test.defects == ["good"] * 4 + ["corrosion", "bird_nest"] * 2
    assert len({r.path for r in test.records}) == 8
    assert (datasets.load("wafer", "street", "train", train_count=5).labels == 0).all()


def test_annotation_area_holds_more_than_the_gap():
    areas = [
        [powerline.picture(index=i, defect="missing_cap", size=128, annotation=a)[1].sum() for i in range(6)]
        for a in ("gap", "area")
    ]
    assert sum(areas[1]) > 1.3 * sum(areas[0])


def test_knobs_turn_one_thing():
    dark, bright = (powerline.picture(light=v, size=SIZE) for v in (0.0, 1.0))
    assert dark[0].mean() < 0.8 * bright[0].mean()
    assert (dark[2] == bright[2]).all()  # the object has not moved
    plain, full = (powerline.picture(clutter=v, size=SIZE)[2] for v in (0.0, 1.0))
    assert (plain == full).all()
    small, large = (powerline.picture("yoke_suspension", scale=v, size=SIZE)[2].sum() for v in (0.6, 1.0))
    assert small < large
    view = {"category": "yoke_suspension", "defect": "corrosion", "size": SIZE}
    weak, strong = (
        np.mean([powerline.picture(index=i, corrosion=v, **view)[1].mean() for i in range(3)])
        for v in (0.3, 1.0)
    )
    assert weak < strong
    part, whole = (
        np.mean([powerline.picture(index=i, defect_size=v, **view)[1].mean() for i in range(3)])
        for v in (0.3, 1.0)
    )
    assert part < whole


@pytest.mark.parametrize(
    "options",
    [{"clutter": 2}, {"light": -1}, {"scale": 0}, {"defect_size": 0}, {"annotation": "box"}, {"colour": 1}],
)
def test_wrong_knobs_are_named(options):
    with pytest.raises(datasets.DataError, match=next(iter(options))):
        datasets.load("powerline", **options)
    if "colour" not in options:  # what Python itself says of a function's unknown argument is clear enough
        with pytest.raises(datasets.DataError, match=next(iter(options))):
            powerline.picture(**options)


@pytest.mark.parametrize("options", [{"light": 2}, {"light": -0.1}, {"defect_size": 0}, {"defect_size": 5}])
def test_wrong_knobs_of_a_wafer_are_named(options):
    with pytest.raises(datasets.DataError, match=next(iter(options))):
        datasets.load("wafer", **options)
    with pytest.raises(datasets.DataError, match=next(iter(options))):
        wafer.picture(**options)


@pytest.mark.parametrize("module", [powerline, wafer])
def test_unknown_category_is_named(module):
    with pytest.raises(datasets.DataError, match=f"no category 'x'; it has: {module.SOURCE.categories[0]}"):
        module.picture("x")
    with pytest.raises(datasets.DataError, match="no category 'x'"):
        module.load("x", "train", 32, 0)


def test_unknown_defect_is_named():
    with pytest.raises(datasets.DataError, match="scratch"):
        wafer.picture("chip", defect="missing_cap")
    with pytest.raises(datasets.DataError, match="bird_nest"):
        powerline.picture("glass_insulator", defect="bird_nest")


@pytest.mark.parametrize("size", [8, 33, 512])
def test_any_size(size):
    for module, category in ((powerline, "glass_insulator"), (powerline, "yoke_suspension"), (wafer, "chip")):
        assert module.picture(category, size=size)[0].shape == (3, size, size)


def test_the_path_of_a_drawn_picture_tells_its_knobs():
    """What is kept of a picture under its path must not be taken for another's."""

    def path(name, **knobs):
        return datasets.load(name, split="test", size=32, **knobs)[0].path

    assert path("powerline") == "powerline/glass_insulator/test/good/0-0"
    assert len({path("powerline", **k) for k in ({}, {"roof": True}, {"light": 0.5}, {"scale": 1.5})}) == 4
    assert path("wafer") == "wafer/chip/test/good/0-0"
    assert len({path("wafer", **k) for k in ({}, {"light": 0.5}, {"defect_size": 2})}) == 3
