"""The exponent α of τ ∝ s^{−α} from mode times known to within two snapshots, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize
from torch import Tensor

NOTHING = "there are no modes"
UNLEARNT = "no mode was learnt between two snapshots"
AT_ONCE = "all modes that were learnt were learnt between the same two snapshots"
ALIKE = "the modes learnt between snapshots do not differ in size"
FEW = "fewer than half of these modes were learnt"
ONE_SEED = "there is one seed, and the spread over seeds is not known"
# Deviation of what is rounded to an interval, over its width: less than that is no deviation to speak of.
ROUNDING = 12**-0.5
SAME_SIZE = 1e-9


@dataclass(frozen=True)
class Exponent:
    """A censored log-normal regression, ln τ = a − α ln s + σ ε.

    Attributes:
        alpha: α̂; NaN where there is none.
        stderr: of α̂, from the observed information, as if modes were independent.
        intercept: â.
        deviation: σ̂.
        reason: why there is none, or empty.
    """

    alpha: float
    stderr: float
    intercept: float
    deviation: float
    reason: str = ""


def fit_exponent(size: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Exponent:
    """α by maximum likelihood.

    What never was learnt counts with the probability of a time past the last snapshot, what was learnt
    between two with that of a time between them. In the coordinates (a, α, 1)/σ the likelihood is
    log-concave, so that a maximum is the only one. Where all times lie on a line within their intervals, σ is
    held at the deviation of rounding to the narrowest of them, which the spacing of the snapshots imposes.

    Args:
        size: s, (N,), above 0; entries that are not finite are left out.
        lower: (N,), from 0 on.
        upper: (N,), infinite where a mode was never learnt.

    Source:
        Burridge 1981, JRSS B 43(1):41 (concavity for grouped data); Tobin 1958.
    """
    used = np.isfinite(size) & np.isfinite(lower)
    size, lower, upper = size[used], lower[used], upper[used]
    if not len(size):
        return _none(NOTHING)
    between = (lower > 0) & np.isfinite(upper)
    if not between.any():
        return _none(UNLEARNT)
    if len(np.unique(lower[between])) < 2:
        return _none(AT_ONCE)
    log_size = np.log(size)
    centre = log_size.mean()
    if np.ptp(log_size[between]) < SAME_SIZE:
        return _none(ALIKE)
    with np.errstate(divide="ignore"):
        low, high = np.log(lower), np.log(upper)
    data = tuple(torch.from_numpy(part) for part in (log_size - centre, low, high))
    floor = float(np.log((high - low)[between].min() * ROUNDING))
    known = np.where(np.isfinite(high), high, low)
    slope, intercept = np.polyfit(log_size - centre, known, 1)
    start = np.array([intercept, -slope, max(np.log(known.std()), floor)])
    best, information = _maximum(lambda p: log_likelihood(p, *data), start)
    if best[2] < floor:
        fixed = torch.tensor([floor], dtype=torch.float64)
        best, information = _maximum(lambda p: log_likelihood(torch.cat([p, fixed]), *data), start[:2])
        best = np.append(best, floor)
    stderr = float(np.sqrt(np.linalg.inv(information)[1, 1]))
    return Exponent(float(best[1]), stderr, float(best[0] + best[1] * centre), float(np.exp(best[2])))


def _maximum(terms: Callable[[Tensor], Tensor], start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the sum of the terms is largest, and the observed information there."""

    def loss(parameters: Tensor) -> Tensor:
        return -terms(parameters).mean()

    def at(function: Callable[[Tensor], Tensor], parameters: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(parameters)).numpy()

    slope, curvature = torch.func.grad(loss), torch.func.hessian(loss)
    best = minimize(
        lambda p: float(at(loss, p)),
        start,
        jac=lambda p: at(slope, p),
        hess=lambda p: at(curvature, p),
        method="trust-exact",
        options={"gtol": 1e-8},
    ).x
    return best, at(curvature, best) * len(terms(torch.from_numpy(best)))


def log_likelihood(parameters: Tensor, log_size: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log-probability of low < a − α ln s + σε ≤ high for each mode, (N,).

    Args:
        parameters: (3,): a, α, ln σ.
        log_size: ln s, (N,).
        low: (N,), −∞ where there is no lower bound.
        high: (N,), +∞ where there is no upper one.
    """
    mean, deviation = parameters[0] - parameters[1] * log_size, parameters[2].exp()
    below, above = low.isfinite(), high.isfinite()
    # Infinite bounds have no derivative, not even where it is not asked for.
    a = (low.where(below, 0) - mean) / deviation
    b = (high.where(above, 0) - mean) / deviation
    # Differences of small tails keep their digits, those of probabilities close to 1 do not.
    upper_tail = a + b > 0
    first = torch.where(upper_tail, -a, b)
    second = torch.where(upper_tail, -b, a).where(below & above, first - 1)
    log_first = torch.special.log_ndtr(first)
    ratio = torch.special.log_ndtr(second) - log_first
    within = log_first + torch.log(-torch.expm1(ratio))
    one_sided = torch.special.log_ndtr(torch.where(below, -a, b))
    return torch.where(below & above, within, one_sided)


def median_time(lower: np.ndarray, upper: np.ndarray) -> float:
    """Kaplan–Meier median of the first snapshot at which modes are learnt; NaN if fewer than half are.

    Args:
        lower: (N,), the last snapshot where a mode was never learnt.
        upper: (N,), infinite there.

    Source:
        Kaplan & Meier 1958.
    """
    learnt = np.isfinite(upper)
    if not learnt.any():
        return np.nan
    data = stats.CensoredData(upper[learnt], right=lower[~learnt])
    survival = stats.ecdf(data).sf
    reached = survival.probabilities <= 0.5
    return float(survival.quantiles[np.argmax(reached)]) if reached.any() else np.nan


def over_seeds(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Mean over seeds, its standard error and Student's interval; NaN but the mean with a single seed.

    Args:
        values: (S,), of seeds that have one.
        confidence: of the interval.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return mean, np.nan, np.nan, np.nan
    stderr = float(values.std(ddof=1) / np.sqrt(len(values)))
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * stderr
    return mean, stderr, mean - reach, mean + reach


def _none(reason: str) -> Exponent:
    return Exponent(np.nan, np.nan, np.nan, np.nan, reason)
