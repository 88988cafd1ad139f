"""How the kernel of the gradient field moves while a recipe is trained anew, and whether that matters.

A kernel that stands still makes training a linear regression on fixed features. Two measures of how far it is
from that: how much the kernel turns, and how well the field after some steps is foretold by linearising it in
the parameters before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.ntk.alignment import LEAST, debiased_alignment
from iredinterp.analyses.ntk.block import Sampling, spectral_shape
from iredinterp.analyses.ntk.factors import Points
from iredinterp.analyses.ntk.kernels import gradient_kernel_trace
from iredinterp.analyses.ntk.names import FIRST, KERNEL, LAST
from iredinterp.course_keys import CourseKeys
from iredinterp.ired.course import shortened, snapshot_steps, trained_states
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import Schedule, cosine_schedule
from iredinterp.ired.tasks import draw_problems
from iredinterp.ired.training import Recipe
from iredinterp.points import normal_draws, q_sample
from iredinterp.ranges import require_least, require_levels
from iredinterp.tables import Metric, tidy

NO_KERNEL = "the kernel is zero or not finite"
CONSTANT = "a kernel or the target is constant over problems"
NOTHING_BEFORE = "no earlier snapshot, or nothing has changed since"
# Of the seed of the held-out problems, so that no training seed draws the same ones.
STREAM = 8
# Changes of the gradient field below this share of it are rounding.
ROUNDING = 1e-12

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """Held-out q_samples at which the kernels of a course are taken, P at each of L levels.

    Attributes:
        levels: L of them.
        points: L·P, one level after the other, float64.
        noise: ε, (L·P, d).
        schedule: of the network, float64.
        sampling: directions of the traces.
    """

    levels: tuple[int, ...]
    points: Points
    noise: Tensor
    schedule: Schedule
    sampling: Sampling

    @classmethod
    def draw(
        cls,
        recipe: Recipe,
        count: int,
        levels: Sequence[int],
        sampling: Sampling,
        device: torch.device | str = "cpu",
    ) -> Probe:
        """Those of the recipe's problems and the seed of the sampling.

        Raises:
            ConfigError: no such level, or fewer than 4 problems.
        """
        schedule = cosine_schedule()
        require_levels("ntk.course", levels, schedule.levels)
        require_least("ntk.course", {"problems": LEAST}, {"problems": count})
        seed = sampling.seed
        problems = draw_problems(recipe.problems, count, torch.Generator().manual_seed(seed * 10 + STREAM))
        noise = normal_draws(seed, "q_sample", range(count), 1, recipe.problems.dim_y)[:, 0]
        y = torch.cat([q_sample(problems.y_star.double(), t, noise, schedule) for t in levels])
        t = torch.tensor(levels).repeat_interleave(count)
        x = problems.x.double().repeat(len(levels), 1)
        points = Points(*(part.to(device) for part in (x, y, t)))
        noise = noise.repeat(len(levels), 1).to(device)
        return cls(tuple(levels), points, noise, schedule.to(torch.float64, device), sampling)

    def field(self, parameters: Parameters) -> Tensor:
        """∇_yE at the points, (L·P, d)."""
        return EnergyMLP(parameters, self.schedule).energy_and_gradient(*self.points)[1]

    def kernels(self, parameters: Parameters) -> Tensor:
        """Traces of Θ_g between the problems of each level, (L, P, P)."""
        model = EnergyMLP(parameters, self.schedule)
        directions = self.sampling.directions(model, self.points)
        parts = (part.chunk(len(self.levels)) for part in self.points)
        traces = [
            gradient_kernel_trace(model, Points(*part), directions=directions).value
            for part in zip(*parts, strict=True)
        ]
        return torch.stack(traces)

    def residuals(self, parameters: Parameters) -> Tensor:
        """Gram matrices of ε − g at each level, (L, P, P)."""
        residual = (self.noise - self.field(parameters)).unflatten(0, (len(self.levels), -1))
        return residual @ residual.mT


def linearisation_error(
    field: Callable[[Parameters], Tensor], before: Parameters, after: Parameters, groups: int = 1
) -> Tensor:
    """‖f(θ + δ) − f_lin‖/‖f(θ + δ) − f(θ)‖, f_lin = f(θ) + ∂_θf δ: 0 where f is linear in θ.

    Args:
        field: f, parameters → (groups·P, d).
        before: θ, by name.
        after: θ + δ.
        groups: of consecutive rows, each with a norm of its own.

    Returns:
        (groups,), NaN where f does not change.
    """
    step = {name: after[name] - before[name] for name in before}
    here, tangent = torch.func.jvp(field, (dict(before),), (step,))
    change = field(after) - here
    norm, missed = (part.unflatten(0, (groups, -1)).norm(dim=(1, 2)) for part in (change, change - tangent))
    size = here.unflatten(0, (groups, -1)).norm(dim=(1, 2))
    return (missed / norm).masked_fill(norm <= ROUNDING * size, torch.nan)


def course_table(
    recipe: Recipe,
    name: str,
    seeds: Sequence[int],
    *,
    snapshots: int = 30,
    problems: int = 32,
    levels: Sequence[int] = (9, 5, 0),
    steps: int | None = None,
    hidden: int | None = None,
    batch: int | None = None,
    exact_below: int = 100,
    probes: int = 16,
    deflated: int = 8,
    pilots: int = 2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterable] = lambda states, description, total: states,
) -> pa.Table:
    """Train a recipe anew and follow the kernel of its gradient field.

    Args:
        recipe: what to train.
        name: of the recipe; `model` and `family` of every row.
        seeds: one network each, trained together.
        snapshots: steps looked at, at most, step 0 among them.
        problems: held-out problems P.
        levels: at which kernels are taken, each by itself.
        steps: see `shortened`, and so are the next two.
        hidden: width.
        batch: problems per step.
        exact_below: see `Sampling`, and so are the next three.
        probes: random directions.
        deflated: directions summed exactly.
        pilots: points that give these.
        seed: of held-out problems, noise and probes.
        device: where to train.
        progress: wraps the iterator of states to show how far it is.

    Returns:
        Metrics, one scalar per row, with the keys of `CourseKeys.rows`: a row per step, seed and level of the
        raw weights. Component g: trace (mean over problems), frobenius, effective_rank. Component
        "g residual": alignment, debiased CKA with the Gram matrix of ε − g. Components "since the last
        snapshot" and "since step 0": kernel_change, 1 − debiased CKA of the kernel with the earlier one, and
        linearisation_error of the field from the earlier weights.

    Raises:
        ConfigError: fewer than 3 snapshots or 4 problems, or no such level.
        TrainingError: the training diverged.
    """
    recipe = shortened(recipe, steps, hidden, batch)
    at = snapshot_steps(recipe.steps, snapshots, "ntk.course.snapshots")
    sampling = Sampling(exact_below, probes, deflated, pilots, seed)
    probe = Probe.draw(recipe, problems, levels, sampling, device)
    keys = CourseKeys(recipe, name, tuple(seeds))
    tables, first, last = [], None, None
    for state in progress(trained_states(recipe, seeds, at, device), f"kernels of {name}", len(at)):
        here = [_Snapshot.of(probe, state.raw, index) for index in range(len(seeds))]
        earlier = {LAST: last or [None] * len(seeds), FIRST: first or [None] * len(seeds)}
        found = [
            snapshot.measures(probe, {which: those[index] for which, those in earlier.items()})
            for index, snapshot in enumerate(here)
        ]
        metrics = [
            Metric(metric, torch.cat([values[metric, component] for values in found]), component, reason)
            for (metric, component), reason in _REASONS.items()
        ]
        tables.append(tidy(keys.rows(state.step, levels=levels), metrics))
        first, last = first or here, here
    return pa.concat_tables(tables)


_REASONS = {
    ("trace", KERNEL): NO_KERNEL,
    ("frobenius", KERNEL): NO_KERNEL,
    ("effective_rank", KERNEL): NO_KERNEL,
    ("alignment", f"{KERNEL} residual"): CONSTANT,
    ("kernel_change", LAST): NOTHING_BEFORE,
    ("kernel_change", FIRST): NOTHING_BEFORE,
    ("linearisation_error", LAST): NOTHING_BEFORE,
    ("linearisation_error", FIRST): NOTHING_BEFORE,
}


@dataclass(frozen=True)
class _Snapshot:
    """Weights of one network, float64, and its kernels, (L, P, P)."""

    parameters: Parameters
    kernels: Tensor

    @classmethod
    def of(cls, probe: Probe, stack: Parameters, index: int) -> _Snapshot:
        parameters = {name: value[index].double() for name, value in stack.items()}
        return cls(parameters, probe.kernels(parameters))

    def measures(
        self, probe: Probe, earlier: Mapping[str, _Snapshot | None]
    ) -> dict[tuple[str, str], Tensor]:
        """Each (L,), by metric and component."""
        shape = spectral_shape(self.kernels, 1)
        residuals = probe.residuals(self.parameters)
        values = {
            ("trace", KERNEL): self.kernels.diagonal(dim1=1, dim2=2).mean(-1),
            ("frobenius", KERNEL): shape["frobenius"],
            ("effective_rank", KERNEL): shape["effective_rank"],
            ("alignment", f"{KERNEL} residual"): debiased_alignment(self.kernels, residuals),
        }
        nothing = torch.full_like(shape["frobenius"], torch.nan)
        for which, before in earlier.items():
            change = error = nothing
            if before is not None:
                change = 1 - debiased_alignment(self.kernels, before.kernels)
                error = linearisation_error(
                    probe.field, before.parameters, self.parameters, len(probe.levels)
                )
            values["kernel_change", which] = change
            values["linearisation_error", which] = error
        return values
