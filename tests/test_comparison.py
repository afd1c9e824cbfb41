"""Estimates between detectors: coverage of the interval, what correlated seeds cannot do."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from attnad import comparison
from attnad.comparison import Estimate, paired, verdict

LABELS = np.r_[np.zeros(60, int), np.ones(60, int)]


def scored(rng, shift):
    return rng.normal(size=120) + shift * LABELS


def test_mean_is_the_mean_of_categories_not_of_runs():
    rng = np.random.default_rng(0)
    runs = {("a", s): (LABELS, scored(rng, 2), scored(rng, 1)) for s in range(3)}
    runs["b", 0] = (LABELS, scored(rng, 1), scored(rng, 1))
    apart = {key: roc_auc_score(y, one) - roc_auc_score(y, other) for key, (y, one, other) in runs.items()}
    got = comparison.difference(runs, draws=200)
    wanted = (np.mean([apart["a", s] for s in range(3)]) + apart["b", 0]) / 2
    assert got.mean == pytest.approx(wanted)
    assert got.low <= got.mean <= got.high and (got.categories, got.seeds) == (2, 1)
    assert got.effect == pytest.approx(wanted / np.std(list(apart.values()), ddof=1))


def test_several_runs_count_as_the_mean_of_their_aurocs():
    rng = np.random.default_rng(0)
    good, worse, control = (scored(rng, shift) for shift in (2, 1, 1))
    auroc = [roc_auc_score(LABELS, s) for s in (good, worse, control)]
    got = comparison.difference({("a", 0): (LABELS, np.stack([good, worse]), control)}, draws=200)
    assert got.mean == pytest.approx((auroc[0] + auroc[1]) / 2 - auroc[2])
    assert got.mean == pytest.approx(
        -comparison.difference({("a", 0): (LABELS, control, np.stack([good, worse]))}, draws=200).mean
    )


def test_ties_count_half():
    labels, tied, perfect = np.array([0, 0, 1, 1]), np.zeros(4), np.array([0, 1, 2, 3])
    assert comparison.difference({("a", 0): (labels, perfect, tied)}, draws=10).mean == 0.5


def test_a_detector_does_not_differ_from_itself():
    scores = scored(np.random.default_rng(0), 1)
    got = comparison.difference({("a", s): (LABELS, scores, scores) for s in range(3)}, draws=100)
    assert (got.mean, got.low, got.high, got.p) == (0, 0, 0, 1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered, trials = np.random.default_rng(1), 0, 120
    for trial in range(trials):  # one category: truth is the same for both detectors, so the difference is 0
        runs = {("a", 0): (LABELS, scored(rng, 1), scored(rng, 1))}
        got = comparison.difference(runs, draws=300, seed=trial)
        covered += got.low <= 0 <= got.high
    assert 0.88 <= covered / trials <= 0.99


def test_many_seeds_on_the_same_pictures_do_not_make_an_interval_narrow():
    """A difference that lies in the test pictures remains uncertain, however often training is repeated."""
    rng = np.random.default_rng(2)
    one, other = scored(rng, 1), scored(rng, 1)
    widths = []
    for seeds in (1, 50):
        got = comparison.difference({("a", s): (LABELS, one, other) for s in range(seeds)}, draws=1000)
        widths.append(got.high - got.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_categories_that_disagree_make_it_wide():
    rng = np.random.default_rng(3)
    same = {(c, 0): (LABELS, scored(rng, 1.5), scored(rng, 1)) for c in "abcd"}
    mixed = {(c, 0): (LABELS, scored(rng, 1 + s), scored(rng, 1)) for c, s in zip("abcd", (2, -1, 2, -1))}
    width = [got.high - got.low for got in map(comparison.difference, (same, mixed))]
    assert width[1] > 1.5 * width[0]


def test_seeds_that_disagree_make_it_wide():
    rng = np.random.default_rng(6)
    control = scored(rng, 1)
    runs = [
        {("a", s): (LABELS, control + shift * LABELS, control) for s, shift in enumerate(shifts)}
        for shifts in ([0, 0, 0, 0], [1, -1, 1, -1])
    ]
    width = [got.high - got.low for got in map(comparison.difference, runs)]
    assert width[0] == 0 and width[1] > 0.2


@pytest.mark.parametrize(("categories", "seeds"), [(2, 1), (5, 1), (5, 2), (1, 2), (1, 5)])
def test_few_categories_or_seeds_do_not_raise_false_alarms(categories, seeds):
    """Categories, or the seeds of one, differ much more than pictures do; the detectors do not."""
    rng, said, trials = np.random.default_rng(7), 0, 50
    for trial in range(trials):
        runs = {}
        for c in range(categories):
            control, shift = scored(rng, 1), rng.normal(0, 0.5)
            for s in range(seeds):
                each = shift if categories > 1 else rng.normal(0, 0.5)
                runs[str(c), s] = LABELS, control + each * LABELS, control
        said += comparison.difference(runs, draws=100, seed=trial).p < 0.05
    assert said / trials <= 0.12  # without stretching: about 0.5, 0.15, 0.15, 0.4, 0.15


def test_interval_of_one_auroc():
    rng = np.random.default_rng(4)
    scores = scored(rng, 1.5)
    low, high = comparison.auroc_interval(LABELS, scores)
    auroc = roc_auc_score(LABELS, scores)
    # Hanley and McNeil (1982), by hand
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    error = np.sqrt((auroc * (1 - auroc) + 59 * (q1 - auroc**2) + 59 * (q2 - auroc**2)) / 3600)
    assert low < auroc < high and (high - low) == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_holm_by_hand():
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.6, 0.9]) == pytest.approx([1, 1])


def test_two_seeds_tell_little():
    assert comparison.detectable(0.01, 2) > 5 * comparison.detectable(0.01, 10)
    assert comparison.detectable(0.01, 1) == np.inf
    # simulated: with that difference, a paired t test says yes in about 80 of 100 cases
    from scipy import stats

    rng, true = np.random.default_rng(5), comparison.detectable(1.0, 5)
    said = stats.ttest_1samp(rng.normal(true, 1, (2000, 5)), 0, axis=1).pvalue < 0.05
    assert said.mean() == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ({}, "no runs"),
        ({("a", 0): (LABELS, np.zeros(120), np.zeros(119))}, "119"),
        ({("a", 0): (LABELS, np.zeros((120, 2)), np.zeros(120))}, "120 labels, 2 and 120 scores"),
        ({("a", 0): (np.zeros(4, int), np.zeros(4), np.zeros(4))}, "normal and anomalous"),
        ({("a", 3): (LABELS, np.zeros(120), np.full(120, np.nan))}, "a, seed 3: scores must be finite"),
        ({("a", s): (np.roll(LABELS, s), np.zeros(120), np.zeros(120)) for s in (0, 1)}, "a, seed 1: other"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, says):
    with pytest.raises(ValueError, match=says):
        comparison.difference(runs)


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    rng, covered, trials = np.random.default_rng(4), 0, 150
    for trial in range(trials):
        got = comparison.mean_interval({("a", 0): rng.exponential(size=60)}, draws=300, seed=trial)
        covered += got.low <= 1 <= got.high
    assert 0.88 <= covered / trials <= 0.99


def test_mean_of_pictures_is_that_of_categories_and_repeated_seeds_are_not_new_pictures():
    rng = np.random.default_rng(5)
    values = rng.normal(size=40)
    few = {("a", 0): values, ("b", 0): np.zeros(10)}
    assert comparison.mean_interval(few, draws=50).mean == pytest.approx(values.mean() / 2)
    once, often = (comparison.mean_interval({("a", s): values for s in range(n)}) for n in (1, 30))
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.15)
    with pytest.raises(ValueError, match="a, seed 1: 3 pictures"):
        comparison.mean_interval({("a", 0): values, ("a", 1): values[:3]})
    with pytest.raises(ValueError, match="no values"):
        comparison.mean_interval({})


def test_an_interval_over_few_seeds_is_not_cut_at_what_was_seen():
    few = {("a", seed): np.array([value]) for seed, value in enumerate((0.1, 0.2, 0.3))}
    got = comparison.mean_interval(few)
    assert got.low < 0.1 and got.high > 0.3  # Student's t for three: 0.2 +- 0.25
    assert (got.p < 0.05) == (got.low > 0) and got.effect == pytest.approx(2) and got.seeds == 3
    cut = comparison.mean_interval(few, within=(0, 1))
    assert cut.low == 0 and cut.mean == got.mean and cut.p == got.p


@pytest.mark.parametrize(("categories", "seeds"), [(1, 3), (1, 5), (2, 1), (3, 3)])
def test_a_small_p_is_as_rare_as_it_says(categories, seeds):
    """A correction for twenty comparisons looks at p < 0.0025, far beyond the ends of an interval."""
    rng, small = np.random.default_rng(0), 0
    for _ in range(400):
        runs = {(str(c), s): [rng.normal()] for c in range(categories) for s in range(seeds)}
        small += comparison.mean_interval(runs, draws=1000).p < 0.0025
    assert small <= 5  # one is to be expected


def test_a_difference_stays_within_what_it_can_be():
    labels, good, bad = np.array([0, 1]), np.array([0.0, 1.0]), np.array([1.0, 0.0])
    got = comparison.difference({("a", 0): (labels, good, bad), ("b", 0): (labels, bad, good)})
    assert (got.low, got.high) == (-1, 1)


def test_a_missing_number_is_refused():
    with pytest.raises(ValueError, match="seed 1: a number is missing"):
        comparison.mean_interval({("a", 0): [0.3], ("a", 1): [np.nan]})


def test_a_single_number_has_no_interval():
    one = comparison.mean_interval({("a", 0): [0.3]})
    assert np.isnan(one.low) and np.isnan(one.high) and one.p == 1 and str(one) == "+0.300"
    assert "cannot be told" in verdict(one)


def test_recorded_runs_are_paired_with_their_controls():
    def table(name, seeds):
        return pd.DataFrame(
            {"dataset": "elpv", "category": "mono", "seed": seeds, "command": [f"{name}{s}" for s in seeds]}
        )

    kept = {
        f"{name}{seed}": np.array([[0, 1, 1], [seed, add, 9.0]])
        for name, add in (("a", 1), ("b", 2))
        for seed in range(3)
    }
    runs = paired(table("a", [0, 1, 2]), table("b", [0, 1]), kept)
    assert list(runs) == [("elpv/mono", 0), ("elpv/mono", 1)]  # seed 2 has no control
    labels, own, control = runs["elpv/mono", 1]
    assert labels.tolist() == [0, 1, 1] and own.tolist() == [1, 1, 9] and control.tolist() == [1, 2, 9]
    with pytest.raises(ValueError, match="more than one"):
        paired(table("a", [0, 0]), table("b", [0]), kept)


@pytest.mark.parametrize(
    ("mean", "p", "said"), [(0.1, 0.01, "holds here"), (-0.1, 0.01, "worse"), (0.1, 0.2, "cannot be told")]
)
def test_a_verdict_needs_more_than_a_sign(mean, p, said):
    one = Estimate(mean, mean - 0.1, mean + 0.1, p, 1.0, 2, 3)
    assert said in verdict(one)
    assert "cannot be told" in verdict(one, p=0.3)
