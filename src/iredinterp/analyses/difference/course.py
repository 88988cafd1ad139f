"""From which training step on a network has the properties of the optimum, seed by seed.

A property is a deviation from the Bayes-optimal energy that stays within a tolerance. It has appeared at the
first snapshot from which on it holds at every later one: what comes and goes has not appeared yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.difference.landscapes import shared_starts
from iredinterp.analyses.difference.names import NEVER, PROPERTIES
from iredinterp.course_keys import CourseKeys
from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.course import shortened, snapshot_steps, trained_states
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import draw_problems
from iredinterp.ired.training import Recipe
from iredinterp.linalg import inertia, zero_tolerance
from iredinterp.minima import posterior_variance, resolution, search
from iredinterp.points import normal_draws, q_sample
from iredinterp.ranges import require_levels
from iredinterp.tables import Metric, tidy

NO_ORACLE = "no computable Bayes-optimal energy for these problems"
NOT_OPTIMAL = "the optimum itself does not have this property at this level"
# Of the seed of the problems, so that no training seed draws the same ones.
STREAM = 9


@dataclass(frozen=True)
class Searching:
    """How minima are searched in a course.

    Args:
        starts: noised answers per problem and level, and as many draws of pure noise.
        radius: minima closer than this times σ_t√d are one.
        spurious: a minimum further than this from √ᾱ_t y* is spurious, in units of the typical distance of y
            from √ᾱ_t E[y₀|x] at its level.
        tolerance: on ‖∇_yE‖₂.
        steps: Newton steps at most.
        chunk: points in memory at once.
    """

    starts: int = 2
    radius: float = 0.01
    spurious: float = 0.5
    tolerance: float = 1e-6
    steps: int = 30
    chunk: int = 256


@dataclass(frozen=True)
class Probe:
    """Held-out points of P problems at L levels, one level after the other, and what the optimum is there.

    Attributes:
        levels: L of them.
        x: (LP, d_x), float64.
        y: q_samples, (LP, d).
        t: (LP,).
        starts: of searches, (LP, S, d).
        answers: √ᾱ_t y*, (LP, d).
        sigma: σ_t, (LP,).
        width: typical distance of y from √ᾱ_t E[y₀|x], (LP,).
        gradient: ∇_yE*, (LP, d); NaN without an optimum, as the next one.
        hessian: ∇²_yE*, (LP, d, d).
        searching: how minima are searched.
    """

    levels: tuple[int, ...]
    x: Tensor
    y: Tensor
    t: Tensor
    starts: Tensor
    answers: Tensor
    sigma: Tensor
    width: Tensor
    gradient: Tensor
    hessian: Tensor
    searching: Searching

    @classmethod
    def draw(
        cls,
        recipe: Recipe,
        count: int,
        levels: Sequence[int],
        oracle: Energy | None,
        seed: int,
        searching: Searching,
        device: torch.device | str = "cpu",
    ) -> Probe:
        """Those of the recipe's problems and a seed.

        Raises:
            ConfigError: no such level.
        """
        schedule = cosine_schedule().to(torch.float64, device)
        require_levels("difference.course", levels, schedule.levels)
        problems = draw_problems(recipe.problems, count, torch.Generator().manual_seed(seed * 10 + STREAM))
        x, y_star = (part.double().to(device) for part in (problems.x, problems.y_star))
        d, ids = y_star.shape[1], list(range(count))
        noise = normal_draws(seed, "q_sample", ids, 1, d)[:, 0].to(y_star)
        y = torch.cat([q_sample(y_star, t, noise, schedule) for t in levels])
        t = torch.tensor(levels, device=device).repeat_interleave(count)
        many, scale, sigma = x.repeat(len(levels), 1), schedule.sqrt_alphas_cumprod[t], schedule.sigma[t]
        gradient, hessian = torch.full_like(y, torch.nan), y.new_full((*y.shape, d), torch.nan)
        if oracle is not None:
            gradient, hessian = oracle.gradient(many, y, t), oracle.hessian(many, y, t)
        variance = posterior_variance(oracle, x, searching.chunk).repeat(len(levels))
        return cls(
            tuple(levels),
            many,
            y,
            t,
            shared_starts(y_star, ids, list(levels), schedule, searching.starts, seed),
            scale.unsqueeze(1) * y_star.repeat(len(levels), 1),
            sigma,
            resolution(sigma, scale, variance, d),
            gradient,
            hessian,
            searching,
        )

    def deviations(self, energy: Energy) -> dict[str, Tensor]:
        """How far an energy is from having each property, by name of the property, (L,) each.

        * gradient: mean ‖∇E − ∇E*‖/‖∇E*‖ over problems; hessian: mean ‖H − H*‖_F/‖H*‖_F; isotropy: mean
          distance of ‖σ_tH − I‖_F/√d from that of H*.
        * inertia: share of the points at which numbers of positive, zero and negative eigenvalues are not
          those of H*.
        * single: share of the landscapes whose searches do not all end in one minimum.
        * right: share of those in which no minimum was found that is not spurious.
        """
        hessian = energy.hessian(self.x, self.y, self.t)
        unknown = self.hessian.isnan().flatten(1).any(1)
        differs = (_signs(hessian) != _signs(self.hessian)).any(1)
        defects = [_isotropy_defect(each, self.sigma) for each in (hessian, self.hessian)]
        slope = energy.gradient(self.x, self.y, self.t)
        found = self._search(energy)
        away = (found.y - self.answers.unsqueeze(1)).norm(dim=2) / self.width.unsqueeze(1)
        points = {
            "gradient": (slope - self.gradient).norm(dim=1) / self.gradient.norm(dim=1),
            "hessian": (hessian - self.hessian).norm(dim=(1, 2)) / self.hessian.norm(dim=(1, 2)),
            "isotropy": (defects[0] - defects[1]).abs(),
            "inertia": differs.double().masked_fill(unknown, torch.nan),
            "single": ~((found.distinct.sum(1) == 1) & found.converged.all(1)),
            "right": ~(found.distinct & (away <= self.searching.spurious)).any(1),
        }
        return {
            which: points[which].double().unflatten(0, (len(self.levels), -1)).mean(1).cpu()
            for which in PROPERTIES
        }

    def _search(self, energy: Energy):
        how = self.searching
        radius = how.radius * self.sigma * self.y.shape[1] ** 0.5
        return search(energy, self.x, self.starts, self.t, radius, how.tolerance, how.steps, how.chunk)


def course_table(
    recipe: Recipe,
    name: str,
    seeds: Sequence[int],
    oracle: Energy | None,
    *,
    tolerances: Mapping[str, float],
    snapshots: int = 20,
    problems: int = 8,
    levels: Sequence[int] = (9, 5, 0),
    steps: int | None = None,
    hidden: int | None = None,
    batch: int | None = None,
    starts: int = 2,
    search_steps: int = 30,
    seed: int = 0,
    chunk: int = 256,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterable] = lambda states, description, total: states,
) -> pa.Table:
    """Train a recipe anew and tell when the networks of its seeds get the properties of the optimum.

    Args:
        recipe: what to train.
        name: of the recipe; `model` and `family` of every row.
        seeds: one network each, trained together.
        oracle: the Bayes-optimal energy of the recipe's problems, float64, if there is one.
        tolerances: by property, one of `PROPERTIES`: on its deviation, see `Probe.deviations`.
        snapshots: steps looked at, at most, step 0 among them.
        problems: held-out problems.
        levels: t looked at.
        steps: see `shortened`, and so are the next two.
        hidden: width.
        batch: problems per step.
        starts: see `Searching`.
        search_steps: Newton steps of a search at most.
        seed: of held-out problems, noise and starts.
        chunk: points in memory at once.
        device: where to train.
        progress: wraps the iterator of states to show how far it is.

    Returns:
        Metrics, one scalar per row, with the keys of `CourseKeys.rows` and a property as component:

        * deviation: per step, seed and level, of the raw weights.
        * optimum_deviation, per level: of the optimum itself; tolerance.
        * first_step, per seed and level: the first snapshot from which on the deviation is within tolerance
          at every snapshot; null with the reason if it is not at the last, if the optimum itself is not, or
          if there is no optimum.

    Raises:
        ConfigError: fewer than 3 snapshots, no such level, or tolerances of other properties.
        TrainingError: the training diverged.
    """
    if set(tolerances) != set(PROPERTIES):
        raise ConfigError(
            f"difference.course.tolerances: found {', '.join(sorted(tolerances))}; give one for each of "
            f"{', '.join(PROPERTIES)}"
        )
    recipe = shortened(recipe, steps, hidden, batch)
    at = snapshot_steps(recipe.steps, snapshots, "difference.course.snapshots")
    searching = Searching(starts=starts, steps=search_steps, chunk=chunk)
    probe = Probe.draw(recipe, problems, levels, oracle, seed, searching, device)
    keys, tables, found = CourseKeys(recipe, name, tuple(seeds)), [], []
    for state in progress(trained_states(recipe, seeds, at, device), f"properties of {name}", len(at)):
        here = [probe.deviations(_network(state.raw, index)) for index in range(len(seeds))]
        found.append({which: torch.stack([each[which] for each in here]) for which in PROPERTIES})
        metrics = [Metric("deviation", found[-1][which].flatten(), which, NO_ORACLE) for which in PROPERTIES]
        tables.append(tidy(keys.rows(state.step, levels=levels), metrics))
    nothing = torch.full((len(levels),), torch.nan, dtype=torch.float64)
    best = dict.fromkeys(PROPERTIES, nothing) if oracle is None else probe.deviations(oracle)
    of_optimum = [
        metric
        for which in PROPERTIES
        for metric in (
            Metric("optimum_deviation", best[which], which, NO_ORACLE),
            Metric("tolerance", torch.full_like(nothing, tolerances[which]), which),
        )
    ]
    tables.append(tidy(keys.rows(None, [None], levels), of_optimum))
    for index, level in enumerate(levels):
        metrics = [
            _first_step(
                which,
                torch.stack([snapshot[which][:, index] for snapshot in found]),
                at,
                tolerances[which],
                best[which][index],
            )
            for which in PROPERTIES
        ]
        tables.append(tidy(keys.rows(None, levels=[level]), metrics))
    return pa.concat_tables(tables)


def first_lasting(holds: Tensor) -> Tensor:
    """First position from which on something holds to the end, for holds (T, ...) bool: (...), T if never."""
    lasting = holds.flip(0).int().cummin(0).values
    return len(holds) - lasting.sum(0)


def _first_step(which: str, deviation: Tensor, at: np.ndarray, tolerance: float, best: Tensor) -> Metric:
    """The step of each seed from which on deviations (T, S) stay within tolerance."""
    nothing = deviation.new_full((deviation.shape[1],), torch.nan)
    if best.isnan():
        return Metric("first_step", nothing, which, NO_ORACLE)
    if best > tolerance:
        return Metric("first_step", nothing, which, NOT_OPTIMAL)
    steps = torch.cat([torch.from_numpy(at).double(), nothing.new_full((1,), torch.nan)])
    return Metric("first_step", steps[first_lasting(deviation <= tolerance)], which, NEVER)


def _network(stack: Mapping[str, Tensor], index: int) -> MLPEnergy:
    parameters = {name: value[index].double() for name, value in stack.items()}
    schedule = cosine_schedule().to(torch.float64, parameters["fc1.weight"].device)
    return MLPEnergy(EnergyMLP(parameters, schedule))


def _signs(hessian: Tensor) -> Tensor:
    """Numbers of positive, zero and negative eigenvalues, (B, 3)."""
    eigenvalues = torch.linalg.eigvalsh(hessian.nan_to_num())
    return torch.stack(inertia(eigenvalues, zero_tolerance(eigenvalues)), dim=1)


def _isotropy_defect(hessian: Tensor, sigma: Tensor) -> Tensor:
    """‖σ_tH − I‖_F/√d, (B,)."""
    d = hessian.shape[1]
    identity = torch.eye(d, dtype=hessian.dtype, device=hessian.device)
    return (sigma[:, None, None] * hessian - identity).norm(dim=(1, 2)) / d**0.5
