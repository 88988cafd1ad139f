"""A course: one recipe trained anew, looked at on the way.

The weights looked at are the raw ones. Their running average lags behind by some 1/(1 − decay) steps, and
would put that lag into every time measured; its error is kept beside theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.mode_tables import noise_size
from iredinterp.energy import Energy, MLPEnergy, map_chunks
from iredinterp.ired.competence import baseline_predictions
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import Problems, draw_problems
from iredinterp.ired.training import Recipe
from iredinterp.points import normal_draws, q_sample
from iredinterp.ranges import require_levels

NO_ORACLE = "no computable Bayes-optimal energy for these problems"
# Of the seed of a course, so that no training seed draws the same problems.
STREAM = 7


@dataclass(frozen=True)
class HeldOut:
    """Problems that no step of the training sees, with what the sampler and the Hessians need.

    Attributes:
        problems: P problems.
        init: first states of the sampler, (P, d), float32.
        directions: normal numbers for random directions, (P, ·), float64.
        baselines: MSE of predictors without a network, by name and kind of entry: value and stderr.
    """

    problems: Problems
    init: Tensor
    directions: Tensor
    baselines: dict[tuple[str, str], tuple[float, float]]

    @classmethod
    def draw(cls, recipe: Recipe, count: int, seed: int) -> HeldOut:
        """Those of a seed; depends on the recipe's problems alone."""
        words = np.random.SeedSequence(seed, spawn_key=(STREAM,)).generate_state(1, np.uint64)
        problems = draw_problems(recipe.problems, count, torch.Generator().manual_seed(int(words[0] >> 1)))
        widths = {"first_state": recipe.problems.dim_y, "isotropic": noise_size(*recipe.problems.shape)}
        init, directions = (
            normal_draws(seed, use, range(count), 1, width)[:, 0] for use, width in widths.items()
        )
        predicted = baseline_predictions(recipe.problems, problems, seed)
        found = {
            (name, entries): tuple(map(float, error))
            for name, answers in predicted.items()
            for entries, error in mean_square_error(answers, problems).items()
        }
        return cls(problems, init.float(), directions, found)

    def answers(self, networks: EnergyMLP, chunk: int) -> Tensor:
        """Ŷ, the sampler's unscaled answers of a stack of networks, (S, P, d), float64 on the CPU.

        Args:
            networks: float32, as trained.
            chunk: problems run at once; halved when memory runs out.
        """
        stack = len(networks.parameters["fc1.weight"])

        def run(x: Tensor, init: Tensor) -> Tensor:
            x, init = (part.to(networks.device).expand(stack, -1, -1) for part in (x, init))
            return sample(networks, x, init=init).answers[-1].double().cpu()

        with torch.no_grad():
            return torch.cat(list(map_chunks(run, (self.problems.x.float(), self.init), chunk)), 1)


@dataclass(frozen=True)
class Curvature:
    """Fixed q_samples at which Hessians are held against the Bayes-optimal ones.

    Attributes:
        levels: L levels.
        x: (L·H, d_x), the levels one after the other, float64.
        y: (L·H, d).
        t: (L·H,).
        best: ∇²_yE*, (L·H, d, d); None where there is no computable optimum.
        chunk: points at once.
    """

    levels: tuple[int, ...]
    x: Tensor
    y: Tensor
    t: Tensor
    best: Tensor | None
    chunk: int

    @classmethod
    def of(
        cls,
        problems: Problems,
        levels: Sequence[int],
        oracle: Energy | None,
        seed: int,
        chunk: int,
        device: torch.device | str = "cpu",
    ) -> Curvature:
        """Those at all of these problems.

        Raises:
            ConfigError: no such level.
        """
        schedule = cosine_schedule()
        require_levels("implicit_bias.course", levels, schedule.levels)
        noise = normal_draws(seed, "q_sample", range(len(problems)), 1, problems.spec.dim_y)[:, 0]
        y = torch.cat([q_sample(problems.y_star, t, noise, schedule) for t in levels]).to(device)
        x = problems.x.repeat(len(levels), 1).to(device)
        t = torch.tensor(levels, device=device).repeat_interleave(len(problems))
        best = None
        if oracle is not None:
            best = torch.cat(list(map_chunks(oracle.hessian, (x, y, t), chunk))).double()
        return cls(tuple(levels), x, y, t, best, chunk)

    def errors(self, networks: EnergyMLP) -> tuple[Tensor, Tensor]:
        """‖H − H*‖_F/‖H*‖_F of each network, mean over problems and its standard error, (S, L) each."""
        stack = len(networks.parameters["fc1.weight"])
        if self.best is None:
            return (torch.full((stack, len(self.levels)), torch.nan, dtype=torch.float64),) * 2
        relative = torch.stack([self._relative(network(networks, index)) for index in range(stack)])
        by_level = relative.unflatten(1, (len(self.levels), -1)).cpu()
        return by_level.mean(2), by_level.std(2) / by_level.shape[2] ** 0.5

    def _relative(self, energy: Energy) -> Tensor:
        def measure(x: Tensor, y: Tensor, t: Tensor, best: Tensor) -> Tensor:
            return (energy.hessian(x, y, t) - best).norm(dim=(1, 2)) / best.norm(dim=(1, 2))

        return torch.cat(list(map_chunks(measure, (self.x, self.y, self.t, self.best), self.chunk)))


def network(networks: EnergyMLP, index: int) -> MLPEnergy:
    """The energy of one network of a stack, float64."""
    parameters = {name: value[index].double() for name, value in networks.parameters.items()}
    return MLPEnergy(EnergyMLP(parameters, networks.schedule.to(torch.float64)))


def mean_square_error(answers: Tensor, problems: Problems) -> dict[str, tuple[Tensor, Tensor]]:
    """MSE of answers (…, P, d) and its standard error over problems, (…) each, by kind of entry.

    Returns:
        "" for all entries, and "missing" for those that x does not show, where there are such.

    Source:
        The linearised standard error of a ratio, Cochran 1977, chapter 6.
    """
    squares = (answers - problems.y_star).square()
    kinds = {"": torch.ones_like(problems.y_star)}
    if "mask" in problems.meta:
        kinds["missing"] = 1 - problems.meta["mask"].flatten(1)
    found = {}
    for name, counted in kinds.items():
        totals, counts = (squares * counted).sum(-1), counted.sum(-1)
        ratio = totals.sum(-1) / counts.sum()
        residuals = (totals - ratio.unsqueeze(-1) * counts) / counts.mean()
        found[name] = ratio, residuals.std(-1) / len(counts) ** 0.5
    return found
