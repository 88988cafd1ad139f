"""The tables of a course: what was measured at each snapshot, and when each mode was learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.course import (
    NO_ORACLE,
    Curvature,
    HeldOut,
    mean_square_error,
)
from iredinterp.analyses.implicit_bias.mode_tables import (
    NO_MODE,
    exponent_tables,
    measured_modes,
    time_tables,
)
from iredinterp.analyses.implicit_bias.weights import UNCHANGED, layers, weight_measures
from iredinterp.course_keys import CourseKeys
from iredinterp.energy import Energy
from iredinterp.ired.course import shortened, snapshot_steps, trained_states
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.training import Recipe
from iredinterp.tables import Metric, tidy

# Snapshots whose singular values are kept, evenly over the course.
SPECTRA = 6


def course_tables(
    recipe: Recipe,
    name: str,
    seeds: Sequence[int],
    oracle: Energy | None,
    *,
    snapshots: int = 40,
    problems: int = 256,
    hessian_problems: int = 8,
    levels: Sequence[int] = (9, 5, 0),
    steps: int | None = None,
    hidden: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    chunk: int = 64,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterable] = lambda states, description, total: states,
) -> tuple[pa.Table, pa.Table]:
    """Train a recipe anew and measure its networks on the way.

    Args:
        recipe: what to train.
        name: of the recipe; `model` and `family` of every row.
        seeds: one network each, trained together.
        oracle: the Bayes-optimal energy on `device`, float64; None where there is no computable one.
        snapshots: steps looked at, at most, step 0 among them.
        problems: held-out problems.
        hessian_problems: the first of them, at which Hessians are compared with the oracle's.
        levels: of these Hessians.
        steps: see `shortened`, and so are the next two.
        hidden: width.
        batch: problems per step.
        seed: of the held-out problems, first states, noise and random directions.
        chunk: problems or points at once; halved when memory runs out.
        device: where to train.
        progress: wraps the iterator of states to show how far it is.

    Returns:
        Metrics, one scalar per row, with the keys of `CourseKeys.rows`: answer_mse (component "missing" for
        the entries that x does not show; also of the averaged weights, "ema"), baseline_mse and
        baseline_missing_mse, hessian_error, those of `weight_measures` (component: layer), mode_share
        (component: directions, index: mode) and those of `exponent_tables`. And the mode times,
        see `time_tables`.

    Raises:
        ConfigError: fewer than 3 snapshots, or no such level.
        TrainingError: the training diverged.
    """
    recipe = shortened(recipe, steps, hidden, batch)
    at = snapshot_steps(recipe.steps, snapshots, "implicit_bias.course.snapshots")
    held_out = HeldOut.draw(recipe, problems, seed)
    curvature = Curvature.of(held_out.problems[:hessian_problems], levels, oracle, seed, chunk, device)
    keys = CourseKeys(recipe, name, tuple(seeds))
    kept = at[np.linspace(0, len(at) - 1, SPECTRA).round().astype(int)]
    schedule = cosine_schedule().to(torch.float32, device)
    tables, answers, initial = [], [], None
    states = trained_states(recipe, seeds, at, device)
    for state in progress(states, f"course of {name}", len(at)):
        step = state.step
        initial = initial or layers(state.raw)
        both = {key: torch.cat([state.raw[key], state.ema[key]]) for key in state.raw}
        raw, ema = held_out.answers(EnergyMLP(both, schedule), chunk).chunk(2)
        answers.append(raw)
        metrics = _error_metrics(raw, held_out) + _weight_metrics(layers(state.raw), initial, step in kept)
        tables.append(tidy(keys.rows(step), metrics))
        tables.append(tidy(keys.rows(step, weights="ema"), _error_metrics(ema, held_out)))
        error, stderr = (part.flatten() for part in curvature.errors(EnergyMLP(state.raw, schedule)))
        hessian = Metric("hessian_error", error, reason=NO_ORACLE, stderr=stderr)
        tables.append(tidy(keys.rows(step, levels=levels), [hessian]))
    shape = recipe.problems.shape
    right = held_out.problems.y_star.unflatten(-1, shape)
    shares, times = measured_modes(torch.stack(answers).unflatten(-1, shape), right, at, held_out.directions)
    for index, step in enumerate(at.tolist()):
        metrics = [Metric("mode_share", share[index], kind, NO_MODE) for kind, share in shares.items()]
        tables.append(tidy(keys.rows(step), metrics))
    tables += [*exponent_tables(times, keys), tidy(keys.rows(None, [None]), _baseline_metrics(held_out))]
    return pa.concat_tables(tables), pa.concat_tables(time_tables(times, keys))


def _error_metrics(answers: Tensor, held_out: HeldOut) -> list[Metric]:
    found = mean_square_error(answers, held_out.problems)
    return [Metric("answer_mse", mse, entries, stderr=stderr) for entries, (mse, stderr) in found.items()]


def _baseline_metrics(held_out: HeldOut) -> list[Metric]:
    return [
        Metric(
            f"baseline_{entries}_mse" if entries else "baseline_mse",
            torch.tensor([mse]),
            name,
            stderr=torch.tensor([stderr]),
        )
        for (name, entries), (mse, stderr) in held_out.baselines.items()
    ]


def _weight_metrics(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], spectra: bool
) -> list[Metric]:
    return [
        Metric(name, values, layer, UNCHANGED)
        for layer, weight in weights.items()
        for name, values in weight_measures(weight, initial[layer]).items()
        if spectra or not name.endswith("singular_value")
    ]
