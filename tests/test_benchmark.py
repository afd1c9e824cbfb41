"""Sweeps: planned, recorded, resumed after being killed, run again from a row, and spread over a cluster."""

import csv
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import attnad.cells
from attnad import benchmark, datasets, metrics
from attnad.cells import COLUMNS, Cell, Outcome, attempt, few, run
from attnad.methods import CollapseWarning
from attnad.sizes import METHODS, PICTURES, SIZES

TINY = {"train": 8, "test": 4}
SETTINGS = {
    "Mahalanobis": {"image_size": 128},
    "DifferNet": {"image_size": 128, "hidden": 8, "epochs": 3},
}


def cells(methods=("Mahalanobis",), **more):
    options = {"image_size": 128} | more.pop("options", {})
    return benchmark.plan(methods, data=["powerline/vari_grip"], options=options, **TINY | more)


def rows(path, without=("seconds", "date", "commit")):  # someone may commit while the tests run
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def test_plan_crosses_everything_but_varies_no_place_without_attention():
    made = benchmark.plan(
        ["DifferNet"], ["none", "se"], ["elpv/poly", "powerline/*"], (0, 1), ["AB1", "AB1+AB3"]
    )
    categories = 1 + len(datasets.SOURCES["powerline"].categories)
    assert len(made) == categories * 2 * (1 + 2)
    assert {c.points for c in made if c.attention == "none"} == {""}
    assert {c.points for c in made if c.attention == "se"} == {"AB1", "AB1+AB3"}
    assert (made[0].train, made[0].test) == PICTURES["quick"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ["DiferNet"]}, {"profile": "fast"}, {"data": ["elpf"]}, {"data": ["elpv/multi"]},
        {"data": ["folder"]}, {"data": ["folder/*"]}, {"attentions": ["none", "sse"]},
        {"options": {"attention": "se"}}, {"options": {"seed": 1}},
        {"data": ["powerline/vari_grip:cluter=0"]}, {"data": ["elpv/mono:clutter=0"]},
        {"data": ["powerline/vari_grip:size=64"]}, {"data": ["powerline/vari_grip:split=train"]},
        {"data": ["powerline/vari_grip:clutter=abc"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_unknown_names_are_refused_before_anything_runs(wrong):
    with pytest.raises(ValueError, match=r"there (are|is)|has no|There (are|is)|not supported"):
        benchmark.plan(**{"methods": ["DifferNet"]} | wrong)


def test_options_of_a_data_set_go_with_the_cell_and_into_its_pictures():
    (cell,) = benchmark.plan(["PatchCore"], data=["powerline/vari_grip:clutter=0,scale=1.6"], profile="quick")
    assert cell.category == "vari_grip:clutter=0,scale=1.6" and cell.category in cell.command()
    again = datasets.load("powerline", "vari_grip", "test", size=32, clutter=0, scale=1.6)
    assert np.array_equal(cell.data(32)[1][0].image, again[0].image)
    with pytest.raises(ValueError, match="NAME=VALUE"):
        benchmark.plan(["PatchCore"], data=["powerline/vari_grip:clutter"])


def test_a_name_given_twice_is_one_run():
    made = benchmark.plan(["DifferNet"] * 2, ["none", "se"], ["elpv", "elpv/mono"], (0, 0), ["AB1", "AB1"])
    assert len(made) == 2


def test_few_pictures_are_the_same_in_every_run():
    train, test = (datasets.load("wafer", split=split, size=32) for split in ("train", "test"))
    part = few(train, test, 5, 2)
    assert len(part[0]) == 5 and sorted(part[1].labels) == [0, 0, 1, 1]
    for one, other in zip(part, few(train, test, 5, 2)):
        assert [record.path for record in one.records] == [record.path for record in other.records]
    assert [len(whole) for whole in few(train, test, 0, 0)] == [len(train), len(test)]


def test_cells_of_a_category_share_its_pictures_and_what_was_frozen(monkeypatch):
    monkeypatch.setattr(attnad.cells, "_shared", {})
    first, second = cells(seeds=(0, 1))
    (other,) = cells(train=7)
    pictures = attnad.cells.shared(first, 32)
    assert attnad.cells.shared(second, 32) is pictures
    assert attnad.cells.shared(first, 64) is not pictures and attnad.cells.shared(first, 32) is pictures
    assert len(attnad.cells.shared(other, 32).sets[0]) == 7
    assert attnad.cells.shared(first, 32) is not pictures, "one category at a time"


def test_every_method_has_a_laptops_size():
    assert set(SIZES["quick"]) == set(METHODS)
    for profile, sizes in SIZES.items():
        assert set(sizes) <= set(METHODS), profile


def test_rows_say_what_was_run_and_scores_give_their_figures(tmp_path):
    planned = cells(("Mahalanobis", "DifferNet"), attentions=("none", "se"), options={})
    planned = [c for c in planned if c.method == "Mahalanobis" or c.attention == "se"]
    table = benchmark.sweep(planned, tmp_path / "t.csv")
    read = rows(tmp_path / "t.csv")
    assert tuple(read[0]) == tuple(c for c in COLUMNS if c not in ("seconds", "date", "commit"))
    assert [r["protocol"] for r in read] == ["last", "best"] * 3
    assert [r["method"] for r in read[::2]] == ["Mahalanobis", "Mahalanobis", "DifferNet"]
    assert read[-1]["gates"] == "distilled" and read[-1]["attention_points"] == "AB1+AB2+AB3"
    assert read[0]["train"] == "8" and read[0]["test_normal"] == read[0]["test_anomalous"] == "4"
    for row in read:
        labels, scores = table.scores[row["command"]]
        if row["protocol"] == "last":
            assert metrics.image_auroc(labels.astype(int), scores) == pytest.approx(float(row["image_auroc"]))
    assert float(read[5]["image_auroc"]) >= float(read[4]["image_auroc"]), "best is never below last"
    with np.load(tmp_path / "t_scores.npz", allow_pickle=False) as kept:
        assert set(kept.files) == {r["command"] for r in read}


def test_the_command_in_a_row_gives_the_row_again(tmp_path):
    cell = cells(("DifferNet",), attentions=("se",), points=("AB1+AB3",), options=SETTINGS["DifferNet"])
    benchmark.sweep(cell, tmp_path / "t.csv")
    first = rows(tmp_path / "t.csv")
    words = shlex.split(first[0]["command"])
    assert words[:4] == ["python", "-m", "attnad", "benchmark"]
    again = [sys.executable, *words[1:], "--out", str(tmp_path / "again.csv")]
    subprocess.run(again, check=True, capture_output=True)
    assert rows(tmp_path / "again.csv") == first


def test_a_failed_cell_is_recorded_and_does_not_stop_the_rest_and_is_tried_again(
    tmp_path, monkeypatch, capsys
):
    planned = cells(seeds=(0, 1))
    broken = SIZES["quick"]["Mahalanobis"] | {"scales": 9}
    good = SIZES["quick"]["Mahalanobis"]
    real = benchmark.attempt

    def attempt(cell, checkpoint):
        SIZES["quick"]["Mahalanobis"] = broken if cell.seed == 0 else good
        return real(cell, checkpoint)

    monkeypatch.setitem(SIZES["quick"], "Mahalanobis", good)
    monkeypatch.setattr(benchmark, "attempt", attempt)
    table = benchmark.sweep(planned, tmp_path / "t.csv")
    errors = [[row["error"] for row in table.rows[c.command()]] for c in planned]
    assert len(errors[0]) == 1 and ": " in errors[0][0] and errors[1] == ["", ""]
    assert "FAILED" in capsys.readouterr().out
    assert table.missing() == planned[:1]
    monkeypatch.setattr(benchmark, "attempt", real)
    SIZES["quick"]["Mahalanobis"] = good
    assert not benchmark.sweep(planned, tmp_path / "t.csv", resume=True).missing()


def test_a_finished_file_is_not_overwritten_by_mistake(tmp_path):
    benchmark.sweep(cells(), tmp_path / "t.csv")
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        benchmark.sweep(cells(), tmp_path / "t.csv")
    benchmark.sweep(cells(), tmp_path / "t.csv", resume=True)
    assert (tmp_path / "t.csv").read_bytes() == before


@pytest.mark.parametrize("checkpoints", [None, "fast"])
def test_a_checkpoint_goes_with_its_cell_and_only_resume_takes_one_up(tmp_path, monkeypatch, checkpoints):
    planned, (other,), there = cells(seeds=(0, 1)), cells(seeds=(2,)), []
    place = tmp_path / (checkpoints or "")
    folder = place / "t_unfinished"

    def begin(checkpoint):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for name in (checkpoint.name, "checkpoint.begun", ".tmp of a killed process"):
            (checkpoint.parent / name).touch()

    def attempt(cell, checkpoint):
        there.append(checkpoint.exists())
        begin(checkpoint)
        row = dict.fromkeys(COLUMNS, "") | {"protocol": "last", "command": cell.command()}
        return cell, Outcome([row | {"image_auroc": 0.5, "aupro": "nan", "seconds": 1}])

    monkeypatch.setattr(benchmark, "attempt", attempt)
    for resume in (False, True):
        (tmp_path / "t.csv").unlink(missing_ok=True)
        for cell in (*planned, other):
            begin(benchmark._checkpoint(folder, cell))
        benchmark.sweep(planned, tmp_path / "t.csv", resume=resume, checkpoints=checkpoints and place)
        (left,) = folder.iterdir()
        assert left == benchmark._checkpoint(folder, other).parent and len(list(left.iterdir())) == 3
    assert there == [False, False, True, True]
    benchmark.sweep([other], tmp_path / "t.csv", resume=True, checkpoints=checkpoints and place)
    assert not folder.exists()


def test_a_failed_cell_keeps_its_checkpoint(tmp_path, monkeypatch):
    (cell,), folder = cells()[:1], tmp_path / "t_unfinished"

    def attempt(cell, checkpoint):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        return cell, Outcome([dict.fromkeys(COLUMNS, "") | {"error": "no space", "command": cell.command()}])

    monkeypatch.setattr(benchmark, "attempt", attempt)
    benchmark.sweep([cell], tmp_path / "t.csv")
    assert benchmark._checkpoint(folder, cell).exists()


def test_checkpoints_that_cannot_be_written_stop_the_sweep_before_it_begins(tmp_path, capsys):
    (tmp_path / "file").touch()
    command = ["--methods", "Mahalanobis", "--data", "powerline/vari_grip", "--profile", "quick"]
    command += ["--checkpoints", str(tmp_path / "file")]
    assert benchmark.cli([*command, "--out", str(tmp_path / "t.csv")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err and not (tmp_path / "t.csv").exists()
    with pytest.raises(SystemExit):
        benchmark.cli(command)
    assert "--checkpoints needs --out" in capsys.readouterr().err


def test_an_interrupted_cell_goes_on_though_another_was_run_meanwhile(tmp_path, monkeypatch):
    first, second = cells(("DifferNet",), seeds=(0, 1), options=SETTINGS["DifferNet"])
    real, looks = metrics.evaluate, []

    def evaluate(*arguments):
        looks.append(arguments)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(metrics, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        benchmark.sweep([first, second], tmp_path / "t.csv")
    benchmark.sweep([second], tmp_path / "t.csv", resume=True)
    before = len(looks)
    benchmark.sweep([first, second], tmp_path / "t.csv", resume=True)
    assert len(looks) - before == 2, "its first epoch, of three, was not trained again"
    assert {p.name for p in tmp_path.iterdir()} == {"t.csv", "t_scores.npz"}


def test_what_a_detector_warns_of_is_not_lost(monkeypatch):
    def warn(cell, checkpoint):
        warnings.warn("the embedding shrinks", CollapseWarning, stacklevel=1)
        return Outcome([{}])

    monkeypatch.setattr(attnad.cells, "run", warn)
    assert attempt(cells()[0])[1].warnings == ["the embedding shrinks"]


def test_best_is_the_best_look_at_the_test_set(monkeypatch):
    cell = cells(("DifferNet",), options=SETTINGS["DifferNet"])[0]
    figures = iter([0.6, 0.9, 0.7])  # three epochs
    monkeypatch.setattr(metrics, "evaluate", lambda *_: {"image_auroc": next(figures)})
    last, best = run(cell).rows
    assert (last["image_auroc"], best["image_auroc"]) == (0.7, 0.9)


def test_the_plan_is_told_in_words_and_nothing_runs(tmp_path, capsys):
    arguments = ["--methods", "Mahalanobis", "PatchCore", "--data", "elpv/*", "--seeds", "0", "1", "--plan"]
    assert benchmark.cli([*arguments, "--profile", "quick", "--out", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert "8 cells, 0 of them done" in said and "elpv/mono, elpv/poly" in said
    assert not list(tmp_path.iterdir())


def test_mistakes_on_the_command_line_are_told_in_one_line(capsys):
    assert benchmark.cli(["--methods", "PatchCor", "--profile", "quick"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert benchmark.cli(["--methods", "PatchCore", "--profile", "quick", "--set", "coreset"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


SWEEP = (
    "-m attnad benchmark --methods Mahalanobis DifferNet --attention none se --data powerline/vari_grip "
    "--seeds 0 1 --profile quick --set image_size=128 --train 8 --test 4 --resume --out"
)


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_rows_of_an_undisturbed_one(tmp_path):
    kills = int(os.environ.get("ATTNAD_KILLS", "2"))
    command = [sys.executable, *SWEEP.split()]
    begin = time.monotonic()
    subprocess.run([*command, str(tmp_path / "calm.csv")], check=True, capture_output=True)
    whole = time.monotonic() - begin
    rng, killed = random.Random(0), 0
    while killed < kills:
        (tmp_path / "killed.csv").unlink(missing_ok=True) if rng.random() < 0.3 else None
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed.csv")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.2, 1.0) * whole)
            (tmp_path / "killed.csv").unlink()  # it was faster than the knife: from the beginning
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    subprocess.run([*command, str(tmp_path / "killed.csv")], check=True, capture_output=True)
    assert rows(tmp_path / "killed.csv") == rows(tmp_path / "calm.csv")
    with np.load(tmp_path / "killed_scores.npz") as one, np.load(tmp_path / "calm_scores.npz") as other:
        assert one.files == other.files
        assert all(np.array_equal(one[name], other[name]) for name in one.files)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "calm.csv", "calm_scores.npz", "killed.csv", "killed_scores.npz"
    ]  # fmt: skip


@pytest.mark.slow
def test_several_cells_at_a_time_give_the_same_rows(tmp_path):
    planned = cells(("Mahalanobis",), attentions=("none", "se"), seeds=(0, 1))
    for jobs, name in ((1, "one.csv"), (2, "two.csv")):
        benchmark.sweep(planned, tmp_path / name, jobs=jobs)
    assert rows(tmp_path / "two.csv") == rows(tmp_path / "one.csv")


def test_a_cell_that_was_begun_comes_after_those_that_were_not(tmp_path, monkeypatch):
    planned, ran = cells(seeds=(0, 1)), []

    def killed(cell, checkpoint):
        raise KeyboardInterrupt

    def noted(cell, checkpoint):
        ran.append(cell.seed)
        return Outcome([dict.fromkeys(COLUMNS, "") | {"command": cell.command(), "seconds": 1}])

    monkeypatch.setattr(attnad.cells, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        benchmark.sweep(planned, tmp_path / "t.csv", resume=True)
    monkeypatch.setattr(attnad.cells, "run", noted)
    monkeypatch.setattr(benchmark, "said", lambda row: "")
    benchmark.sweep(planned, tmp_path / "t.csv", resume=True)
    assert ran == [1, 0] and not (tmp_path / "t_unfinished").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def attempt(cell, checkpoint):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(benchmark, "attempt", attempt)
    arguments = ["--methods", "Mahalanobis", "--seeds", "0", "1", "--jobs", "2", "--profile", "quick"]
    assert benchmark.cli([*arguments, "--out", str(tmp_path / "t.csv")]) == 2
    assert "fewer --jobs, with --resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_rows_though_a_worker_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    planned = cells(("Mahalanobis",), attentions=("none", "se"), seeds=range(3))
    benchmark.sweep(planned, tmp_path / "here.csv")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        victim, there = next(iter(cluster.workers.values())).pid, []

        def knife():
            while not (tmp_path / "there.csv").exists():  # the first cell is done: half-way
                time.sleep(0.05)
            os.kill(victim, signal.SIGKILL)
            there.extend(rows(tmp_path / "there.csv"))

        threading.Thread(target=knife, daemon=True).start()
        benchmark.sweep(planned, tmp_path / "there.csv", cluster=cluster.scheduler_address)
    assert rows(tmp_path / "there.csv") == rows(tmp_path / "here.csv")
    assert 0 < len(there) < len(rows(tmp_path / "here.csv")), "the worker was killed when all was done"


def test_cells_are_plain_text_on_their_way_to_another_machine():
    cell = cells(options={"normalize": "batchnorm"})[0]
    assert isinstance(cell, Cell)
    assert json.loads(cell.options) == {"image_size": 128, "normalize": "batchnorm"}
    assert shlex.split(cell.command())[-3:] == ["--set", "image_size=128", 'normalize="batchnorm"']
