"""Intervals, exact tests, effect sizes and level statistics against brute force, SciPy and known truths."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from iredinterp.evidence.statistics import (
    STATISTICS,
    auroc,
    benjamini_hochberg,
    binomial_bound,
    cliffs_delta,
    fisher_z,
    hierarchical_bootstrap,
    holm,
    level_statistic,
    log_ratio,
    matthews_correlation,
    resample,
    seeds_needed,
    sign_flip_test,
    smallest_p,
    tost,
)

SIGMA = np.sqrt(1 - np.cos(np.linspace(0.2, 1.5, 10)) ** 2)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def coverage(truth, simulate, rng, confidence, replicates=300, draws=500):
    """How many of so many intervals hold the truth."""
    hits = 0
    for _ in range(replicates):
        values = simulate()
        low, high = hierarchical_bootstrap(values, resample(*values.shape, rng, draws)).interval(confidence)
        hits += low <= truth <= high
    return hits, replicates


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("of_seed", "of_problem", "of_both"), [(1.0, 0.0, 1.0), (0.1, 1.0, 0.5), (0.1, 0.3, 1.0)]
)
def test_eight_seeds_cover_the_mean_at_the_nominal_rate(of_seed, of_problem, of_both, confidence, rng):
    def simulate():
        return (
            3.0
            + of_seed * rng.standard_normal((8, 1))
            + of_problem * rng.standard_normal(40)
            + of_both * rng.standard_normal((8, 40))
        )

    hits, trials = coverage(3.0, simulate, rng, confidence)
    # Were the rate nominal, so few hits would come once in ten thousand runs.
    assert scipy.stats.binomtest(hits, trials, confidence, alternative="less").pvalue > 1e-4


def test_intervals_are_not_wider_than_the_spread_between_seeds_asks_for(rng):
    widths = []
    for _ in range(50):
        values = rng.standard_normal((8, 1)) + 0.1 * rng.standard_normal((8, 30))
        low, high = hierarchical_bootstrap(values, resample(8, 30, rng, 2000)).interval(0.95)
        exact = scipy.stats.t.interval(0.95, 7, scale=scipy.stats.sem(values.mean(1)))
        widths.append((high - low) / (exact[1] - exact[0]))
    assert 0.95 < np.median(widths) < 1.25


def test_many_seeds_give_the_interval_of_student(rng):
    values = rng.standard_normal((200, 1)).repeat(3, axis=1)
    found = hierarchical_bootstrap(values, resample(200, 3, rng, 5_000)).interval(0.95)
    expected = scipy.stats.t.interval(0.95, 199, values.mean(), scipy.stats.sem(values[:, 0]))
    np.testing.assert_allclose(found, expected, atol=0.1 * scipy.stats.sem(values[:, 0]))


def test_problems_of_seeds_that_share_none_are_resampled_within_their_seed(rng):
    effects, noise = np.array([1.0, 4.0, 9.0]), rng.standard_normal((3, 5))
    nested = np.full((3, 15), np.nan)
    for seed in range(3):
        nested[seed, 5 * seed : 5 * seed + 5] = effects[seed] + noise[seed]
    found = hierarchical_bootstrap(nested, resample(3, 15, rng))
    np.testing.assert_allclose(found.seed_means, effects + noise.mean(1))
    assert found.mean == pytest.approx(found.seed_means.mean())


def test_bootstrap_agrees_with_a_plain_loop_over_seeds_and_problems(rng):
    values = rng.standard_normal((6, 9))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[:, 0] = 1.0
    draws = resample(6, 9, rng, 300)
    means = np.nanmean(values, axis=1)
    deviations = []
    for times, seeds in zip(draws.problems.astype(int), draws.seeds, strict=True):
        columns = np.repeat(np.arange(9), times)
        drawn = []
        for seed in seeds:
            row = values[seed, columns]
            drawn.append(row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else means[seed])
        moved = abs(np.mean(drawn) - means.mean())
        # About one run in 26 draws one seed six times over, which tells nothing of the spread.
        told = len(set(seeds)) > 1
        deviations.append(moved * scipy.stats.sem(means) / scipy.stats.sem(drawn) if told else math.inf)
    found = hierarchical_bootstrap(values, draws).deviations
    np.testing.assert_allclose(found, np.sort(deviations), atol=1e-12)


def test_resamples_are_multinomial(rng):
    draws = resample(7, 11, rng, 20_000)
    assert (draws.problems.sum(1) == 11).all()
    np.testing.assert_allclose(draws.problems.mean(0), 1, atol=6 * math.sqrt(1 / 20_000))
    np.testing.assert_allclose(draws.problems.var(0), 1 - 1 / 11, atol=0.08)
    assert (np.unique(draws.seeds) == np.arange(7)).all()


def test_scaling_and_shifting_the_values_scales_and_shifts_the_interval(rng):
    values, draws = rng.standard_normal((8, 12)), resample(8, 12, rng)
    low, high = hierarchical_bootstrap(values, draws).interval(0.95)
    np.testing.assert_allclose(
        hierarchical_bootstrap(5 - 1e-9 * values, draws).interval(0.95),
        (5 - 1e-9 * high, 5 - 1e-9 * low),
        rtol=1e-14,
    )


def test_the_same_generator_gives_the_same_interval(seed):
    values = np.random.default_rng(seed).standard_normal((6, 5))
    first, second = (
        hierarchical_bootstrap(values, resample(6, 5, np.random.default_rng(seed))).interval(0.9)
        for _ in range(2)
    )
    assert first == second


def test_a_constant_is_known_exactly_and_one_seed_or_copies_of_one_seed_tell_nothing(rng):
    assert (
        hierarchical_bootstrap(np.full((6, 7), 0.1), resample(6, 7, rng)).interval(0.95)
        == (pytest.approx(0.1, abs=1e-15),) * 2
    )
    for values in (rng.standard_normal((1, 7)), rng.standard_normal((1, 7)).repeat(6, axis=0)):
        found = hierarchical_bootstrap(values, resample(*values.shape, rng))
        assert found.interval(0.95) == (-math.inf, math.inf)
        assert tost(found, -10, 10) > 0.4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(4), r"values must be \(seeds, problems\) = \(3, 4\) as resampled; found \(4,\)"),
        (np.ones((4, 3)), r"found \(4, 3\)"),
        (
            [[1, 2, 3, 4], [np.nan] * 4, [1, 2, 3, 4]],
            r"row 1 \(from 0\) of values has no finite entry; leave",
        ),
    ],
)
def test_values_that_cannot_be_bootstrapped_are_refused(values, message, rng):
    with pytest.raises(ValueError, match=message):
        hierarchical_bootstrap(values, resample(3, 4, rng, 100))


def test_equivalence_at_level_alpha_is_an_interval_within_the_bounds(rng):
    found = hierarchical_bootstrap(0.1 + rng.standard_normal((8, 6)), resample(8, 6, rng))
    for bound in np.linspace(0.05, 3, 60):
        low, high = found.interval(0.9)
        p = tost(found, -bound, bound)
        if abs(p - 0.05) > 2e-4:
            assert (p < 0.05) == (-bound < low and high < bound)
    assert tost(found, found.mean, 9) == tost(found, found.mean + 1, 9) == 1


def test_equivalence_of_many_seeds_is_that_of_two_t_tests(rng):
    values = rng.standard_normal((150, 1)) * np.ones(2)
    found = hierarchical_bootstrap(values, resample(150, 2, rng, 5_000))
    for bound in (0.1, 0.2, 0.3):
        above = scipy.stats.ttest_1samp(values[:, 0], -bound, alternative="greater").pvalue
        below = scipy.stats.ttest_1samp(values[:, 0], bound, alternative="less").pvalue
        if max(above, below) < 0.5:
            assert tost(found, -bound, bound) == pytest.approx(max(above, below), abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_sign_flips_are_counted_exactly(n, alternative, rng):
    means = rng.normal(0.3, 1, n)
    sums = np.array([np.dot(signs, means) for signs in itertools.product((1, -1), repeat=n)])
    extreme = {
        "two-sided": np.abs(sums) >= abs(means.sum()) - 1e-9,
        "greater": sums >= means.sum() - 1e-9,
        "less": sums <= means.sum() + 1e-9,
    }
    assert sign_flip_test(means, alternative) == pytest.approx(extreme[alternative].mean())


def test_sign_flip_test_is_that_of_scipy(rng):
    means = rng.normal(0.5, 1, 8)
    for alternative in ("two-sided", "greater", "less"):
        expected = scipy.stats.permutation_test(
            (means,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert sign_flip_test(means, alternative) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("n", [5, 6, 8])
def test_smallest_p_is_reached_when_all_seeds_agree(n, rng):
    means = rng.uniform(0.1, 1, n)
    assert sign_flip_test(means) == sign_flip_test(-means) == smallest_p(n) == 2 / 2**n
    assert sign_flip_test(means, "greater") == 1 / 2**n
    assert sign_flip_test(means, "less") == 1


def test_equal_seeds_tie_whatever_rounding_does():
    assert sign_flip_test([0.1] * 8) == 2 / 2**8
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1
    assert sign_flip_test([0.0] * 6) == 1


@pytest.mark.parametrize(("tests", "seeds"), [(1, 6), (2, 7), (3, 7), (6, 8), (7, 9), (16, 10)])
def test_fewest_seeds_for_holm_are_those_of_the_smallest_p(tests, seeds):
    assert seeds_needed(0.05, tests) == seeds
    assert smallest_p(seeds) * tests <= 0.05 < smallest_p(seeds - 1) * tests


@pytest.mark.parametrize(
    ("means", "message"),
    [([], r"1 … 20 finite numbers; found \[\]"), ([1.0, math.nan], "finite"), ([1.0] * 21, "1 … 20")],
)
def test_sign_flips_of_too_few_too_many_or_undefined_seeds_are_refused(means, message):
    with pytest.raises(ValueError, match=message):
        sign_flip_test(means)
    with pytest.raises(ValueError, match="alternative must be two-sided, greater or less; found 'more'"):
        sign_flip_test([1.0], "more")


def test_holm_and_benjamini_hochberg_of_a_worked_example():
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])
    assert holm([]).size == 0


def test_holm_and_benjamini_hochberg_are_those_of_statsmodels(rng):
    p = np.append(rng.random(15) ** 3, [0.02, 0.02, 1.0])
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])


def test_auroc_and_cliffs_delta_count_pairs_with_ties_as_half(rng):
    first, second = rng.integers(0, 6, 23), rng.integers(0, 6, 31)
    above, tied = (first[:, None] > second).mean(), (first[:, None] == second).mean()
    assert auroc(first, second) == pytest.approx(above + tied / 2)
    assert cliffs_delta(first, second) == pytest.approx(above - (first[:, None] < second).mean())
    assert cliffs_delta(second, first) == pytest.approx(-cliffs_delta(first, second))
    assert math.isnan(auroc([], second))


def test_matthews_correlation_is_that_of_the_confusion_matrix(rng):
    truth = np.append(rng.random(50) < 0.4, [True, False])
    predicted = np.append((rng.random(50) < 0.3) | truth[:-2], [False, True])
    tp, tn = (truth & predicted).sum(), (~truth & ~predicted).sum()
    fp, fn = (~truth & predicted).sum(), (truth & ~predicted).sum()
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews_correlation(truth, predicted) == pytest.approx(expected)
    assert matthews_correlation(truth, ~truth) == pytest.approx(-1)
    assert math.isnan(matthews_correlation(truth, np.ones_like(truth)))


def test_fisher_z_and_log_ratio_undo_tanh_and_exp():
    np.testing.assert_allclose(fisher_z(np.tanh([-2.0, 0.0, 0.3])), [-2, 0, 0.3])
    assert fisher_z(1.0) == math.inf
    np.testing.assert_allclose(
        log_ratio([1.1, 0.0, -1.0, 1.0], [1.0, 1.0, 1.0, 0.0]), [math.log(1.1), *[math.nan] * 3]
    )


@pytest.mark.parametrize("successes", [0, 3, 40])
def test_binomial_bound_leaves_its_error_on_either_side(successes):
    low, high = binomial_bound(successes, 40, 0.9)
    if successes > 0:
        assert scipy.stats.binom.sf(successes - 1, 40, low) == pytest.approx(0.05)
    if successes < 40:
        assert scipy.stats.binom.cdf(successes, 40, high) == pytest.approx(0.05)
    assert (low == 0) == (successes == 0)
    assert (high == 1) == (successes == 40)


def levels(values, **keys):
    """A frame of one group, one value per level."""
    return pd.DataFrame({**keys, "t": np.arange(len(values)), "sigma": SIGMA[: len(values)], "value": values})


def test_log_slope_of_a_power_of_sigma_is_its_exponent(rng):
    exponents = rng.normal(size=5)
    frame = pd.concat([levels(3 * SIGMA**-exponent, seed=k) for k, exponent in enumerate(exponents)])
    found = level_statistic(frame.sample(frac=1, random_state=0), "log_slope", ["seed"])
    np.testing.assert_allclose(found["value"], exponents, atol=1e-12)
    assert (found["levels"] == 10).all()


def test_level_statistics_are_those_of_numpy_and_scipy_group_by_group(rng):
    parts = {k: rng.lognormal(size=10) for k in range(4)}
    frame = pd.concat([levels(values, condition="trained", problem_id=k) for k, values in parts.items()])
    sharpness = -np.log(SIGMA)
    expected = {
        "log_slope": [np.polyfit(sharpness, np.log(v), 1)[0] for v in parts.values()],
        "log_mean": [np.log(v).mean() for v in parts.values()],
        "mean": [v.mean() for v in parts.values()],
        "rank_correlation": [np.arctanh(scipy.stats.spearmanr(v, sharpness)[0]) for v in parts.values()],
    }
    assert set(expected) == set(STATISTICS)
    for name, values in expected.items():
        found = level_statistic(frame, name, ["condition", "problem_id"])
        assert list(found.columns) == ["condition", "problem_id", "value", "levels"]
        np.testing.assert_allclose(found["value"], values, atol=1e-12)


def test_a_perfect_order_has_a_finite_z_above_that_of_any_other(rng):
    rising = np.sort(rng.normal(size=10))[::-1]
    swapped = rising.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    z = [
        level_statistic(levels(v, seed=0), "rank_correlation", ["seed"])["value"].item()
        for v in (rising, swapped, -rising)
    ]
    assert z[0] == pytest.approx(math.atanh(1 - 6 / 990))
    assert z[1] == pytest.approx(math.atanh(1 - 12 / 990))
    assert z[2] == -z[0]


def test_undefined_levels_are_left_out_and_fewer_than_three_have_no_trend():
    values = 2 * SIGMA**-1.5
    for gap in (np.nan, 0.0, -1.0, np.inf):
        partial = np.where(np.arange(10) < 3, values, gap)
        found = level_statistic(levels(partial, seed=0), "log_slope", ["seed"])
        assert found["value"].item() == pytest.approx(1.5)
        assert found["levels"].item() == 3
        found = level_statistic(
            levels(np.where(np.arange(10) < 2, values, gap), seed=0), "log_slope", ["seed"]
        )
        assert math.isnan(found["value"].item())
        assert found["levels"].item() == 2
    assert math.isnan(level_statistic(levels([np.nan] * 4, seed=0), "mean", ["seed"])["value"].item())


def test_repeats_of_a_level_are_not_further_levels():
    frame = pd.concat([levels([1.0, 2.0], seed=0)] * 5)
    found = level_statistic(frame, "log_slope", ["seed"])
    assert found["levels"].item() == 2
    assert math.isnan(found["value"].item())


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="unknown statistic 'slope': use one of log_slope, log_mean, mean"):
        level_statistic(levels([1.0], seed=0), "slope", ["seed"])
