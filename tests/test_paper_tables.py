"""The papers' tables: transcribed as printed, averages recomputed, sentences checked against the cells.

A test whose name begins with ``test_wrong`` documents an error *in a paper*: the number or sentence printed
differs from what the paper's own cells give.
"""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from attnad import results

RESULTS = [
    "insplad_fault_auroc",
    "mvtec_ad_auroc",
    "wafer_auroc",
    "insplad_seg_image_auroc",
    "insplad_seg_aupro",
]
IMAGE_LEVEL = RESULTS[:3]

# (table, method, attention): printed average, average of the cells
WRONG_AVERAGES = {
    ("insplad_fault_auroc", "FastFlow", "se"): (73.21, 70.34),
    ("mvtec_ad_auroc", "FastFlow", "none"): (97.03, 97.21),
    ("mvtec_ad_auroc", "FastFlow", "se"): (95.51, 95.43),
    ("mvtec_ad_auroc", "FastFlow", "cbam"): (97.10, 97.12),
    ("wafer_auroc", "DifferNet", "se"): (90.18, 90.20),
    ("insplad_seg_aupro", "SimpleNet", "none"): (60.13, 60.15),
}


def cells(name):
    """One row per category, one column per (method, attention)."""
    table = results.paper_table(name)
    table = table[~table.is_average]
    return table.pivot(index="category", columns=["method", "attention"], values=table.columns[-1])


def printed(name):
    table = results.paper_table(name)
    table = table[table.is_average]
    return table.set_index(["method", "attention"])[table.columns[-1]]


def gains(method, attention, tables):
    """Attention minus none for every category of these tables."""
    parts = {name: cells(name)[method] for name in tables}
    return pd.concat({name: part[attention] - part["none"] for name, part in parts.items()}).round(2)


def losers(method, attention, tables):
    difference = gains(method, attention, tables)
    return {category for _, category in difference[difference < 0].index}


# --- transcription ---------------------------------------------------------------------------------------

SHAPES = {
    "insplad_fault_auroc": (5, 12),
    "mvtec_ad_auroc": (15, 12),
    "wafer_auroc": (2, 7),
    "insplad_seg_image_auroc": (3, 6),
    "insplad_seg_aupro": (3, 6),
}


@pytest.mark.parametrize("name", RESULTS)
def test_tables_are_complete(name):
    table = results.paper_table(name)
    assert not table.isna().any().any()
    assert cells(name).shape == SHAPES[name] and not cells(name).isna().any().any()
    assert len(printed(name)) == SHAPES[name][1]
    assert table.iloc[:, -1].between(40, 100).all()


def test_nine_tables_of_two_papers():
    others = {"insplad_fault_counts", "insplad_seg_counts", "insplad_seg_cost", "ablation_attention_blocks"}
    assert set(results.paper_tables()) == {*RESULTS, *others}
    readme = (results.DATA / "paper" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.csv`" in readme for name in results.paper_tables())


def test_counts_add_up_to_the_totals_in_the_text():
    counts = results.paper_table("insplad_fault_counts")
    assert counts.images.sum() == 11662
    assert counts[counts.kind != "flawless"].images.sum() == 402
    assert results.paper_table("insplad_seg_counts").images.sum() == 3039


def test_ablation_ends_are_those_of_table_2():
    ablation = results.paper_table("ablation_attention_blocks").set_index(["ab1", "ab2", "ab3"]).auroc
    glass = cells("insplad_fault_auroc").loc["Glass Insulator", "DifferNet"]
    assert len(ablation) == 8
    assert ablation[False, False, False] == glass["none"]
    assert ablation[True, True, True] == glass["se"]


# --- averages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_averages_are_those_of_the_cells(name):
    difference = (printed(name) - cells(name).mean()).abs()
    wrong = {(name, *column) for column in difference[difference > 0.0051].index}  # half a printed digit
    assert wrong == {key for key in WRONG_AVERAGES if key[0] == name}


@pytest.mark.parametrize("key", WRONG_AVERAGES, ids=" ".join)
def test_wrong_average(key):
    name, *column = key
    as_printed, from_cells = WRONG_AVERAGES[key]
    assert printed(name)[tuple(column)] == as_printed
    assert cells(name)[tuple(column)].mean() == pytest.approx(from_cells, abs=0.0051)


def test_wrong_average_of_fastflow_with_se_is_one_of_its_cells():
    assert cells("insplad_fault_auroc").loc["Glass Insulator", ("FastFlow", "se")] == 73.21


def test_wrong_order_of_the_fastflows_on_mvtec():
    """As printed CBAM is best; from the cells the plain one is."""
    assert printed("mvtec_ad_auroc")["FastFlow"].idxmax() == "cbam"
    assert cells("mvtec_ad_auroc")["FastFlow"].mean().idxmax() == "none"


# --- sentences of the image-level paper ------------------------------------------------------------------


def test_wrong_spread_of_the_average_improvement():
    """ "1.77 +- 0.25 percentage points": the mean holds, the spread is 0.23 or 0.29."""
    printed_gains = [
        printed(name)["DifferNet", "se"] - printed(name)["DifferNet", "none"] for name in IMAGE_LEVEL
    ]
    assert np.mean(printed_gains) == pytest.approx(1.77, abs=0.005)
    assert np.std(printed_gains) == pytest.approx(0.23, abs=0.006)
    assert np.std(printed_gains, ddof=1) == pytest.approx(0.29, abs=0.005)


def test_wrong_superior_on_all_objects():
    """AttentDifferNet is "superior to the standard DifferNet on all objects from three data sets"."""
    assert losers("DifferNet", "se", IMAGE_LEVEL) == {"Screw", "Chip"}
    assert losers("DifferNet", "cbam", IMAGE_LEVEL) == {
        "Glass Insulator",
        "Polymer Insulator Upper Shackle",
        "Vari-grip",
        "Street",
    }
    assert len(gains("DifferNet", "se", IMAGE_LEVEL)) == 22


def test_wrong_cbam_at_least_matches_differnet_on_insplad():
    average = cells("insplad_fault_auroc")["DifferNet"].mean()
    assert average["cbam"] < average["none"] < average["se"]


def test_wrong_highest_in_every_category():
    best = cells("insplad_fault_auroc").idxmax(axis=1)
    assert {c: m for c, m in best.items() if m != ("DifferNet", "se")} == {"Vari-grip": ("RD++", "none")}


def test_wrong_both_attentdiffernets_beat_all_other_methods_on_insplad():
    table = cells("insplad_fault_auroc")
    others = table.drop(columns="DifferNet", level=0).max(axis=1)
    assert set(table.index[table["DifferNet", "cbam"] < others]) == {"Glass Insulator", "Vari-grip"}


def test_wrong_rd_with_se_is_top_3_on_mvtec():
    """ "Only behind CFLOW-AD and PatchCore": CS-Flow is above it too."""
    average = cells("mvtec_ad_auroc").mean().sort_values(ascending=False)
    above = list(average[average > average["RD++", "se"]].index.get_level_values(0))
    assert above == ["PatchCore", "CS-Flow", "CFLOW-AD"]


def test_wrong_fastflow_gains_from_attention_in_general():
    """ "Generally": from the cells one average of four rises."""
    rises = {
        (name, a): cells(name)["FastFlow"].mean()[a] > cells(name)["FastFlow"].mean()["none"]
        for name in IMAGE_LEVEL[:2]
        for a in ("se", "cbam")
    }
    assert [key for key, value in rises.items() if value] == [("insplad_fault_auroc", "cbam")]


def test_wrong_consistent_improvement_on_the_wafers():
    assert losers("DifferNet", "se", ["wafer_auroc"]) == {"Chip"}
    assert losers("DifferNet", "cbam", ["wafer_auroc"]) == {"Street"}


def test_wrong_one_block_does_not_help():
    """AB3 alone is above none, if by 0.04; and three of the four subsets with AB3 are."""
    ablation = results.paper_table("ablation_attention_blocks").set_index(["ab1", "ab2", "ab3"]).auroc
    assert round(ablation[False, False, True] - ablation[False, False, False], 2) == 0.04
    assert ablation[True, False, True] < ablation[False, False, False]


def test_right_two_blocks_help_on_average():
    ablation = results.paper_table("ablation_attention_blocks")
    mean = ablation.groupby(ablation[["ab1", "ab2", "ab3"]].sum(axis=1)).auroc.mean()
    assert mean[2] > mean[1] and mean[2] > mean[0]


def test_right_gains_of_rd_on_average():
    for name in IMAGE_LEVEL[:2]:
        average = cells(name)["RD++"].mean()
        assert average["se"] > average["none"] and average["cbam"] > average["none"]


def test_right_cbam_is_above_differnet_on_all_of_mvtec_and_se_on_14_of_15():
    assert (gains("DifferNet", "cbam", ["mvtec_ad_auroc"]) > 0).all()
    assert (gains("DifferNet", "se", ["mvtec_ad_auroc"]) > 0).sum() == 14


def test_right_differnets_lead_insplad():
    average = cells("insplad_fault_auroc").mean().sort_values(ascending=False)
    assert list(average.index[:2]) == [("DifferNet", "se"), ("DifferNet", "none")]


# --- sentences of the localization paper -----------------------------------------------------------------


def test_wrong_attention_always_outperforms_at_image_level():
    table = ["insplad_seg_image_auroc"]
    assert losers("SimpleNet", "cbam", table) == {"Glass Insulator", "Vari-grip"}
    assert losers("EfficientAD", "se", table) == {"Lightning Rod Suspension"}
    assert losers("EfficientAD", "cbam", table) == {"Vari-grip"}
    assert losers("SimpleNet", "se", table) == set()


def test_wrong_attention_outperforms_at_pixel_level():
    """Text: one exception. Cells: 7 of 12 comparisons are losses, and SimpleNet with SE loses on average."""
    lost = [
        gains(m, a, ["insplad_seg_aupro"]) < 0 for m in ("SimpleNet", "EfficientAD") for a in ("se", "cbam")
    ]
    assert [int(part.sum()) for part in lost] == [2, 2, 2, 1]
    average = cells("insplad_seg_aupro").mean()
    assert average["SimpleNet", "se"] < average["SimpleNet", "none"]


def test_wrong_baseline_in_the_text():
    """The text raises AUPRO "from 59.40" to 70.10. The table's baseline is 59.46; 59.40 is another cell."""
    table = cells("insplad_seg_aupro")
    assert table.loc["Lightning Rod Suspension", ("SimpleNet", "none")] == 59.46
    assert table.loc["Lightning Rod Suspension", ("SimpleNet", "cbam")] == 70.10
    assert table.loc["Glass Insulator", ("SimpleNet", "se")] == 59.40


def test_wrong_percent_for_percentage_points():
    """A "4.9% increase": 4.9 points, which are 6.1 %."""
    row = cells("insplad_seg_image_auroc").loc["Lightning Rod Suspension", "SimpleNet"]
    assert row["se"] - row["none"] == pytest.approx(4.9)
    assert row["se"] / row["none"] - 1 == pytest.approx(0.061, abs=0.001)


def test_wrong_negligible_latency():
    ms = (
        results.paper_table("insplad_seg_cost").set_index(["method", "attention"]).inference_ms["EfficientAD"]
    )
    assert ms["se"] / ms["none"] - 1 == pytest.approx(0.18, abs=0.005)
    assert ms["cbam"] / ms["none"] - 1 == pytest.approx(0.47, abs=0.005)


def test_the_two_papers_count_different_images():
    """InsPLAD-seg is "an adaptation" of InsPLAD-fault: these are the counts that differ."""

    def totals(name):
        table = results.paper_table(name)
        table = table.assign(kind=np.where(table.kind == "flawless", "flawless", "anomalous"))
        return table.groupby(["category", "split", "kind"]).images.sum()

    fault, seg = totals("insplad_fault_counts").align(totals("insplad_seg_counts"), join="right")
    changed = {key: (int(fault[key]), int(seg[key])) for key in seg.index if fault[key] != seg[key]}
    assert changed == {
        ("Glass Insulator", "train", "flawless"): (2298, 1104),
        ("Glass Insulator", "test", "flawless"): (581, 591),
        ("Glass Insulator", "test", "anomalous"): (90, 88),
        ("Lightning Rod Suspension", "test", "anomalous"): (50, 46),
        ("Vari-grip", "test", "anomalous"): (111, 40),
    }


# --- results.py ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [results.paper_table, results.read])
def test_an_unknown_table_is_named_with_those_there_are(function):
    with pytest.raises(FileNotFoundError, match=r"no 'nonsense' in .*; there are: "):
        function("nonsense")


def test_provenance_is_complete():
    row = results.provenance()
    assert list(row) == ["device", "python", "versions", "commit", "date"]
    assert "torch" in row["versions"] and "numpy" in row["versions"]
    assert row["device"].startswith("cpu: ") and row["date"].endswith("+00:00")
    assert not any("," in value for value in row.values())


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_commit_is_marked_when_sources_have_changed_and_not_when_results_have(tmp_path, monkeypatch):
    files = [
        tmp_path / f for f in ("attnad/results.py", "benchmarks/a.py", "book/01_a.md", "data/results/a.csv")
    ]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1\n")

    def git(*arguments):
        names = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(results, "_HERE", tmp_path / "attnad")
    results._commit.cache_clear()
    clean = results.provenance()["commit"]
    assert len(clean) == 40
    marked = {}
    for file in files:
        file.write_text("2\n")
        results._commit.cache_clear()
        marked[file.name] = results.provenance()["commit"]
        file.write_text("1\n")
        assert results.provenance()["commit"] == marked[file.name], "as it was when the process first asked"
    results._commit.cache_clear()
    changed = f"{clean}+"
    assert marked == {"results.py": changed, "a.py": changed, "01_a.md": changed, "a.csv": clean}
