"""Whether the energy of an answer knows its error: several answers to one problem, all judged at level 0."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.analyses.annealing.arms import ROUNDING
from iredinterp.analyses.annealing.ledger import Values
from iredinterp.energy import Energy


def calibration(energy: Energy, x: Tensor, y_star: Tensor, answers: Tensor, name: str) -> Values:
    """Energy differences of C answers to each problem against their squared errors.

    Args:
        energy: the landscape, looked at on level 0.
        x: (B, d_x).
        y_star: (B, d) float64.
        answers: (C, B, d), unscaled.
        name: component of the results.

    Returns:
        calibration_slope, calibration_r2, calibration_rank and wrong_answer_auroc, (B,) each, see
        `iredinterp.analyses.annealing.annealing_table`; NaN where answers or errors differ by rounding alone.
    """
    scale, sigma = (getattr(energy.schedule, key)[0].double() for key in ("sqrt_alphas_cumprod", "sigma"))
    y = scale * answers.double()
    values = energy.energy(x.repeat(len(y), 1), y.flatten(0, 1).to(x), 0).double().reshape(y.shape[:2])
    errors = (y - scale * y_star).square().sum(-1)
    # Where runs end in one answer, what is left between them is rounding of the sampler.
    rounding = max(ROUNDING, 1000 * torch.finfo(x.dtype).eps)
    alike = (answer_spread(answers).sqrt() <= rounding * y_star.square().mean(-1).sqrt()) | (
        errors.std(0) <= ROUNDING * errors.mean(0)
    )
    slope, correlation = slope_and_correlation(errors, values)
    found = {
        "calibration_slope": 2 * sigma * slope,
        "calibration_r2": correlation.square(),
        "calibration_rank": slope_and_correlation(ranks(errors), ranks(values))[1],
        "wrong_answer_auroc": worst_quarter_auroc(errors, values),
    }
    return {(metric, name): value.masked_fill(alike, torch.nan) for metric, value in found.items()}


def slope_and_correlation(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares slope of y on x over the first axis, (C, B) → (B,), and Pearson's r, 0 for constant y."""
    x, y = x - x.mean(0), y - y.mean(0)
    product, square, total = (x * y).sum(0), x.square().sum(0), y.square().sum(0)
    return product / square, (product / (square * total).sqrt()).where(total > 0, 0)


def ranks(values: Tensor) -> Tensor:
    """Ranks over the first axis, (C, B) float64, ties sharing their mean."""
    here, other = values.unsqueeze(1), values.unsqueeze(0)
    return (other < here).double().sum(1) + ((other == here).double().sum(1) - 1) / 2


def worst_quarter_auroc(errors: Tensor, scores: Tensor) -> Tensor:
    """P(score of a wrong answer > score of another), ties half, (C, B) → (B,).

    Wrong are the quarter of the C answers of largest error, at least one.
    """
    wrong = max(1, len(errors) // 4)
    ordered = scores.gather(0, errors.argsort(dim=0))
    higher, lower = ordered[-wrong:].unsqueeze(1), ordered[:-wrong].unsqueeze(0)
    return ((higher > lower).double() + (higher == lower).double() / 2).mean((0, 1))


def answer_spread(answers: Tensor) -> Tensor:
    """Variance per entry over the answers (C, B, d) to one problem, (B,)."""
    return answers.double().var(0).mean(-1)
