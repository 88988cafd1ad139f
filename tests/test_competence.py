"""Baselines are as strong as they should be, and a model shows skill only by beating the best of them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from iredinterp.errors import ConfigError, TaskError
from iredinterp.ired.competence import (
    baseline_predictions,
    choose_penalties,
    competence,
    fit_linear,
    soft_impute,
    soft_impute_path,
)
from iredinterp.ired.tasks import Problems, ProblemSpec, draw_problems, make_problems

INVERSE = ProblemSpec("inverse", 3)
COMPLETION = ProblemSpec("completion", 5, rank=1, factors="positive", observed=0.8)


def planted_linear_problems(weight, bias, noise, count, generator):
    x = torch.randn(count, len(weight), generator=generator, dtype=torch.float64)
    y = x @ weight + bias
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return Problems(ProblemSpec("addition", 3), x, y, {})


def answers_with_error(problems, deviation, generator):
    noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
    return problems.y_star + deviation * noise


@pytest.fixture
def planted_map(generator):
    weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((18, 9), (9,)))
    return weight, bias


def test_linear_fit_recovers_a_planted_affine_map(planted_map, generator):
    fitted = fit_linear(planted_linear_problems(*planted_map, noise=0, count=50, generator=generator))
    assert torch.allclose(fitted.weight, planted_map[0], atol=1e-12)
    assert torch.allclose(fitted.bias, planted_map[1], atol=1e-12)


def test_linear_fit_leaves_exactly_the_planted_noise_unexplained(planted_map, generator):
    fit, fresh = (planted_linear_problems(*planted_map, 0.3, 20_000, generator) for _ in range(2))
    mse = (fit_linear(fit)(fresh.x) - fresh.y_star).square().mean().item()
    assert mse == pytest.approx(0.3**2, rel=0.025)


def test_linear_fit_is_the_least_squares_solution_on_dependent_inputs(seed):
    problems = make_problems("inverse", 4, 300, seed)
    design = np.column_stack([problems.x.numpy(), np.ones(300)])
    expected = design @ np.linalg.lstsq(design, problems.y_star.numpy(), rcond=None)[0]
    for _ in range(20):
        # Freed integers with values of plausible pivots must not find their way into the factorisation.
        stale = [torch.arange(1, 18, dtype=torch.int32) for _ in range(50)]
        del stale
        np.testing.assert_allclose(fit_linear(problems)(problems.x).numpy(), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("n", "count", "zero", "mean", "linear"),
    [
        (5, 4_000, 0.163, 0.0773, 0.0345),
        (10, 1_000, 0.0587, 0.0344, 0.0197),
    ],
)
def test_baselines_of_official_inversion_have_their_known_errors(n, count, zero, mean, linear, seed):
    spec = ProblemSpec("inverse", n)
    problems = make_problems("inverse", n, count, seed)
    predictions = baseline_predictions(spec, problems, seed)
    mse = {name: (y - problems.y_star).square().mean().item() for name, y in predictions.items()}
    assert mse == {
        "zero": pytest.approx(zero, rel=0.05),
        "mean": pytest.approx(mean, rel=0.05),
        "linear": pytest.approx(linear, rel=0.05),
    }


def test_copying_halves_the_error_of_official_completion_and_leaves_the_missing_entries_alone(seed):
    result = competence(torch.zeros_like, ProblemSpec("completion", 4), 3_000, seed)
    variance = 0.1**2 + 10 / 20**2
    assert result.score("zero", "all").mse == pytest.approx(variance, rel=0.05)
    assert result.score("copy", "all").mse == pytest.approx(variance / 2, rel=0.06)
    assert result.score("copy", "missing").mse == pytest.approx(variance, rel=0.06)
    assert result.score("copy", "observed").mse == 0


@pytest.mark.parametrize("penalty", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(6, 6), (7, 4)])
def test_soft_impute_satisfies_the_optimality_conditions(shape, penalty, generator):
    x = torch.randn(10, *shape, generator=generator, dtype=torch.float64)
    mask = (torch.rand(10, *shape, generator=generator, dtype=torch.float64) < 0.6).double()
    completed = soft_impute(x, mask, penalty, iterations=50_000, tolerance=1e-9)
    ranks = []
    for X, M, Z in zip(x.numpy(), mask.numpy(), completed.numpy(), strict=True):
        U, singular_values, Vh = np.linalg.svd(Z, full_matrices=False)
        rank = (singular_values > 1e-8).sum()
        U, V = U[:, :rank], Vh[:rank].T
        # P_Ω(X − Z)/λ = UVᵀ + W with UᵀW = 0, WV = 0 and ‖W‖₂ ≤ 1.
        W = M * (X - Z) / penalty - U @ V.T
        assert np.abs(U.T @ W).max(initial=0) < 1e-4
        assert np.abs(W @ V).max(initial=0) < 1e-4
        assert np.linalg.norm(W, 2) < 1 + 1e-4
        ranks.append(rank)
    assert max(ranks) > 0


def test_soft_impute_of_a_complete_matrix_lowers_its_singular_values_by_the_penalty(generator):
    x = torch.randn(10, 5, 5, generator=generator, dtype=torch.float64)
    completed = soft_impute(x, torch.ones_like(x), 0.7)
    expected = (torch.linalg.svdvals(x) - 0.7).clamp(min=0)
    assert torch.allclose(torch.linalg.svdvals(completed), expected, atol=1e-12)


def test_soft_impute_tends_to_the_completion_of_least_nuclear_norm():
    # ‖[[1, 1], [1, z]]‖_* is least at z = 1, and a penalty λ keeps z below by 2λ to first order.
    x = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    for penalty in (1e-2, 1e-3, 1e-4):
        completed = soft_impute(x, mask=x, penalty=penalty, iterations=10_000, tolerance=1e-9)
        assert completed[0, 1, 1].item() == pytest.approx(1 - 2 * penalty, abs=10 * penalty**2)


def objective(completed, x, mask, penalty):
    misfit = (mask * (x - completed)).square().sum((1, 2)) / 2
    return misfit + penalty * torch.linalg.svdvals(completed).sum(1)


def test_soft_impute_completes_a_matrix_alike_alone_in_company_and_from_another_start(generator):
    problems = draw_problems(COMPLETION, 8, generator)
    mask, penalty = problems.meta["mask"], 0.2
    x = problems.x.view_as(mask)
    untouched, start = x.clone(), problems.meta["signal"].clone()
    together = soft_impute(x, mask, penalty, 10_000, 1e-9)
    alone = torch.cat(
        [soft_impute(x[i : i + 1], mask[i : i + 1], penalty, 10_000, 1e-9) for i in range(len(x))]
    )
    warm = soft_impute(x, mask, penalty, 10_000, 1e-9, start=start)
    for other in (alone, warm):
        assert torch.allclose(
            objective(other, x, mask, penalty), objective(together, x, mask, penalty), rtol=1e-9
        )
    assert torch.equal(x, untouched)
    assert torch.equal(start, problems.meta["signal"])


def test_soft_impute_along_a_path_is_the_solution_at_each_penalty(generator):
    problems = draw_problems(COMPLETION, 30, generator)
    mask = problems.meta["mask"]
    x, penalties = problems.x.view_as(mask), [1.0, 0.5, 0.2]
    for completed, penalty in zip(soft_impute_path(x, mask, penalties), penalties, strict=True):
        direct = soft_impute(x, mask, penalty, iterations=10_000, tolerance=1e-9)
        optimum = objective(direct, x, mask, penalty)
        assert torch.allclose(objective(completed, x, mask, penalty), optimum, rtol=1e-4)


def test_soft_impute_along_a_path_comes_closer_to_a_small_penalty_than_from_zero(generator):
    problems = draw_problems(ProblemSpec("completion", 5, rank=1), 60, generator)
    mask = problems.meta["mask"]
    x, penalty = problems.x.view_as(mask), 1e-3
    *_, warm = soft_impute_path(x, mask, [penalty * 2**step for step in reversed(range(10))])
    cold = soft_impute(x, mask, penalty)
    assert objective(warm, x, mask, penalty).sum() < objective(cold, x, mask, penalty).sum()


def test_soft_impute_ignores_what_stands_at_missing_entries(generator):
    problems = draw_problems(COMPLETION, 10, generator)
    mask = problems.meta["mask"]
    assert torch.equal(
        soft_impute(problems.meta["signal"], mask, 0.1), soft_impute(problems.x.view_as(mask), mask, 0.1)
    )


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.inf, math.nan])
def test_soft_impute_refuses_a_penalty_that_is_not_positive(penalty):
    ones = torch.ones(1, 2, 2, dtype=torch.float64)
    with pytest.raises(ConfigError, match="penalty: found"):
        soft_impute(ones, ones, penalty)


def missing_mse(completed, problems):
    missing = 1 - problems.meta["mask"]
    return ((completed - problems.meta["signal"]).square() * missing).sum().item() / missing.sum().item()


def test_the_chosen_penalty_has_the_least_error_on_missing_entries(generator):
    problems = draw_problems(ProblemSpec("completion", 6, rank=1, observed=0.7, noise=0.1), 100, generator)
    mask = problems.meta["mask"]
    x = problems.x.view_as(mask)
    penalties = choose_penalties(problems)
    assert all(high == pytest.approx(2 * low) for high, low in pairwise(penalties))
    further = [*penalties, penalties[-1] / 2, penalties[-1] / 4]
    errors = [missing_mse(completed, problems) for completed in soft_impute_path(x, mask, further)]
    assert errors[len(penalties) - 1] == min(errors)
    assert min(errors) < 0.9 * errors[0]


def test_soft_impute_completes_noise_free_rank_one_matrices_far_better_than_the_other_baselines(seed):
    result = competence(torch.zeros_like, COMPLETION, 200, seed)
    assert result.best_baseline == "soft_impute"
    assert result.score("soft_impute").mse < 0.5 * result.score("linear").mse
    assert result.score("soft_impute", "observed").mse == 0


def test_soft_impute_removes_noise_from_observed_entries(seed):
    spec = ProblemSpec("completion", 6, rank=1, observed=0.8, noise=0.2)
    result = competence(torch.zeros_like, spec, 200, seed)
    assert result.score("soft_impute", "observed").mse < 0.8 * result.score("copy", "observed").mse


def test_baselines_never_see_the_problems_they_predict(seed):
    problems = make_problems("inverse", 3, 50, seed)
    mean = baseline_predictions(INVERSE, problems, seed, fit_count=50)["mean"][0]
    assert not torch.allclose(mean, problems.y_star.mean(0), rtol=1e-3)


def test_baselines_are_the_same_for_the_same_seed(seed):
    problems = draw_problems(COMPLETION, 20, torch.Generator().manual_seed(seed))
    first, again = (baseline_predictions(COMPLETION, problems, seed, fit_count=100) for _ in range(2))
    assert list(first) == ["zero", "mean", "linear", "copy", "soft_impute"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(prediction.shape == problems.y_star.shape for prediction in first.values())


def test_a_model_out_of_distribution_meets_baselines_fitted_where_it_was_trained(seed):
    ood = ProblemSpec("inverse", 5, ood=True)
    home = competence(torch.zeros_like, ood, 2_000, seed)
    away = competence(torch.zeros_like, ood, 2_000, seed, trained_on=ProblemSpec("inverse", 5))
    assert away.score("zero") == home.score("zero")
    assert away.score("linear").mse > 1.1 * home.score("linear").mse
    problems = make_problems("inverse", 5, 2_000, seed, ood=True)
    fitted = fit_linear(make_problems("inverse", 5, 20_000, seed + 1))
    expected = (fitted(problems.x) - problems.y_star).square().mean().item()
    assert away.score("linear").mse == pytest.approx(expected, rel=0.02)


def test_scores_are_the_mean_errors_over_each_kind_of_entry(seed, generator):
    problems = draw_problems(COMPLETION, 100, torch.Generator().manual_seed(seed))
    answers = answers_with_error(problems, 0.2, generator)
    result = competence(lambda x: answers, COMPLETION, 100, seed)
    squares = (answers - problems.y_star).square().numpy()
    mask = problems.meta["mask"].flatten(1).numpy()
    assert result.score("model", "all").mse == pytest.approx(squares.mean())
    assert result.score("model", "missing").mse == pytest.approx(squares[mask == 0].mean())
    assert result.score("model", "observed").mse == pytest.approx(squares[mask == 1].mean())
    assert result.score("model", "all").stderr == pytest.approx(squares.mean(1).std(ddof=1) / 10)
    assert result.score("model") == result.score("model", "missing")


def test_standard_errors_on_missing_entries_agree_with_the_jackknife(seed):
    problems = draw_problems(COMPLETION, 200, torch.Generator().manual_seed(seed))
    missing = 1 - problems.meta["mask"].flatten(1)
    totals = (problems.y_star.square() * missing).sum(1).numpy()
    counts = missing.sum(1).numpy()
    leave_one_out = (totals.sum() - totals) / (counts.sum() - counts)
    jackknife = math.sqrt(199 / 200 * ((leave_one_out - leave_one_out.mean()) ** 2).sum())
    result = competence(torch.zeros_like, COMPLETION, 200, seed)
    assert result.score("zero", "missing").stderr == pytest.approx(jackknife, rel=0.02)


def test_rows_are_one_per_predictor_and_kind_of_entry(seed):
    completion = competence(torch.zeros_like, COMPLETION, 20, seed).rows()
    assert len(completion) == 6 * 3
    assert {row["entries"] for row in completion} == {"all", "missing", "observed"}
    inverse = competence(torch.zeros_like, INVERSE, 20, seed).rows()
    assert [(row["predictor"], row["entries"]) for row in inverse] == [
        (name, "all") for name in ("model", "zero", "mean", "linear")
    ]
    assert all(set(row) == {"predictor", "entries", "mse", "stderr"} for row in completion + inverse)


def test_exact_inversion_shows_skill(seed):
    result = competence(lambda x: torch.linalg.inv(x.view(-1, 3, 3)).flatten(1), INVERSE, 300, seed)
    assert result.shows_skill
    assert result.skill > 1e20
    assert result.best_baseline == "linear"


def test_perfect_completion_shows_skill_without_limit(seed):
    spec = ProblemSpec("completion", 4)
    problems = draw_problems(spec, 100, torch.Generator().manual_seed(seed))
    result = competence(lambda x: problems.y_star, spec, 100, seed)
    assert result.shows_skill
    assert result.skill == result.skill_lower == math.inf


def test_skill_is_the_error_ratio_and_its_bound_agrees_with_the_paired_bootstrap(seed, generator):
    problems = draw_problems(INVERSE, 1_000, torch.Generator().manual_seed(seed))
    answers = answers_with_error(problems, 0.05, generator)
    result = competence(lambda x: answers, INVERSE, 1_000, seed)
    assert result.shows_skill
    assert result.score("model").mse == pytest.approx(0.05**2, rel=0.1)
    assert result.skill == pytest.approx(result.score("linear").mse / result.score("model").mse)
    model = (answers - problems.y_star).square().mean(1).numpy()
    linear = baseline_predictions(INVERSE, problems, seed)["linear"]
    baseline = (linear - problems.y_star).square().mean(1).numpy()
    resampled = np.random.default_rng(seed).integers(1_000, size=(4_000, 1_000))
    ratios = baseline[resampled].mean(1) / model[resampled].mean(1)
    bootstrap_width = result.skill - np.quantile(ratios, 0.01)
    assert result.skill - result.skill_lower == pytest.approx(bootstrap_width, rel=0.2)


def test_sentence_of_a_skilled_model_names_error_problems_and_best_baseline(seed, generator):
    problems = draw_problems(INVERSE, 1_024, torch.Generator().manual_seed(seed))
    answers = answers_with_error(problems, 0.05, generator)
    result = competence(lambda x: answers, INVERSE, 1_024, seed)
    model, linear = result.score("model"), result.score("linear")
    assert result.sentence() == (
        f"MSE {model.mse:.3g} ± {model.stderr:.1g} on 1,024 fresh problems, "
        f"{result.skill:.3g} times below the best baseline (linear map, {linear.mse:.3g})"
    )


def test_another_linear_map_shows_skill_no_more_often_than_the_test_level_allows(seed):
    fitted = fit_linear(make_problems("inverse", 3, 20_000, seed))
    found = sum(competence(fitted, INVERSE, 300, seed + 1 + i).shows_skill for i in range(60))
    # At a true rate of 1.3 % (1 % and the skewness of squared errors) 9 of 60 happen once in 10^7 runs.
    assert found <= 8


def test_the_best_baseline_itself_shows_no_skill_not_even_by_rounding(seed):
    for name, spec in {"linear": INVERSE, "soft_impute": COMPLETION}.items():
        problems = draw_problems(spec, 50, torch.Generator().manual_seed(seed))
        answers = baseline_predictions(spec, problems, seed)[name]
        for answer in (answers, answers * (1 - 1e-15)):
            result = competence(lambda x, answer=answer: answer, spec, 50, seed)
            assert result.best_baseline == name
            assert not result.shows_skill


def test_no_model_shows_skill_at_addition_which_is_a_linear_map(seed):
    result = competence(lambda x: x[:, :9] + x[:, 9:], ProblemSpec("addition", 3), 100, seed)
    assert result.score("linear").mse < 1e-24
    assert not result.shows_skill


def test_a_model_slightly_worse_than_the_linear_map_shows_no_skill(seed, generator):
    problems = draw_problems(INVERSE, 2_000, torch.Generator().manual_seed(seed))
    linear = baseline_predictions(INVERSE, problems, seed)["linear"]
    worse = linear + 0.05 * torch.randn(linear.shape, generator=generator, dtype=torch.float64)
    result = competence(lambda x: worse, INVERSE, 2_000, seed)
    assert not result.shows_skill
    assert result.skill < 1
    model, linear = result.score("model"), result.score("linear")
    assert result.sentence() == (
        f"no skill: MSE {model.mse:.3g} is not below the best baseline (linear map, {linear.mse:.3g}); "
        "read its landscape as a property of this network, not of the task"
    )


def test_a_model_worse_than_zero_shows_no_skill(seed):
    result = competence(lambda x: torch.full((len(x), 25), -1.0), COMPLETION, 30, seed)
    assert not result.shows_skill
    assert result.skill_lower < result.skill < 1
    assert result.sentence().startswith("no skill: missing-entry MSE")


def test_an_advantage_within_its_uncertainty_is_called_not_significant(seed):
    problems = draw_problems(INVERSE, 10, torch.Generator().manual_seed(seed))
    answers = baseline_predictions(INVERSE, problems, seed)["linear"].clone()
    answers[0] = problems.y_star[0]
    result = competence(lambda x: answers, INVERSE, 10, seed)
    assert result.skill > 1
    assert not result.shows_skill
    assert "is not significantly below the best baseline" in result.sentence()


def test_copying_what_is_seen_is_no_completion_however_low_its_total_error(seed):
    result = competence(lambda x: x, COMPLETION, 50, seed)
    assert result.score("model", "all").mse < result.score("mean", "all").mse
    assert not result.shows_skill


def test_the_same_seed_gives_the_same_scores_on_the_problems_of_that_seed(seed):
    first, again = (competence(torch.zeros_like, INVERSE, 50, seed) for _ in range(2))
    assert first == again
    zero = make_problems("inverse", 3, 50, seed).y_star.square().mean().item()
    assert first.score("zero").mse == pytest.approx(zero, rel=1e-12)


def test_single_precision_answers_with_a_graph_are_accepted(seed):
    weight = torch.zeros(9, 9, requires_grad=True)
    result = competence(lambda x: x.float() @ weight, INVERSE, 20, seed)
    assert result.score("model").mse == result.score("zero").mse


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda x: x[:, :4], r"found an answer of shape \(20, 4\), allowed \(20, 9\); return one row-major"),
        (lambda x: x.view(-1, 3, 3), r"found an answer of shape \(20, 3, 3\)"),
        (lambda x: x / torch.arange(20).clamp(max=1)[:, None], "found NaN or infinity in 1 of 20 answers"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(predict, message, seed):
    with pytest.raises(TaskError, match=message):
        competence(predict, INVERSE, 20, seed)


def test_bad_requests_are_refused_with_their_fix(seed):
    problems = make_problems("inverse", 3, 10, seed)
    with pytest.raises(TaskError, match="found 10 problems, allowed ≥ 11 for 9 inputs; draw more problems"):
        fit_linear(problems)
    with pytest.raises(
        TaskError, match="found inverse with n=3, allowed inverse with n=4; fit the baselines"
    ):
        baseline_predictions(ProblemSpec("inverse", 4), problems, seed)
    with pytest.raises(TaskError, match="count: found 1, allowed ≥ 2"):
        competence(torch.zeros_like, INVERSE, 1, seed)
    with pytest.raises(
        TaskError, match="found model/missing, allowed model/all, zero/all, mean/all, linear/all"
    ):
        competence(torch.zeros_like, INVERSE, 20, seed).score("model", "missing")
