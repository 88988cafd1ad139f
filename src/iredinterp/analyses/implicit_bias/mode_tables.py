"""From answers at the snapshots to mode times, exponents and their nulls, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.exponent import (
    FEW,
    NOTHING,
    ONE_SEED,
    Exponent,
    fit_exponent,
    median_time,
    over_seeds,
)
from iredinterp.analyses.implicit_bias.mode_times import Modes, mode_times, shuffled_within
from iredinterp.analyses.implicit_bias.names import RANDOM, SHUFFLED, SINGULAR, TURNED
from iredinterp.course_keys import CourseKeys
from iredinterp.tables import Metric, tidy

BINS = 8
NO_MODE = "no answer has this mode"
ONE_MODE = "answers have one mode each, so that there are no sizes to shuffle"
EMPTY = "no modes of this size"
NO_SEED = "no seed has an exponent"


@dataclass(frozen=True)
class Times:
    """When modes were learnt.

    Attributes:
        size: s, (P, r); 0 or NaN where there is no mode.
        lower: last snapshot before, (S, P, r).
        upper: first snapshot after, infinite where there is none, (S, P, r).
    """

    size: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def of_seed(self, index: int | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Size, lower and upper of all modes that there are, flat; of one seed, or of several pooled."""
        lower, upper = self.lower[index], self.upper[index]
        size = np.broadcast_to(self.size, lower.shape)
        there = (size > 0) & np.isfinite(lower)
        return size[there], lower[there], upper[there]


def measured_modes(
    answers: Tensor, right: Tensor, steps: np.ndarray, noise: Tensor
) -> tuple[dict[str, Tensor], dict[str, Times]]:
    """Shares of modes at the snapshots, and when modes were learnt, of singular directions and in the nulls.

    Args:
        answers: Ŷ, (K, S, P, n, m).
        right: Y*, (P, n, m).
        steps: (K,).
        noise: normal numbers, (P, `noise_size(n, m)`).

    Returns:
        Medians over problems of the shares, (K, S, r), by kind, and the times by kind. The shuffled sizes
        come with the times of the singular directions.
    """
    n, m = right.shape[1:]
    r = min(n, m)
    for_frame, for_directions, for_order = noise.split([n * m * r, (n + m) * r, r], dim=1)
    modes = Modes.singular(right, for_frame)
    others = modes.random(for_directions)
    shares = {
        SINGULAR: (modes.share(answers), modes.size),
        RANDOM: (others.share(answers), others.size.abs()),
        TURNED: (modes.turned_share(answers), modes.size),
    }
    times = {kind: Times(size.numpy(), *mode_times(share, steps)) for kind, (share, size) in shares.items()}
    singular, shuffled = times[SINGULAR], shuffled_within(modes.size, for_order).numpy()
    times[SHUFFLED] = Times(shuffled, singular.lower, singular.upper)
    return {kind: share.nanmedian(2).values for kind, (share, _) in shares.items()}, times


def noise_size(n: int, m: int) -> int:
    """Normal numbers per problem that `measured_modes` asks for."""
    return (n * m + n + m + 1) * min(n, m)


def exponent_tables(times: dict[str, Times], keys: CourseKeys) -> Iterator[pa.Table]:
    """Exponents per seed and over seeds, what they exceed the nulls by, and medians by size."""
    last = keys.recipe.steps
    fits = {
        kind: [fit_exponent(*of_kind.of_seed(index)) for index in range(len(keys.seeds))]
        for kind, of_kind in times.items()
    }
    for index, seed in enumerate(keys.seeds):
        metrics = []
        for kind, of_kind in times.items():
            metrics += _exponent(fits[kind][index], kind)
            if kind != SHUFFLED:
                metrics.append(_learnt(of_kind.of_seed(index)[2], kind))
        yield tidy(keys.rows(last, [seed]), metrics)
    metrics = []
    for kind, of_kind in times.items():
        alphas = np.array([fit.alpha for fit in fits[kind]])
        metrics += _over_seeds("exponent", alphas, kind)
        if kind != SINGULAR:
            of_modes = np.array([fit.alpha for fit in fits[SINGULAR]])
            metrics += _over_seeds("exponent_excess", of_modes - alphas, kind)
        if kind != SHUFFLED:
            metrics += _medians(*of_kind.of_seed(slice(None)), kind)
    yield tidy(keys.rows(last, [None]), metrics)


def time_tables(times: dict[str, Times], keys: CourseKeys) -> Iterator[pa.Table]:
    """A row per seed, problem and mode: directions, index, size, lower and upper bound in steps, reason."""
    for kind in (SINGULAR, RANDOM, TURNED):
        of_kind = times[kind]
        problems, r = of_kind.size.shape
        for index, seed in enumerate(keys.seeds):
            table = keys.rows(keys.recipe.steps, [seed]).take(pa.array(np.zeros(problems * r, np.int64)))
            lower, upper = (bound[index].ravel() for bound in (of_kind.lower, of_kind.upper))
            columns = {
                "problem_id": pa.array(np.repeat(np.arange(problems, dtype=np.int32), r)),
                "directions": pa.array([kind] * (problems * r), pa.string()),
                "index": pa.array(np.tile(np.arange(r, dtype=np.int32), problems)),
                "size": pa.array(of_kind.size.ravel()),
                "lower": pa.array(lower, from_pandas=True),
                "upper": pa.array(np.where(np.isinf(upper), np.nan, upper), from_pandas=True),
                "reason": pa.array(_reasons(lower, upper), pa.string()),
            }
            for name, column in columns.items():
                table = table.append_column(name, column)
            yield table


def _exponent(fit: Exponent, kind: str) -> list[Metric]:
    number = {"exponent": fit.alpha, "exponent_intercept": fit.intercept, "exponent_deviation": fit.deviation}
    stderr = {"exponent": torch.tensor([fit.stderr])}
    reason = ONE_MODE if kind == SHUFFLED and fit.reason == NOTHING else fit.reason
    return [
        Metric(name, torch.tensor([value]), kind, reason, stderr.get(name)) for name, value in number.items()
    ]


def _learnt(upper: np.ndarray, kind: str) -> Metric:
    share = np.isfinite(upper).mean() if len(upper) else np.nan
    return Metric("learnt_share", torch.tensor([share]), kind, NO_MODE)


def _over_seeds(name: str, values: np.ndarray, kind: str) -> list[Metric]:
    known = values[np.isfinite(values)]
    reason = ONE_SEED if len(known) else NO_SEED
    mean, stderr, low, high = over_seeds(known) if len(known) else (np.nan,) * 4
    return [
        Metric(f"{name}_mean", torch.tensor([mean]), kind, reason, torch.tensor([stderr])),
        Metric(f"{name}_low", torch.tensor([low]), kind, reason),
        Metric(f"{name}_high", torch.tensor([high]), kind, reason),
    ]


def _medians(size: np.ndarray, lower: np.ndarray, upper: np.ndarray, kind: str) -> list[Metric]:
    """Kaplan–Meier medians of all seeds together, in bins of equally many modes by size."""
    groups = np.array_split(np.argsort(size, kind="stable"), BINS)
    middles = [np.median(size[group]) if len(group) else np.nan for group in groups]
    medians = [median_time(lower[group], upper[group]) for group in groups]
    return [
        Metric("bin_size", torch.tensor([middles]), kind, EMPTY),
        Metric("median_mode_time", torch.tensor([medians]), kind, FEW),
    ]


def _reasons(lower: np.ndarray, upper: np.ndarray) -> list[str | None]:
    never = "never learnt"
    return [
        NO_MODE if np.isnan(low) else never if np.isinf(high) else None
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True)
    ]
