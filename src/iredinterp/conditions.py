"""What an analysis runs on: the trained model, or one rung of the null ladder.

Every condition is an energy and a table of problems, so an analysis runs on all of them with the same code.

* trained: the checkpoint.
* random_init: a network of the same shape with untrained weights.
* permuted_weights: the trained weights, shuffled within each tensor.
* shuffled_x: the checkpoint, each problem with the x of another.
* permuted_targets: a checkpoint trained on pairs (x, y*) that do not belong together.
* oracle: the Bayes-optimal energy of the task.
* oracle_noise: the oracle plus an isotropic random field with the RMS error of the trained model, in gradient
  and in Hessian, at each level. What it reproduces needs no structure in the error.

After the controls of Adebayo et al. 2018 (arXiv:1810.03292).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError, TaskError
from iredinterp.ired.model import EnergyMLP, random_parameters
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import q_sample
from iredinterp.truth.oracle import BayesOracle, NoisyOracle, error_rms


@dataclass(frozen=True)
class Setting:
    """A condition made ready for analysis.

    Attributes:
        energy: the landscape.
        problems: a problems table.
        oracle: the Bayes-optimal energy of the task, None where it has no computable reference.
    """

    energy: Energy
    problems: pa.Table
    oracle: Energy | None


def setting(
    condition: str,
    energy: MLPEnergy,
    spec: ProblemSpec,
    problems: pa.Table,
    seed: int = 0,
    calibration: int = 256,
) -> Setting:
    """Put a model under a condition.

    Args:
        condition: one of those above.
        energy: of the trained checkpoint; for permuted_targets, of the checkpoint trained on those.
        spec: the distribution of the problems.
        problems: the whole table, so that a shuffle does not depend on how it is split into blocks.
        seed: of everything drawn; what is drawn also depends on the checkpoint.
        calibration: fresh problems on which oracle_noise measures the errors of the trained model.

    Returns:
        The energy and the problems under that condition, and the Bayes-optimal energy of the task.

    Raises:
        ConfigError: no such condition, a shuffle of one problem, or a network that does not fit the problems.
        TaskError: the oracle is asked for where there is no computable reference.
    """
    if condition not in _BUILDERS:
        raise ConfigError(f"condition {condition!r} is unknown; use one of {', '.join(_BUILDERS)}")
    spec.check_sizes(energy.dim_x, energy.dim_y)
    oracle = None
    try:
        oracle = _reference(energy, spec)
    except TaskError:
        if condition.startswith("oracle"):
            raise
    given = _Given(energy, oracle, spec, problems, _generator(seed, condition, energy), calibration)
    return Setting(*_BUILDERS[condition](given), oracle)


def _reference(energy: MLPEnergy, spec: ProblemSpec) -> Energy:
    if "planted" in energy.checkpoint.record:
        raise TaskError(
            "a planted network shares only its shapes with the task: it has no oracle but its truth"
        )
    return BayesOracle(spec, schedule=energy.schedule, dtype=energy.dtype, device=energy.device)


@dataclass(frozen=True)
class _Given:
    energy: MLPEnergy
    oracle: Energy | None
    spec: ProblemSpec
    problems: pa.Table
    generator: torch.Generator
    calibration: int


def _as_given(given: _Given) -> tuple[Energy, pa.Table]:
    return given.energy, given.problems


def _random_init(given: _Given) -> tuple[Energy, pa.Table]:
    model = given.energy.model
    parameters = random_parameters(model.dim_x, model.dim_y, model.hidden, given.generator)
    return _with_parameters(given.energy, parameters), given.problems


def _permuted_weights(given: _Given) -> tuple[Energy, pa.Table]:
    parameters = {
        name: value.flatten()[
            torch.randperm(value.numel(), generator=given.generator).to(value.device)
        ].view_as(value)
        for name, value in given.energy.model.parameters.items()
    }
    return _with_parameters(given.energy, parameters), given.problems


def _shuffled_x(given: _Given) -> tuple[Energy, pa.Table]:
    count = given.problems.num_rows
    if count < 2:
        raise ConfigError(f"condition shuffled_x: found {count} problem, needs 2: raise sampling.count")
    # A cyclic shift of a random order gives every problem the x of another.
    order = torch.randperm(count, generator=given.generator)
    source = torch.empty(count, dtype=torch.int64)
    source[order] = order.roll(1)
    column = given.problems["x"].combine_chunks().take(pa.array(source.numpy()))
    index = given.problems.column_names.index("x")
    return given.energy, given.problems.set_column(index, "x", column)


def _oracle(given: _Given) -> tuple[Energy, pa.Table]:
    return given.oracle, given.problems


def _oracle_noise(given: _Given) -> tuple[Energy, pa.Table]:
    fresh = draw_problems(given.spec, given.calibration, given.generator)
    x, y_star = (tensor.to(given.energy.device, given.energy.dtype) for tensor in (fresh.x, fresh.y_star))
    noise = torch.randn(y_star.shape, generator=given.generator, dtype=torch.float64).to(y_star)
    levels = range(given.energy.schedule.levels)
    y = torch.cat([q_sample(y_star, t, noise, given.energy.schedule) for t in levels])
    t = torch.arange(len(levels), device=y.device).repeat_interleave(len(x))
    errors = error_rms(given.energy, given.oracle, x.repeat(len(levels), 1), y, t)
    seed = int(torch.randint(2**62, (), generator=given.generator))
    return NoisyOracle(given.oracle, *errors, seed=seed), given.problems


_BUILDERS: dict[str, Callable[[_Given], tuple[Energy, pa.Table]]] = {
    "trained": _as_given,
    "random_init": _random_init,
    "permuted_weights": _permuted_weights,
    "shuffled_x": _shuffled_x,
    "permuted_targets": _as_given,
    "oracle": _oracle,
    "oracle_noise": _oracle_noise,
}


def _with_parameters(energy: MLPEnergy, parameters) -> MLPEnergy:
    like = energy.model
    parameters = {name: value.to(like.device, like.dtype) for name, value in parameters.items()}
    return MLPEnergy(EnergyMLP(parameters, like.schedule), energy.checkpoint)


def _generator(seed: int, condition: str, energy: MLPEnergy) -> torch.Generator:
    identity = int(energy.checkpoint.sha256[:16], 16)
    words = np.random.SeedSequence([seed, list(_BUILDERS).index(condition), identity])
    return torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))
