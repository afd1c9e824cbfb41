"""The recorded runs of the benchmark that can be compared with one another, under names for people."""

from __future__ import annotations

import pandas as pd

from attnad import results
from attnad.sizes import PICTURES

DATA = {
    "elpv/mono": "mono cells",
    "elpv/poly": "poly cells",
    "magnetic_tile/magnetic_tile": "tiles",
    "powerline/glass_insulator:clutter=0,scale=1.6": "glass insulator",
    "powerline/lightning_rod_suspension:clutter=0,scale=1.6": "rod suspension",
    "powerline/vari_grip:clutter=0,scale=1.6": "vari-grip",
    "powerline/polymer_insulator_upper_shackle:clutter=0,scale=1.6": "polymer insulator",
    "powerline/yoke_suspension:clutter=0,scale=1.6": "yoke suspension",
    "wafer/chip": "wafer chips",
    "wafer/street": "wafer streets",
}
METHODS = {
    "CFlow": "CFLOW-AD", "CSFlow": "CS-Flow", "RDPP": "RD++", "EdgeMagnitude": "edges",
    "CentrePrior": "centre",
}  # fmt: skip
BLIND = ("edges", "centre")  # the methods that look at one picture only and have learned nothing


def runs(everywhere: bool = True, options: str = "{}", protocol: str = "last") -> pd.DataFrame:
    """Runs of ``data/results/benchmark.csv`` in the sizes of a laptop.

    Args:
        everywhere: only those without attention, or with a gate at each place that the method has.
        options: further arguments of the method that the runs were given, as JSON; none by default.
        protocol: ``"last"`` for the detector after its last epoch; ``"best"`` for the best of its looks at
            the test set (ten to fifteen, or every epoch if there are fewer than twenty), which nobody can
            have who has no labelled defects: say so wherever it is shown.

    Returns:
        a row for each run. ``method`` is the paper's name for it, ``data`` that of the data set and category
        (`DATA`; others are left out); ``gates`` and ``attention_points`` are texts.

    Raises:
        ValueError: two rows of one run.
    """
    found = results.read("benchmark")
    found = found.assign(
        data=(found.dataset + "/" + found.category).map(DATA),
        method=found.method.replace(METHODS),
        gates=found.gates.fillna(""),
        attention_points=found.attention_points.fillna(""),
    )
    most_train, most_test = PICTURES["quick"]
    found = found[
        found.error.isna() & found.data.notna() & (found.protocol == protocol)
        & (found.options == options) & (found.profile == "quick") & (found.train <= most_train)
        & (found[["test_normal", "test_anomalous"]].max(axis=1) <= most_test)
    ]  # fmt: skip
    places = found.attention_points.map(lambda points: len(points.split("+")) if points else 0)
    if everywhere:
        most = places.groupby(found.method).transform("max")
        found = found[(found.attention == "none") | (places == most)]
    twice = found.duplicated(["method", "attention", "attention_points", "data", "seed"])
    if twice.any():
        raise ValueError(f"recorded twice: {found[twice].iloc[0].command}")
    return found.reset_index(drop=True)


def distillations() -> pd.DataFrame:
    """Runs of DifferNet on AlexNets that were distilled alike, with other seeds, and on the one that ships.

    Returns:
        a row for each run, with ``distillation`` (0 is the one that ships), ``data`` as in `runs`, for ELPV
        with modules apart also ``"mono cells, modules apart, 1"`` to 3, and ``run``, its name among the
        `attnad.results.scores` of ``"benchmark"`` (0) or ``"distillations"``. All have the same pictures and
        seeds of the flow.
    """
    anew = results.read("distillations")
    same = ["dataset", "category", "seed", "attention", "attention_points", "train", "test_normal"]
    ships = results.read("benchmark").query(
        "method == 'DifferNet' and protocol == 'last' and options == '{}'"
    )
    ships = ships[ships.error.isna()].merge(anew[same].drop_duplicates(), on=same)
    found = pd.concat([
        ships.assign(distillation=0, run=ships.command), anew.assign(run=anew.key),
    ])  # fmt: skip
    folds = {
        f"elpv/{kind}:fold={fold}": f"{kind} cells, modules apart, {fold + 1}"
        for kind in ("mono", "poly") for fold in range(3)
    }  # fmt: skip
    return found.assign(data=(found.dataset + "/" + found.category).map(DATA | folds))


def change(rows: pd.DataFrame, controls: pd.DataFrame, figure: str) -> pd.Series:
    """How much a figure of `runs` differs from that of other runs, their controls.

    Returns:
        a number for each (method, data, seed); those without a control or without the figure are left out.
    """
    twin = ["method", "data", "seed"]
    return (rows.set_index(twin)[figure] - controls.set_index(twin)[figure]).dropna()


def caption(found: pd.DataFrame) -> str:
    """What has to stand under a table of some `runs`, in Markdown."""
    seeds = (
        found[~found.method.isin(BLIND)]
        .groupby(["data", "method", "attention", "attention_points"])
        .seed.nunique()
    )
    number = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    days = sorted({date[:10] for date in found.date})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    sides, devices = (", ".join(map(str, sorted(set(found[name])))) for name in ("image_size", "device"))
    chosen = "Sizes were chosen on mono cells and generated pictures"
    if "SimpleNet" in set(found.method):
        chosen += ", SimpleNet's after tiles and poly cells had been seen with others"
    return (
        f"*{len(found)} recorded runs, {number} seed{'s' if number != '1' else ''} each, at most "
        f"{found.train.max()} pictures to learn from, {sides} px, profile `quick`; {devices}, {when}. "
        f"{chosen}. The column `command` of `data/results/benchmark.csv` repeats each run.*"
    )
