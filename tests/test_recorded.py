"""The recorded runs that chapters compare: which count, under which names, and that each is there once."""

import shlex

import pandas as pd
import pytest

from attnad import benchmark, recorded, results
from attnad.sizes import METHODS, SIZES

BLIND = {"EdgeMagnitude", "CentrePrior"}


def test_runs_are_comparable():
    found = recorded.runs()
    assert len(found) > 50
    assert set(found.protocol) == {"last"} and set(found.options) == {"{}"} and found.error.isna().all()
    assert not found.duplicated(["data", "method", "attention", "seed"]).any()
    assert {"RD++", "CFLOW-AD", *recorded.BLIND} <= set(found.method)
    assert found.groupby(["data", "seed"]).test_anomalous.nunique().max() == 1  # the same pictures for all
    subsets = recorded.runs(everywhere=False)
    assert len(subsets) > len(found) and "AB1+AB3" in set(subsets.attention_points)
    assert "AB1+AB3" not in set(found.attention_points)
    kept = results.scores("benchmark")
    assert set(subsets.command) <= set(kept)
    assert all(
        kept[row.command].shape[1] == row.test_normal + row.test_anomalous for row in found.itertuples()
    )


def test_runs_have_the_sizes_of_today():
    for run in recorded.runs(everywhere=False).itertuples():
        sizes = SIZES["quick"][shlex.split(run.command)[5]]
        assert run.image_size == sizes.get("image_size", run.image_size)
        assert run.epochs == sizes.get("epochs", run.epochs), run.command


def test_a_run_that_is_recorded_twice_is_no_run(monkeypatch):
    once = results.read("benchmark")
    monkeypatch.setattr(results, "read", lambda name: pd.concat([once, once]))
    with pytest.raises(ValueError, match="recorded twice: python -m attnad benchmark"):
        recorded.runs()


def test_a_change_is_between_twins():
    runs = pd.DataFrame({
        "method": ["A", "A", "A", "B", "A", "A", "B"],
        "data": ["x", "x", "y", "x", "x", "x", "x"],
        "seed": [0, 1, 0, 0, 0, 1, 0],
        "attention": ["se"] * 4 + ["none"] * 3,
        "aupro": [0.5, None, 0.7, 0.9, 0.25, 0.5, 1.0],
    })  # fmt: skip
    change = recorded.change(runs[runs.attention == "se"], runs[runs.attention == "none"], "aupro")
    assert change.round(6).to_dict() == {("A", "x", 0): 0.25, ("B", "x", 0): -0.1}


def test_a_caption_names_seeds_sizes_and_machine():
    found = recorded.runs().query("method in ['SimpleNet', 'edges']")
    text = recorded.caption(found)
    assert f"{len(found)} recorded runs" in text and "128 px" in text and found.device.iloc[0] in text
    assert "1 to" not in text  # edges have no seeds to speak of


@pytest.mark.parametrize("name", ["benchmark", "signals"])
def test_replaced_runs_say_why_and_are_no_longer_in_the_table(name):
    replaced, current = results.read(f"{name}_replaced"), results.read(name)
    assert replaced.why.notna().all() and list(replaced.columns[1:]) == list(current.columns)
    both = replaced.merge(current, on=["command", "protocol", "date"])
    assert both.empty


@pytest.mark.parametrize(
    "name",
    [
        "backgrounds",
        "benchmark",
        "costs",
        "distillations",
        "distilled",
        "explain",
        "metrics",
        "peers",
        "signals",
        "simplenet_attempts",
        "reruns",
    ],
)
def test_each_row_has_a_command_that_its_program_takes(name, capsys):
    for command in results.read(name).command.unique():
        python, *words = shlex.split(command)
        assert python == "python"
        if words[:3] == ["-m", "attnad", "benchmark"]:
            assert benchmark.cli([*words[3:], "--plan"]) == 0
            assert "1 cells, 0 of them done" in capsys.readouterr().out
            continue
        script = results.DATA.parent / words[0]
        if not script.exists():
            pytest.skip("an installed copy has no benchmarks")
        options = [word for word in words[1:] if word.startswith("--")]
        assert all(f'"{option}"' in script.read_text(encoding="utf8") for option in options), command


def test_published_sizes_cost_what_their_papers_count():
    table = results.read("costs").set_index(["method", "attention"])
    assert set(table.index.unique("method")) == set(METHODS) - {"Mahalanobis", "NearestNeighbor"} - BLIND
    assert table.trained["EfficientAD", "none"] == 5_363_712
    assert table.trained["EfficientAD", "se"] - table.trained["EfficientAD", "none"] == 18_432
    numbers = table.trained + table.frozen
    assert all(
        numbers[m, a] - numbers[m, "none"] == table.gates[m, a] > 0 for m, a in table.index if a != "none"
    )
    assert (table[table.index.get_level_values("attention") == "none"].ratio == 1).all()
