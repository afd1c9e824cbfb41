"""What a plan says of its hours: recorded ones, or counted by hand."""

import pytest
import torch

from attnad import benchmark, cost, datasets, forecast
from attnad.methods import DifferNet
from attnad.sizes import SIZES


def test_a_planned_time_is_that_of_the_same_options_pictures_and_kind_of_device(monkeypatch):
    def told(**more):
        made = benchmark.plan(["EfficientAD"], data=["magnetic_tile"], profile="quick", **more)
        return " ".join(forecast.describe(made * 30, made * 30, 1))

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "hours for 30 cells" in told() and "stimated" not in told()
    for other in ({"options": {"steps": 100_000}}, {"train": 9}):
        assert "For 30 cells no time has been recorded. Estimated" in told(**other)
    assert "Estimated" not in told(options={"steps": "many"}), "the cell's row will say what is wrong"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "For 30 cells no time has been recorded" in told(), "all was recorded on CPUs"


def test_hours_count_pictures_views_epochs_and_steps():
    def hours(method, data="magnetic_tile", **more):
        (cell,) = benchmark.plan([method], data=[data], profile="quick", **more)
        return forecast.hours(cell)

    known = forecast.training("DifferNet", "quick")
    assert known["gates"] == "distilled" and forecast.training("DifferNet", "paper")["gates"] == "likelihood"
    sizes = SIZES["quick"]["DifferNet"]
    assert known["views"] == 1 and forecast.training("DifferNet", "paper")["views"] == 4
    picture = torch.rand(1, 3, sizes["image_size"], sizes["image_size"])
    detector = DifferNet(**sizes | {"weights": None, "attention": "se"}, device="cpu")
    expected = 3 * 200 * sizes["epochs"] * cost.multiply_adds(detector, picture) / 1.2e12 / 3600
    assert hours("DifferNet") == pytest.approx(expected)
    assert hours("DifferNet", train=100) == pytest.approx(expected / 2)
    assert hours("DifferNet", train=0) == pytest.approx(
        expected * datasets.SOURCES["magnetic_tile"].counts["magnetic_tile"][0] / 200
    )
    assert hours("DifferNet", data="wafer/chip", train=0) == pytest.approx(expected)
    assert hours("DifferNet", data="wafer/chip:train_count=1000", train=0) == pytest.approx(5 * expected)
    assert hours("DifferNet", data="elpv/mono") == pytest.approx(expected)
    with pytest.raises(ValueError, match="not published; say --train"):
        hours("DifferNet", data="elpv/mono", train=0)
    assert hours("EfficientAD", train=100) == hours("EfficientAD"), "its steps do not depend on the pictures"
    assert hours("PatchCore") == pytest.approx(
        200 * forecast.training("PatchCore", "quick")["multiply_adds"] / 1.2e12 / 3600
    )
