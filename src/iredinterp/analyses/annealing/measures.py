"""One metric table of what annealing does and earns, problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.annealing.arms import ROUNDING, arm_errors, arms_of, log_ratio
from iredinterp.analyses.annealing.calibration import answer_spread, calibration
from iredinterp.analyses.annealing.ledger import Values, ledger
from iredinterp.analyses.annealing.modes import (
    Directions,
    coarse_first_exponent,
    settled_level,
    singular_directions,
)
from iredinterp.analyses.annealing.names import (
    ANSWER,
    FULL,
    LEVELS,
    MEASURED,
    PREDICTED,
    RANDOM,
    RUNS,
    SINGULAR,
    TRAJECTORY,
)
from iredinterp.energy import Energy, map_chunks
from iredinterp.errors import ConfigError
from iredinterp.ired.sampler import sample
from iredinterp.points import normal_draws, point_keys
from iredinterp.tables import Metric, tensor_column, tidy

RELATIVE = "relative"
REASONS = {
    "error_reduction": "the answer is right to rounding before or after the level",
    "contraction": "the state did not move",
    "accept_disagreement": "a formula, not a network: its precision is not at issue",
    "relative_mode_error": "the singular value is zero",
    "coarse_first_exponent": "fewer than two different singular values, or an error within rounding",
    "settled_level": "the error exceeds the tolerance at the sharpest level, or the singular value is zero",
} | dict.fromkeys(
    ("calibration_slope", "calibration_r2", "calibration_rank", "wrong_answer_auroc"),
    "the answers or their errors do not differ",
)


def annealing_table(
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    *,
    block: slice = slice(None),
    runs: int = 8,
    krylov: int = 8,
    tolerance: float = 0.1,
    seed: int = 0,
    chunk: int = 64,
) -> pa.Table:
    """Runs of the released sampler, level by level, and what other ways through the levels end with.

    First states and noise depend on (seed, problem) alone, however problems are split; with the seed of the
    points, first states are theirs.

    Args:
        energy: the landscape.
        problems: a problems table.
        keys: values of `iredinterp.points.MODEL_KEYS`, constant over the table.
        block: rows of the problems to run.
        runs: R, first states per problem, at least 4; the calibration compares their answers, everything else
            is of the first.
        krylov: Lanczos steps for the largest curvature.
        tolerance: τ, relative error below which a direction counts as settled.
        seed: of first states, noise, random directions and the shuffled order.
        chunk: problems run at once.

    Returns:
        Metrics, long and tidy, null with a reason where undefined. Rows of kind "trajectory", one per level:

        * answer_error: ‖ŷ − y*‖²/d of the unscaled answer after the level; error_reduction: ln of that before
          over that after the level (before the first level: of the answer 0).
        * energy_change: ΔE at the level; moved: distance over σ_t√d. Components "jump", "inner steps".
        * contraction: 1 − hλ along the move, h = σ_t in the jump and η_t in the first inner step; components
          e.g. "jump, measured" (λ from the gradients at both ends) and "jump, predicted" (λ = mᵀHm/‖m‖² at
          its start), equal for a quadratic energy.
        * accept_rate of inner steps; accept_disagreement: share of these decisions that the network in its
          other precision (float32 for float64) takes otherwise at the same states; clamped: share of entries
          that met ±2, components as of energy_change; gradient_evaluations.
        * stability: 2η_tλ_max after the jump; above 2 the released inner steps overshoot and diverge.
        * estimate_error: RMS error of the jump's x̂₀, component "measured", beside a_tδ_t, "predicted", with
          a_t = σ_t/√ᾱ_t and δ_t the RMS error of ∇E as a noise estimate at a q_sample.
        * mode_error: e_i = |u_iᵀ(Ŷ − Y*)v_i|, index i, along the "singular" directions of Y* and along
          "random" ones; relative_mode_error: e_i/s_i. coarse_first_exponent: −d ln e_i/d ln s_i, components
          "" and "random"; "relative" and "random relative", the same of e_i/s_i, which is 1 more.

        Rows of kind "answer", one per problem (t = 0):

        * singular_value and settled_level, index i; the latter is max{t: e_i < τ s_i at all levels ≤ t},
          components "measured", "random" and "predicted" (e_i = a_tδ_t).
        * arm_error: ‖ŷ − y*‖²/d by arm; arm_log_ratio: ln of it over that of the full anneal, 0 where both
          are right to rounding; arm_evaluations: gradients spent.
        * over the answers of R runs (component "runs") and over those after every level of them ("levels"),
          at level 0: calibration_slope, 2σ_0 dE/d‖y − √ᾱ_0 y*‖², 1 for E = ‖y − √ᾱ_0 y*‖²/(2σ_0), and
          calibration_r2, which the largest errors dominate; calibration_rank, Spearman's ρ;
          wrong_answer_auroc, of E for the quarter of largest error. answer_spread: variance of the R answers
          per entry.

    Raises:
        ConfigError: fewer than four runs.

    Source:
        Sampler of the official release (commit 3d74b85). x̂₀ − y* = −a_t(∇E − ε) at a q_sample.
    """
    if runs < 4:
        raise ConfigError(f"annealing: runs: found {runs}, needs 4 to have a worst quarter; raise it")
    ids = problems["problem_id"].to_numpy()[block].tolist()
    x = tensor_column(problems, "x").flatten(1)[block].to(energy.device, energy.dtype)
    Y = tensor_column(problems, "y_star").double()[block].to(energy.device)
    n, m = Y.shape[1:]
    sizes = {"first_state": (runs, n * m), "q_sample": (1, n * m), "isotropic": (1, (n + m) * min(n, m))}
    first, noise, directions = (
        normal_draws(seed, use, ids, *size).to(energy.device) for use, size in sizes.items()
    )

    def measure(x: Tensor, Y: Tensor, first: Tensor, noise: Tensor, directions: Tensor):
        random = Directions.random(directions[:, 0], n, m)
        return _measured(energy, x, Y, first, noise[:, 0], random, krylov, tolerance, seed)

    parts = list(map_chunks(measure, (x, Y, first, noise, directions), chunk))
    by_level, of_answers = zip(*parts, strict=True)
    levels, answers = _joined(by_level, dim=1), _joined(of_answers, dim=0)
    schedule = energy.schedule
    tables = []
    for index, t in enumerate(reversed(range(schedule.levels))):
        here = point_keys(keys, ids, t, float(schedule.sigma[t]), TRAJECTORY, [0] * len(ids))
        tables.append(tidy(here, _metrics({key: value[index] for key, value in levels.items()})))
    here = point_keys(keys, ids, 0, float(schedule.sigma[0]), ANSWER, [0] * len(ids))
    return pa.concat_tables([*tables, tidy(here, _metrics(answers))])


def _joined(parts: Sequence[Values], dim: int) -> Values:
    return {key: torch.cat([part[key] for part in parts], dim) for key in parts[0]}


def _metrics(values: Values) -> list[Metric]:
    return [
        Metric(metric, value, component, REASONS.get(metric, ""))
        for (metric, component), value in values.items()
    ]


def _measured(
    energy: Energy,
    x: Tensor,
    Y: Tensor,
    first: Tensor,
    noise: Tensor,
    random: Directions,
    krylov: int,
    tolerance: float,
    seed: int,
) -> tuple[Values, Values]:
    """Values by level, (K, B) or (K, B, r), and of answers, (B,) or (B, r)."""
    y_star, more = Y.flatten(1), first.shape[1] - 1
    # The first run of each problem is looked at in detail.
    run = sample(energy, x, init=first[:, 0])
    others = sample(energy, x.repeat_interleave(more, 0), init=first[:, 1:].flatten(0, 1))
    found = torch.cat([run.answers[:, None], others.answers.unflatten(1, (-1, more)).movedim(2, 1)], 1)
    levels = ledger(energy, x, y_star, run, noise, krylov, seed)
    by_mode, of_answers = _modes(run.answers, Y, random, levels["estimate_error", PREDICTED], tolerance)
    answers = of_answers | _arms(energy, x, y_star, first[:, 0], levels["answer_error", ""][-1], seed)
    answers |= calibration(energy, x, y_star, found[-1], RUNS)
    answers |= calibration(energy, x, y_star, found.flatten(0, 1), LEVELS)
    answers["answer_spread", ""] = answer_spread(found[-1])
    return levels | by_mode, answers


def _modes(
    answers: Tensor, Y: Tensor, random: Directions, predicted: Tensor, tolerance: float
) -> tuple[Values, Values]:
    s, singular = singular_directions(Y)
    difference = answers.double().unflatten(-1, Y.shape[1:]) - Y
    smallest = ROUNDING * Y.flatten(1).square().mean(1).sqrt()
    levels, of_answers = {}, {("singular_value", ""): s}
    named = ((SINGULAR, "", MEASURED, singular), (RANDOM, RANDOM, RANDOM, random))
    for name, exponent, settled, directions in named:
        errors = directions.errors(difference)
        levels["mode_error", name] = errors
        levels["relative_mode_error", name] = (errors / s).where(s > 0, torch.nan)
        slope = coarse_first_exponent(errors, s, smallest)
        levels["coarse_first_exponent", exponent] = slope
        levels["coarse_first_exponent", f"{exponent} {RELATIVE}".strip()] = slope + 1
        of_answers["settled_level", settled] = settled_level(errors, s, tolerance)
    expected = predicted[..., None].expand_as(errors)
    of_answers["settled_level", PREDICTED] = settled_level(expected, s, tolerance)
    return levels, of_answers


def _arms(energy: Energy, x: Tensor, y_star: Tensor, first: Tensor, full: Tensor, seed: int) -> Values:
    arms = arms_of(energy.schedule.levels, seed)
    others = {name: arm for name, arm in arms.items() if name != FULL}
    errors = {FULL: full} | arm_errors(energy, x, y_star, first, others)
    values = {}
    for name, error in errors.items():
        values["arm_error", name] = error
        values["arm_log_ratio", name] = log_ratio(error, full, y_star)
        values["arm_evaluations", name] = torch.full_like(error, arms[name].evaluations)
    return values
