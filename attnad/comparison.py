"""Is it better, or was it chance? A detector against its control, with all that was drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over categories, seeds and test pictures, with what chance could have made of it.

    Attributes:
        mean: over categories of the mean over seeds.
        low, high: interval of the hierarchical bootstrap; nan for a single number, which has none.
        p: two-sided, of a mean of zero: twice the share of bootstrap draws on the other side of it, at least
            2 / (draws + 1); or that of Student's t test of the categories' means (of one category: of its
            seeds), if it is larger. 1 for a single number.
        effect: the mean in units of the spread of single runs (category and seed); nan for one run.
        categories, seeds: how many there were; seeds of the category with the fewest.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    categories: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f}" + ("" if np.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]")


def difference(
    runs: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]],
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Compare two detectors that were run on the same categories with the same seeds.

    Three things could have come out otherwise: which categories, which seeds, which test pictures. Each
    bootstrap draw takes all three anew: categories with replacement; within each, seeds with replacement,
    and test pictures (normal and anomalous ones apart) that are the same for all its seeds and for both
    detectors. Seeds of one category share its pictures: they are not independent data, and are not
    counted as such. With a single category the interval says nothing about others, with a single seed
    nothing about other seeds.

    Few are a trap: n categories (or seeds) drawn anew spread only (n - 1) / n of their variance, and the
    quantiles of so few are those of Student's t, not of a normal distribution. So what redrawing categories
    and seeds adds to redrawing pictures is stretched by sqrt(n / (n - 1)) and by the ratio of the two
    quantiles. Without that, two categories that differ at random come out as p < 0.05 in every second case.
    That is right for the interval's ends and not far beyond them: three seeds are drawn as three times the
    same one in one of nine draws, and p would fall from 0.05 to its least value at once. So it is never below
    that of a t test, which a correction for many comparisons needs to be right far below 0.05.

    Args:
        runs: (category, seed) -> labels (N,), scores of the detector (N,), scores of the control (N,). Where
            scores are (K, N), those of K runs, the mean of their AUROCs is compared.
        draws: of the bootstrap.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: no runs, scores that are not finite or of another length than the labels, a test set of
            one class, or seeds of one category with different test pictures.
    """
    if not runs:
        raise ValueError("there are no runs to compare")
    tested: dict[str, np.ndarray] = {}
    apart: dict[str, list[np.ndarray]] = {}  # category -> for each seed (anomalous, normal), see `wins`
    for (category, each), (labels, scores, control) in sorted(runs.items()):
        labels, scores, control = (np.asarray(values) for values in (labels, scores, control))
        counts = len(labels), scores.shape[-1], control.shape[-1]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{category}, seed {each}: {counts[0]} labels, {counts[1]} and {counts[2]} scores"
            )
        if labels.all() or not labels.any():
            raise ValueError(f"{category}: AUROC needs normal and anomalous test pictures")
        if not (np.isfinite(scores).all() and np.isfinite(control).all()):
            raise ValueError(f"{category}, seed {each}: scores must be finite")
        if not np.array_equal(labels, tested.setdefault(category, labels)):
            raise ValueError(f"{category}, seed {each}: other test pictures than those of the other seeds")
        apart.setdefault(category, []).append(wins(labels, scores) - wins(labels, control))
    return _estimate(list(apart.values()), draws, level, seed, (-1.0, 1.0))


def _estimate(
    parts: Sequence[Sequence[np.ndarray]], draws: int, level: float, seed: int, within: tuple[float, float]
) -> Estimate:
    """Of numbers that belong to pairs of pictures: for each category, for each seed (anomalous, normal)."""
    singles = [[float(one.mean()) for one in seeds] for seeds in parts]
    mean = float(np.mean([np.mean(values) for values in singles]))
    fewest, runs = min(map(len, singles)), np.concatenate(singles)
    if len(runs) == parts[0][0].size == 1:
        return Estimate(mean, np.nan, np.nan, 1.0, np.nan, 1, 1)
    rng = np.random.default_rng(seed)
    drawn = redrawn([_redrawn_pictures(seeds, draws, rng) for seeds in parts], level, rng, within)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = max(
        2 * (beyond + 1) / (draws + 1),
        _t_test([np.mean(each) for each in singles] if len(singles) > 1 else runs),
    )
    spread = np.std(runs, ddof=1) if len(runs) > 1 else np.nan
    return Estimate(
        mean, float(low), float(high), float(min(1.0, p)),
        float(mean / spread) if spread > 0 else np.nan, len(parts), fewest,
    )  # fmt: skip


def _t_test(values: ArrayLike) -> float:
    """p of a mean of zero; 0 where there is no spread to judge it by: one value, or all the same."""
    return 0.0 if np.ptp(values) < 1e-12 else float(stats.ttest_1samp(values, 0).pvalue)


def paired(
    rows: pd.DataFrame, controls: pd.DataFrame, scores: Mapping[str, np.ndarray], key: str = "command"
) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Recorded runs and their controls, by category and seed, as `difference` wants them.

    Args:
        rows, controls: of `attnad.results.read`, one row for each data set, category and seed. Rows without
            a control are left out.
        scores: of `attnad.results.scores`.
        key: the column that names a run in `scores`.

    Raises:
        ValueError: two runs, or two controls, of one data set, category and seed.
    """
    place = ["dataset", "category", "seed"]
    for part in (rows, controls):
        if part.duplicated(place).any():
            raise ValueError(f"more than one run of {part[part.duplicated(place)][place].iloc[0].tolist()}")
    both = rows.merge(controls, on=place, suffixes=("", " of the control"))
    return {
        (f"{row['dataset']}/{row['category']}", int(row["seed"])): (
            *scores[row[key]], scores[row[f"{key} of the control"]][1],
        )
        for row in both.to_dict("records")
    }  # fmt: skip


def verdict(estimate: Estimate, p: float | None = None) -> str:
    """What can be said of a claim that something is better, in words.

    Args:
        estimate: of the difference between what is claimed to be better and its control.
        p: corrected for the number of comparisons (`holm`); None takes the difference's own.
    """
    if (estimate.p if p is None else p) >= 0.05:
        return "cannot be told from this"
    return "holds here" if estimate.mean > 0 else "does not hold here: it is worse"


def wins(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(anomalous, normal): 1 where the anomalous picture has the higher score, 1/2 for a tie; mean: AUROC.

    Scores (K, N) are those of K runs, and their mean is returned.
    """
    runs = np.atleast_2d(scores)
    won = [np.sign(each[labels == 1][:, None] - each[labels == 0][None]) for each in runs]
    return (np.mean(won, axis=0) + 1) / 2


def redrawn(
    each: Sequence[np.ndarray],
    level: float,
    rng: np.random.Generator,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray:
    """(draws,) means over redrawn categories and seeds; see `difference` for the stretching.

    Args:
        each: for each category, (draws, seeds) means over redrawn pictures, the same for all its seeds.
        level: of the interval that is wanted.
        within: what such a mean can be at all, (0, 1) for shares: stretching would leave that.
    """
    draws = len(each[0])

    def shares(count: int) -> np.ndarray:
        return rng.multinomial(count, np.full(count, 1 / count), size=draws) / count

    by_pictures = np.mean([values.mean(axis=1) for values in each], axis=0)
    by_seeds = np.stack([(shares(values.shape[1]) * values).sum(axis=1) for values in each], axis=1)
    by_all = (shares(len(each)) * by_seeds).sum(axis=1)
    n = len(each) if len(each) > 1 else each[0].shape[1]
    if n == 1:
        return by_pictures
    upper = (1 + level) / 2
    stretch = stats.t(n - 1).ppf(upper) / stats.norm.ppf(upper) * np.sqrt(n / (n - 1))
    return np.clip(by_pictures + stretch * (by_all - by_pictures), *within)


def _redrawn_pictures(seeds: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, seeds) means of one category over redrawn pictures.

    Args:
        seeds: for each seed, values of (anomalous, normal) pictures.
    """
    anomalous, normal = seeds[0].shape
    of_anomalous = rng.multinomial(anomalous, np.full(anomalous, 1 / anomalous), size=draws) / anomalous
    of_normal = rng.multinomial(normal, np.full(normal, 1 / normal), size=draws) / normal
    return np.stack([((of_anomalous @ one) * of_normal).sum(axis=1) for one in seeds], axis=1)


def mean_interval(
    values: Mapping[tuple[str, int], np.ndarray],
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Mean of numbers that belong to single pictures, or to whole runs, estimated as in `difference`.

    To compare two detectors, hand in the differences. Where a run has only one number, no pictures are
    redrawn: the interval then says nothing about others.

    Args:
        values: (category, seed) -> (N,), one number for each picture, the same pictures for all seeds of a
            category; or (1,), the run's number.
        draws, level, seed: as for `difference`.
        within: what such a mean can be at all, (0, 1) for shares.

    Raises:
        ValueError: no values, some that are not finite, or seeds of one category with different numbers of
            pictures.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for (category, each), numbers in sorted(values.items()):
        column = np.asarray(numbers, dtype=float).reshape(-1, 1)
        if len(column) == 0 or len(column) != len(parts.get(category, [column])[0]):
            raise ValueError(f"{category}, seed {each}: {len(column)} pictures, but each seed needs the same")
        if not np.isfinite(column).all():
            raise ValueError(f"{category}, seed {each}: a number is missing; leave out what was not run")
        parts.setdefault(category, []).append(column)
    if not parts:
        raise ValueError("there are no values to average")
    return _estimate(list(parts.values()), draws, level, seed, within)


def auroc_interval(
    labels: np.ndarray, scores: np.ndarray, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """What one detector's AUROC could have been with other test pictures: bootstrap interval (low, high).

    Where it is 1, so are both ends: no draw can tell what pictures outside the test set would do.

    Raises:
        ValueError: all labels are equal.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.all() or not labels.any():
        raise ValueError("AUROC needs normal and anomalous test pictures")
    drawn = _redrawn_pictures([wins(labels, scores)], draws, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p: ArrayLike) -> np.ndarray:
    """p values corrected for their number (Holm, 1979): a false alarm among all stays as rare as in one."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def detectable(spread: float, seeds: int, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that so many seeds would tell from zero, with the chance `power`.

    By a paired t test, and by the usual approximation: with two seeds the chance is 0.73 instead of 0.8,
    from five on it is right.

    Args:
        spread: standard deviation of the difference between two runs of the same seed.
        seeds: runs of each detector, at least two.
    """
    if seeds < 2:
        return float("inf")
    t = stats.t(seeds - 1)
    return float((t.ppf((1 + level) / 2) + t.ppf(power)) * spread / np.sqrt(seeds))
