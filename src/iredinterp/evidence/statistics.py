"""Intervals, tests and effect sizes over training seeds, and what is computed per seed and problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

LARGEST_EXACT = 20
ROUNDING = 1e-12


@dataclass(frozen=True)
class Bootstrap:
    """A mean over seeds and how far from the truth it may lie.

    Attributes:
        mean: θ̂, the mean of the seed means.
        deviations: (draws,), |θ* − θ̂|·s/s*, ascending, with s and s* the standard errors over seeds; infinite
            where the seeds do not tell their spread, which is so of a single one.
        seed_means: (n,), means over the problems of each seed.
    """

    mean: float
    deviations: np.ndarray
    seed_means: np.ndarray

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided interval of the mean, symmetric about it.

        Source:
            The symmetric bootstrap-t of Hall 1988, Annals of Statistics 16(3):927.
        """
        # "higher" takes a draw as it is: interpolating towards an infinite one gives NaN.
        width = float(np.quantile(self.deviations, confidence, method="higher"))
        return self.mean - width, self.mean + width


@dataclass(frozen=True)
class Resamples:
    """Draws of seeds and problems, which any matrix of their shape can be bootstrapped with.

    Attributes:
        problems: (draws, problems), how often each problem occurs.
        seeds: (draws, seeds), the seeds drawn.
    """

    problems: np.ndarray
    seeds: np.ndarray


def resample(seeds: int, problems: int, generator: np.random.Generator, draws: int = 10_000) -> Resamples:
    """Draw as many seeds and as many problems as there are, with replacement, `draws` times."""
    drawn = generator.integers(problems, size=(draws, problems)) + problems * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * problems).reshape(draws, problems)
    return Resamples(times.astype(np.float64), generator.integers(seeds, size=(draws, seeds)))


def hierarchical_bootstrap(values: ArrayLike, resamples: Resamples) -> Bootstrap:
    """Resample seeds with replacement, then problems with replacement, and studentise.

    Two choices keep the nominal coverage with few seeds.

    * The error of each draw is divided by the standard error over its seeds. Bare percentiles of the
      resampled means cover 88 % instead of 95 % with eight seeds: they leave the spread a factor √(7/8) too
      small, and have normal tails where those of Student's t are due.
    * A draw takes the same problems in every seed. Seeds seen on the same problems err together where these
      happen to be untypical; problems drawn anew in each seed hide that, and may cover as little as half the
      time. Where no two seeds share a problem this is the usual nested draw.

    Noise of single values, neither of the seed nor of the problem, is counted more than once, so that the
    interval is wider than need be (some 98 % coverage) where it dominates.

    Args:
        values: (seeds, problems), NaN where a seed lacks a problem.
        resamples: for this shape.

    Returns:
        The mean and how far from the truth it may lie.

    Raises:
        ValueError: not such a matrix, of another shape than `resamples`, or a seed without any finite value.

    Source:
        Davison & Hinkley 1997, §3.8 (hierarchical data) and §5.2 (studentised); Owen 2007, Annals of Applied
        Statistics 1(2):386 (crossed factors).
    """
    values = np.asarray(values, dtype=np.float64)
    expected = (resamples.seeds.shape[1], resamples.problems.shape[1])
    if values.shape != expected:
        raise ValueError(f"values must be (seeds, problems) = {expected} as resampled; found {values.shape}")
    present = np.isfinite(values)
    if not present.any(1).all():
        seed = int(np.argmin(present.any(1)))
        raise ValueError(f"row {seed} (from 0) of values has no finite entry; leave that seed out")
    filled = np.where(present, values, 0.0)
    means = filled.sum(1) / present.sum(1)

    counts = resamples.problems @ present.T
    # A seed none of whose problems were drawn keeps its mean.
    drawn = np.where(counts > 0, resamples.problems @ filled.T / np.maximum(counts, 1), means)
    resampled = np.take_along_axis(drawn, resamples.seeds, axis=1)

    moved = np.abs(resampled.mean(1) - means.mean())
    rounding = ROUNDING * np.abs(filled).max()
    moved[moved <= rounding] = 0
    stderr, resampled_stderr = _standard_error(means), _standard_error(resampled)
    known = (stderr > rounding) & (resampled_stderr > rounding)
    stretch = np.divide(stderr, resampled_stderr, where=known, out=np.full(len(moved), np.inf))
    deviations = np.multiply(moved, stretch, where=moved > 0, out=np.zeros(len(moved)))
    if len(means) == 1:
        deviations[:] = np.inf
    return Bootstrap(float(means.mean()), np.sort(deviations), means)


def tost(bootstrap: Bootstrap, low: float, high: float) -> float:
    """Equivalence p of the two one-sided tests: small where the mean lies between `low` and `high`.

    It is at most α just where the 1 − 2α interval of the same bootstrap lies between them, up to one draw.

    Source:
        Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657.
    """
    room = min(bootstrap.mean - low, high - bootstrap.mean)
    return float(np.mean(bootstrap.deviations >= room) / 2) if room > 0 else 1.0


def sign_flip_test(seed_means: ArrayLike, alternative: str = "two-sided") -> float:
    """Exact permutation test that the effect of a seed is symmetric about zero.

    All 2ⁿ sign patterns are counted, so p is never below 2/2ⁿ (two-sided) or 1/2ⁿ (one-sided).

    Args:
        seed_means: (n,), one effect per seed.
        alternative: two-sided, greater or less.

    Returns:
        p, in [2/2ⁿ, 1] if two-sided.

    Raises:
        ValueError: no seeds, more than 20, one that is not finite, or an unknown alternative.
    """
    means = np.asarray(seed_means, dtype=np.float64)
    if means.ndim != 1 or not 1 <= len(means) <= LARGEST_EXACT or not np.isfinite(means).all():
        raise ValueError(f"seed_means must be 1 … {LARGEST_EXACT} finite numbers; found {seed_means!r}")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative must be two-sided, greater or less; found {alternative!r}")
    sums = np.zeros(1)
    for mean in means:
        sums = np.concatenate([sums + mean, sums - mean])
    observed = means.sum()
    # Patterns that tie with the observed one must count, whatever the order of summation rounds to.
    slack = ROUNDING * np.abs(means).sum()
    if alternative == "two-sided":
        return float(np.mean(np.abs(sums) >= abs(observed) - slack))
    return float(np.mean(sums >= observed - slack if alternative == "greater" else sums <= observed + slack))


def smallest_p(seeds: int) -> float:
    """The smallest two-sided p that `sign_flip_test` can reach, 2/2ⁿ."""
    return min(1.0, 2.0 ** (1 - seeds))


def seeds_needed(alpha: float, tests: int = 1) -> int:
    """The fewest seeds with which Holm's correction over `tests` lets any p fall to `alpha`."""
    return int(np.ceil(1 - np.log2(alpha / tests)))


# statsmodels' multipletests has both, but collects garbage on every call: 0.1 s once torch is loaded.
def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p that bound the chance of any false rejection.

    Args:
        p: (m,), of m tests.

    Returns:
        (m,), in the order given.

    Source:
        Holm 1979.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)


def benjamini_hochberg(p: ArrayLike) -> np.ndarray:
    """Adjusted p that bound the expected share of false rejections.

    Args:
        p: (m,), of m tests.

    Returns:
        (m,), in the order given.

    Source:
        Benjamini & Hochberg 1995.
    """
    return stats.false_discovery_control(p)


def fisher_z(correlation: ArrayLike) -> np.ndarray:
    """Fisher's z = artanh r, in which differences of correlations are compared.

    Args:
        correlation: (...), in [−1, 1].

    Returns:
        (...), infinite at ±1.

    Source:
        Fisher 1921.
    """
    with np.errstate(divide="ignore"):
        return np.arctanh(np.asarray(correlation, dtype=np.float64))


def log_ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """ln(a/b).

    Args:
        numerator: a, (...).
        denominator: b, (...), broadcasting with a.

    Returns:
        (...), NaN unless both are positive.
    """
    return _log(numerator) - _log(denominator)


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """P(a positive scores above a negative), ties counting half.

    Args:
        positives: (n₁,), their scores.
        negatives: (n₂,).

    Returns:
        In [0, 1]; NaN if either is empty.

    Source:
        Mann & Whitney 1947, U/(n₁n₂).
    """
    positives, negatives = np.ravel(positives), np.ravel(negatives)
    n, m = len(positives), len(negatives)
    if not n or not m:
        return np.nan
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float:
    """P(first > second) − P(first < second).

    Args:
        first: (n₁,).
        second: (n₂,).

    Returns:
        In [−1, 1]; NaN if either is empty.

    Source:
        Cliff 1993.
    """
    return 2 * auroc(first, second) - 1


def matthews_correlation(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Correlation of two binary labellings.

    Not the mean correlation coefficient by which dictionaries are compared, also abbreviated MCC.

    Args:
        truth: (n,).
        predicted: (n,).

    Returns:
        In [−1, 1]; NaN where one of them is constant.

    Source:
        Matthews 1975.
    """
    truth, predicted = np.ravel(truth).astype(bool), np.ravel(predicted).astype(bool)
    if truth.all() or predicted.all() or not truth.any() or not predicted.any():
        return np.nan
    return float(np.corrcoef(truth, predicted)[0, 1])


def binomial_bound(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a rate that never covers less than `confidence` (Clopper & Pearson 1934)."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Statistic:
    """One number per seed and problem out of a metric over levels.

    Attributes:
        function: (value, −ln σ_t, group, number of groups), the first three (N,), to one number per group.
        logarithm: whether it is computed of ln value.
        least_levels: with fewer defined levels the statistic is undefined.
    """

    function: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
    logarithm: bool
    least_levels: int


def level_statistic(frame: pd.DataFrame, name: str, by: Sequence[str]) -> pd.DataFrame:
    """A statistic over the levels of every group, usually a condition, seed and problem.

    Args:
        frame: columns `by`, `t`, `sigma` (σ_t) and `value`; several rows of one level count as repeats.
            Values that the statistic cannot use (not finite, or not positive under a logarithm) are left out.
        name: one of `STATISTICS`.
        by: columns that name a group.

    Returns:
        One row per group, in order of `by`: these columns, `value` (NaN where fewer than the statistic's
        least number of levels are left) and `levels` (how many are left).

    Raises:
        ValueError: no such statistic.
    """
    if name not in STATISTICS:
        raise ValueError(f"unknown statistic {name!r}: use one of {', '.join(STATISTICS)}")
    statistic = STATISTICS[name]
    grouped = frame.groupby(list(by), sort=True, dropna=False)
    result = grouped.size().index.to_frame(index=False)
    group = grouped.ngroup().to_numpy()
    value = frame["value"].to_numpy(np.float64, na_value=np.nan)
    value = _log(value) if statistic.logarithm else value
    kept = np.isfinite(value)
    group, value = group[kept], value[kept]
    sharpness = -np.log(frame["sigma"].to_numpy(np.float64)[kept])
    levels = pd.Series(frame["t"].to_numpy()[kept]).groupby(group).nunique()
    levels = levels.reindex(range(len(result)), fill_value=0).to_numpy()
    found = statistic.function(value, sharpness, group, len(result))
    return result.assign(value=np.where(levels >= statistic.least_levels, found, np.nan), levels=levels)


def _mean(value: np.ndarray, _sharpness: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    return _divide(np.bincount(group, value, groups), np.bincount(group, minlength=groups))


def _slope(value: np.ndarray, sharpness: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    value, sharpness = (v - _mean(v, v, group, groups)[group] for v in (value, sharpness))
    return _divide(
        np.bincount(group, value * sharpness, groups), np.bincount(group, sharpness * sharpness, groups)
    )


def _rank_correlation(value: np.ndarray, sharpness: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    value, sharpness = (pd.Series(v).groupby(group).rank().to_numpy() for v in (value, sharpness))
    value, sharpness = (v - _mean(v, v, group, groups)[group] for v in (value, sharpness))
    covariance, first, second = (
        np.bincount(group, product, groups)
        for product in (value * sharpness, value * value, sharpness * sharpness)
    )
    count = np.bincount(group, minlength=groups)
    # A perfect order has z = ∞. A swap of neighbours lowers ρ by 12/(n(n²−1)); half of it is the correction.
    most = 1 - _divide(np.full(groups, 6.0), count * (count**2 - 1.0))
    return fisher_z(np.clip(_divide(covariance, np.sqrt(first * second)), -most, most))


STATISTICS = {
    # Least-squares slope of ln value against −ln σ_t: positive where it grows as the landscape sharpens.
    "log_slope": Statistic(_slope, logarithm=True, least_levels=3),
    "log_mean": Statistic(_mean, logarithm=True, least_levels=1),
    "mean": Statistic(_mean, logarithm=False, least_levels=1),
    # Fisher z of Spearman's ρ between value and −ln σ_t.
    "rank_correlation": Statistic(_rank_correlation, logarithm=False, least_levels=3),
}


def _standard_error(means: np.ndarray) -> np.ndarray:
    n = means.shape[-1]
    return means.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(means.shape[:-1], np.nan)


def _log(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.log(values, where=values > 0, out=np.full(values.shape, np.nan))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(len(numerator), np.nan))
