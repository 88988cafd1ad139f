"""What a model can do, beside what can be done without one.

A landscape tells something about a task only if the model solves the task. The mean squared error over all
entries, which the official code reports, does not show that by itself: in completion, copying the observed
entries halves it, and at n = 20 linear regression inverts as well as the published models. So every model is
scored on the same fresh problems as the trivial predictors, and completion is decided on the missing entries.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from iredinterp.errors import ConfigError, TaskError
from iredinterp.ired.tasks import Problems, ProblemSpec, draw_problems

MODEL = "model"
BASELINE_NAMES = {
    "zero": "zero",
    "mean": "mean answer",
    "linear": "linear map",
    "copy": "copy of the observed entries",
    "soft_impute": "soft-impute",
}
# One-sided 99 % normal quantile.
QUANTILE = 2.3263478740408408
# Two predictors whose MSEs differ by less than this fraction of the mean square of y* differ by rounding.
ROUNDING = 1e-9
TUNING_COUNT = 200


@dataclass(frozen=True)
class LinearMap:
    """The affine map x ↦ x W + b.

    Attributes:
        weight: W, (d_x, d).
        bias: b, (d,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d_x) → (B, d)."""
        return x @ self.weight + self.bias


def fit_linear(problems: Problems) -> LinearMap:
    """The affine map from x to y* with least squared error on these problems.

    Args:
        problems: more than d_x + 1 of them; directions in which x never varies get weight 0.

    Returns:
        The fitted map, float64.

    Raises:
        TaskError: fewer problems than the map has inputs, so that it would interpolate.
    """
    needed = problems.spec.dim_x + 2
    if len(problems) < needed:
        raise TaskError(
            f"fit_linear: found {len(problems)} problems, allowed ≥ {needed} for {problems.spec.dim_x} "
            "inputs; draw more problems"
        )
    ones = torch.ones(len(problems), 1, dtype=problems.x.dtype)
    # The entries of a symmetric x are linearly dependent, and there the default driver, gelsy, finds too low
    # a rank at random: torch 2.13 hands LAPACK an uninitialised pivot array (pytorch issue 187411).
    solution = torch.linalg.lstsq(torch.cat([problems.x, ones], 1), problems.y_star, driver="gelsd").solution
    return LinearMap(solution[:-1], solution[-1])


def soft_impute(
    x: Tensor,
    mask: Tensor,
    penalty: float,
    iterations: int = 500,
    tolerance: float = 1e-5,
    start: Tensor | None = None,
) -> Tensor:
    """Nuclear-norm completion, argmin_Z ½‖mask∘(x − Z)‖²_F + penalty·‖Z‖_*, for a batch.

    The iteration Z ← SVT_penalty(mask∘x + (1 − mask)∘Z) is a proximal gradient step of length 1; Nesterov
    momentum, restarted for each problem whenever it points uphill, speeds it up.

    Args:
        x: (B, n, m), read where mask is 1.
        mask: (B, n, m), 1 observed, 0 missing.
        penalty: > 0, in units of the singular values of x.
        iterations: at most this many; a problem that needs more is returned as it stands.
        tolerance: a problem has converged when a step moves it by less than this fraction of its norm.
        start: (B, n, m), e.g. the solution at a larger penalty; zero by default.

    Returns:
        (B, n, m), on the device and in the dtype of x.

    Raises:
        ConfigError: penalty is not positive.

    Source:
        Mazumder, Hastie and Tibshirani, JMLR 11, 2010; restarts: O'Donoghue and Candès, Found. Comput.
        Math. 15, 2015.
    """
    if not 0 < penalty < math.inf:
        raise ConfigError(
            f"penalty: found {penalty!r}, allowed a finite number > 0; use a small one to interpolate"
        )
    solution = torch.zeros_like(x) if start is None else start.clone()
    active = torch.arange(len(x), device=x.device)
    observed, missing = mask * x, 1 - mask
    previous = leading = solution.clone()
    inertia = torch.ones(len(x), 1, 1, dtype=x.dtype, device=x.device)
    for _ in range(iterations):
        current = _shrink_singular_values(observed + missing * leading, penalty)
        solution[active] = current
        moving = (current - leading).norm(dim=(1, 2)) > tolerance * current.norm(dim=(1, 2))
        if not moving.any():
            break
        uphill = ((leading - current) * (current - previous)).sum((1, 2), keepdim=True) > 0
        inertia = torch.where(uphill, 1.0, inertia)
        next_inertia = (1 + (1 + 4 * inertia.square()).sqrt()) / 2
        leading = current + (inertia - 1) / next_inertia * (current - previous)
        previous, inertia = current, next_inertia
        # Converged problems leave the batch, so that a few slow ones cost only themselves.
        active, observed, missing, previous, leading, inertia = (
            part[moving] for part in (active, observed, missing, previous, leading, inertia)
        )
    return solution


def soft_impute_path(x: Tensor, mask: Tensor, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Soft-impute at decreasing penalties, each started from the solution before: small ones converge sooner.

    Args:
        x: (B, n, m), read where mask is 1.
        mask: (B, n, m), 1 observed, 0 missing.
        penalties: decreasing, > 0.

    Yields:
        (B, n, m) for each penalty.
    """
    completed = None
    for penalty in penalties:
        completed = soft_impute(x, mask, penalty, start=completed)
        yield completed


def choose_penalties(problems: Problems) -> list[float]:
    """A decreasing path of soft-impute penalties that ends at the one best for missing entries.

    Args:
        problems: completion problems other than those to be predicted.

    Returns:
        At most twelve penalties from the median of ‖x‖₂ on, each half of the one before; the last has the
        least squared error on the missing entries of these problems.
    """
    x, mask = _matrices(problems)
    largest = torch.linalg.matrix_norm(x, 2).median().item()
    penalties = [largest / 2**step for step in range(12)]
    squared_errors = [
        (1 - mask).flatten(1).mul(completed.flatten(1) - problems.y_star).square().sum().item()
        for completed in soft_impute_path(x, mask, penalties)
    ]
    return penalties[: np.argmin(squared_errors) + 1]


def _shrink_singular_values(A: Tensor, amount: float) -> Tensor:
    U, singular_values, Vh = torch.linalg.svd(A, full_matrices=False)
    return (U * (singular_values - amount).clamp(min=0).unsqueeze(-2)) @ Vh


def _matrices(problems: Problems) -> tuple[Tensor, Tensor]:
    mask = problems.meta["mask"]
    return problems.x.view_as(mask), mask


def baseline_predictions(
    spec: ProblemSpec, problems: Problems, seed: int, fit_count: int = 20_000
) -> dict[str, Tensor]:
    """Answers that need no energy model, each baseline in its strongest form.

    Args:
        spec: the distribution the baselines are fitted on; that of the problems, or, to judge a model outside
            its training distribution, the one it was trained on.
        problems: what to predict, B problems of the same task and size.
        seed: of the problems the baselines are fitted on, which are never those of `make_problems(…, seed)`.
        fit_count: how many problems to fit on.

    Returns:
        (B, d) each: `zero`; `mean`, the mean answer; `linear`, the best affine map of x; and for completion
        `copy`, the observed entries with 0 elsewhere, and `soft_impute` at the penalty best for missing
        entries (exact observations are kept as they are).

    Raises:
        TaskError: the two distributions differ in task or size, or fit_count is too small for the linear map.
    """
    if (spec.task, spec.n) != (problems.spec.task, problems.spec.n):
        raise TaskError(
            f"problems: found {problems.spec.task} with n={problems.spec.n}, allowed {spec.task} with "
            f"n={spec.n}; fit the baselines on the same task and size"
        )
    fit = draw_problems(spec, fit_count, _separate_generator(seed))
    predictions = {
        "zero": torch.zeros_like(problems.y_star),
        "mean": fit.y_star.mean(0).expand_as(problems.y_star),
        "linear": fit_linear(fit)(problems.x),
    }
    if spec.task == "completion":
        x, mask = _matrices(problems)
        *_, completed = soft_impute_path(x, mask, choose_penalties(fit[:TUNING_COUNT]))
        if problems.spec.noise == 0:
            completed = torch.where(mask == 1, x, completed)
        predictions["copy"] = problems.x
        predictions["soft_impute"] = completed.flatten(1)
    return predictions


def _separate_generator(seed: int) -> torch.Generator:
    """A generator whose stream is independent of the one that the same seed gives directly."""
    derived = np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(derived[0]))


@dataclass(frozen=True)
class Score:
    """The error of one predictor.

    Attributes:
        predictor: "model" or a baseline.
        entries: "all", "missing" or "observed".
        mse: mean squared error over these entries of all problems.
        stderr: its standard error, with problems as the independent units.
    """

    predictor: str
    entries: str
    mse: float
    stderr: float


@dataclass(frozen=True)
class Competence:
    """A model's error beside that of the baselines, on the same fresh problems.

    Attributes:
        spec: the distribution of the problems.
        count: how many there were.
        scores: every predictor on every kind of entry.
        deciding: the entries that decide, "missing" for completion and "all" otherwise.
        best_baseline: the baseline with the least MSE on the deciding entries.
        skill: the MSE of the best baseline over that of the model; above 1 the model is better.
        skill_lower: lower end of a one-sided 99 % confidence interval for `skill` (delta method on its log).
        shows_skill: the model's MSE is below the best baseline's by a paired one-sided z test at 99 %.
    """

    spec: ProblemSpec
    count: int
    scores: tuple[Score, ...]
    deciding: str
    best_baseline: str
    skill: float
    skill_lower: float
    shows_skill: bool

    def score(self, predictor: str, entries: str | None = None) -> Score:
        """The score of one predictor, on the deciding entries by default.

        Raises:
            TaskError: there is no such predictor or no such kind of entry.
        """
        entries = entries or self.deciding
        for score in self.scores:
            if (score.predictor, score.entries) == (predictor, entries):
                return score
        available = ", ".join(f"{score.predictor}/{score.entries}" for score in self.scores)
        raise TaskError(f"score: found {predictor}/{entries}, allowed {available}; choose one of these")

    def rows(self) -> list[dict]:
        """One row per predictor and kind of entry: predictor, entries, mse, stderr."""
        return [asdict(score) for score in self.scores]

    def sentence(self) -> str:
        """What the model can do, in one line that is fair to the baselines."""
        model, baseline = self.score(MODEL), self.score(self.best_baseline)
        quantity = "missing-entry MSE" if self.deciding == "missing" else "MSE"
        against = f"the best baseline ({BASELINE_NAMES[self.best_baseline]}, {baseline.mse:.3g})"
        if self.shows_skill:
            return (
                f"{quantity} {model.mse:.3g} ± {model.stderr:.1g} on {self.count:,} fresh problems, "
                f"{_times(self.skill)} times below {against}"
            )
        relation = "not significantly below" if model.mse < baseline.mse else "not below"
        return (
            f"no skill: {quantity} {model.mse:.3g} is {relation} {against}; "
            "read its landscape as a property of this network, not of the task"
        )


def competence(
    predict: Callable[[Tensor], Tensor],
    spec: ProblemSpec,
    count: int,
    seed: int,
    trained_on: ProblemSpec | None = None,
) -> Competence:
    """Scores a model and the baselines on the same fresh problems.

    Args:
        predict: the model's answer, (B, d_x) float64 → (B, d); by the official protocol, the value that the
            sampler returns with EMA weights.
        spec: the distribution to test on.
        count: number of fresh problems; the official evaluation uses 22 batches of 256. They are those of
            `make_problems` with this seed.
        seed: of the problems; those the baselines are fitted on come from an independent stream.
        trained_on: the model's training distribution, on which the baselines are then fitted too; `spec` by
            default.

    Returns:
        The scores and whether the model shows skill.

    Raises:
        TaskError: fewer than two problems, or predict returns the wrong shape or numbers that are not finite.
    """
    if count < 2:
        raise TaskError(f"count: found {count}, allowed ≥ 2; a standard error needs several problems")
    problems = draw_problems(spec, count, torch.Generator().manual_seed(seed))
    answers = {MODEL: _checked(predict(problems.x), problems)}
    answers |= baseline_predictions(trained_on or spec, problems, seed)
    counted = _entries(problems)
    deciding = "missing" if "missing" in counted else "all"
    squared_errors = {name: (answer - problems.y_star).square() for name, answer in answers.items()}
    scores = tuple(
        Score(name, entries, *_ratio(squares.mul(weight).sum(1), weight.sum(1)))
        for name, squares in squared_errors.items()
        for entries, weight in counted.items()
    )
    best = min(
        (score for score in scores if score.entries == deciding and score.predictor != MODEL),
        key=lambda score: score.mse,
    ).predictor
    weight = counted[deciding]
    model, baseline, mean_square = (squared_errors[name].mul(weight).sum(1) for name in (MODEL, best, "zero"))
    difference, stderr = _ratio(model - baseline, weight.sum(1))
    margin = max(QUANTILE * stderr, ROUNDING * (mean_square.sum() / weight.sum()).item())
    return Competence(
        spec, count, scores, deciding, best, *_skill(model, baseline), shows_skill=difference < -margin
    )


def _checked(answer: Tensor, problems: Problems) -> Tensor:
    answer = torch.as_tensor(answer).detach().to(problems.y_star)
    if answer.shape != problems.y_star.shape:
        raise TaskError(
            f"predict: found an answer of shape {tuple(answer.shape)}, allowed "
            f"{tuple(problems.y_star.shape)}; return one row-major flattened matrix per problem"
        )
    broken = (~answer.isfinite()).any(1).sum().item()
    if broken:
        raise TaskError(
            f"predict: found NaN or infinity in {broken} of {len(answer)} answers, allowed finite numbers; "
            "check the model's weights for divergence"
        )
    return answer


def _entries(problems: Problems) -> dict[str, Tensor]:
    """Which entries (B, d) of y* each kind of score counts, as 0 and 1."""
    counted = {"all": torch.ones_like(problems.y_star)}
    if "mask" in problems.meta:
        observed = problems.meta["mask"].flatten(1)
        counted |= {"missing": 1 - observed, "observed": observed}
    return counted


def _ratio(totals: Tensor, counts: Tensor) -> tuple[float, float]:
    """Σ totals / Σ counts over problems and its linearised standard error (Cochran 1977, ch. 6)."""
    ratio = totals.sum() / counts.sum()
    residuals = (totals - ratio * counts) / counts.mean()
    return ratio.item(), (residuals.std() / math.sqrt(len(totals))).item()


def _skill(model: Tensor, baseline: Tensor) -> tuple[float, float]:
    """The ratio Σ baseline / Σ model and its lower 99 % bound; infinite if the model makes no error."""
    if model.sum() == 0:
        return math.inf, math.inf
    if baseline.sum() == 0:
        return 0.0, 0.0
    skill = (baseline.sum() / model.sum()).item()
    log_stderr = (baseline / baseline.mean() - model / model.mean()).std().item() / math.sqrt(len(model))
    return skill, skill * math.exp(-QUANTILE * log_stderr)


def _times(factor: float) -> str:
    return f"{factor:.3g}" if factor < 1000 else f"{factor:,.0f}"
