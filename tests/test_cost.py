"""The cost table: parameters and multiply-adds counted by hand, a clock that is checked with a nap."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from attnad import cost
from attnad.methods import EfficientAD, PatchCore, SimpleNet
from attnad.methods.base import Detector

PICTURE = torch.rand(1, 3, 64, 64)


class Nap(Detector):
    """One convolution, one matrix product, one parameter in half precision, and a pause."""

    def __init__(self, seconds=0.0):
        super().__init__(1, 1, False, 0, "cpu")
        self.seconds, self.calls = seconds, 0
        self.conv = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
        self.head = nn.Linear(5, 2, bias=False)
        self.register_buffer("memory", torch.zeros(7, dtype=torch.float16))

    def frozen(self, images, training, generator):
        return [self.conv(images).mean((2, 3))]

    def frozen_name(self):
        return "one convolution"

    def score(self, state):
        self.calls += 1
        time.sleep(self.seconds)
        return self.head(state[0])[:, 0], None


def test_parameters_by_part():
    table = cost.parameters(Nap())
    assert table.loc["conv"].to_dict() == {"trained": 0, "frozen": 140, "buffers": 0, "bytes": 560}
    assert table.loc["head"].to_dict() == {"trained": 10, "frozen": 0, "buffers": 0, "bytes": 40}
    assert table.loc["memory"].to_dict() == {"trained": 0, "frozen": 0, "buffers": 7, "bytes": 14}


def test_multiply_adds_by_hand():
    assert cost.multiply_adds(Nap(), PICTURE) == 64 * 64 * 3 * 9 * 5 + 5 * 2


def test_paper_figures_of_simplenet():
    plain = cost.parameters(SimpleNet(weights=None, device="cpu"))
    gated = cost.parameters(SimpleNet(weights=None, attention="se", device="cpu"))
    assert plain.loc["discriminator", "trained"] == 1_576_960
    assert plain.loc["adaptor", "trained"] == 2_360_832
    assert plain.loc["extractor", "trained"] == 0 and "attention" not in plain.index
    assert gated.loc["attention"].to_dict() == {"trained": 0, "frozen": 21_504, "buffers": 0, "bytes": 86_016}
    trained = cost.parameters(SimpleNet(weights=None, attention="se", train_attention=True, device="cpu"))
    assert trained.loc["attention", "trained"] == 21_504


def test_paper_figures_of_efficientad():
    plain = cost.parameters(EfficientAD(teacher=None, device="cpu"))
    gated = cost.parameters(EfficientAD(teacher=None, attention="se", device="cpu"))
    assert plain["trained"].sum() == 5_363_712
    assert plain.loc["teacher", "frozen"] == 2_694_144
    assert plain.loc[["teacher", "student", "autoencoder"], "bytes"].sum() == 32_231_424  # 32.3 MB, it says
    assert gated["trained"].sum() - plain["trained"].sum() == gated.loc["attention", "trained"] == 18_432


def test_latency_measures_the_nap_and_not_the_warm_up():
    detector = Nap(0.01)
    found = cost.latency(detector, PICTURE, repeats=6, warm_up=3)
    assert detector.calls == 9 and len(found.runs) == 6
    assert found.low <= found.median <= found.high and found.median >= 10


@pytest.mark.parametrize("runs", [6, 8, 16, 30, 60])
def test_interval_holds_the_median_of_the_source(runs):
    rng = np.random.default_rng(0)
    found = [cost.Latency.of(rng.exponential(size=runs)) for _ in range(3000)]
    inside = [interval.low <= np.log(2) <= interval.high for interval in found]
    assert 0.942 < np.mean(inside) < 0.997  # at least 0.95, but for 2 standard errors of this simulation


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="at least 6"):
        cost.latency(Nap(), PICTURE, repeats=5)


def test_table_has_a_row_for_each():
    table = cost.table({"quick": Nap(), "slow": Nap(0.05)}, PICTURE, repeats=30)
    assert table.loc["quick", "trained"] == 10 and table.loc["quick", "frozen"] == 140
    assert table.loc["quick", "gates"] == 0
    assert table.loc["quick", "megabytes"] == pytest.approx(614e-6)
    assert table.loc["quick", ["ratio", "ratio_low", "ratio_high"]].tolist() == [1, 1, 1]
    assert table.loc["slow", "ratio_low"] > 1
    assert table.loc["slow", "ms_low"] >= 50 > table.loc["quick", "ms_low"]  # it sleeps so long at least


def test_a_memory_is_as_long_as_after_so_many_pictures():
    detector = PatchCore("efficientnet_lite0", weights=None, image_size=64, coreset=0.1, device="cpu")
    trained = PatchCore("efficientnet_lite0", weights=None, image_size=64, coreset=0.1, device="cpu")
    trained.fit(torch.rand(20, 3, 64, 64))
    assert cost.filled(detector, 20).bank.shape == trained.bank.shape
    nap = Nap()
    assert cost.filled(nap, 20) is nap
