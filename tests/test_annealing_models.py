"""EXP-010 on the bundled networks: what is known of how they anneal, at fresh problems."""

from pathlib import Path

import pytest
import torch

from iredinterp.analyses.annealing.arms import arm_errors, arms_of
from iredinterp.analyses.annealing.ledger import accept_disagreement
from iredinterp.analyses.annealing.modes import Directions, coarse_first_exponent, singular_directions
from iredinterp.analyses.annealing.names import FULL
from iredinterp.energy import load_energy
from iredinterp.ired.sampler import sample
from iredinterp.ired.tasks import ProblemSpec, draw_problems

CHECKPOINTS = Path(__file__).parents[1] / "resources/checkpoints"
N, COUNT = 5, 200


def started(task, generator):
    """A bundled network, problems and first states."""
    energy = load_energy(CHECKPOINTS / f"{task}-n5-seed0.safetensors")
    problems = draw_problems(ProblemSpec(task, N), COUNT, generator)
    first = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
    return energy, problems.x, problems.y_star, first


def exponents(task, generator):
    """Mean over levels 8 … 0 and problems: along singular and along random directions."""
    energy, x, y_star, first = started(task, generator)
    Y = y_star.unflatten(1, (N, N))
    off = sample(energy, x, init=first).answers[1:].unflatten(-1, (N, N)) - Y
    s, singular = singular_directions(Y)
    noise = torch.randn(COUNT, 2 * N * N, generator=generator, dtype=torch.float64)
    found = (
        coarse_first_exponent(directions.errors(off), s, torch.zeros(COUNT))
        for directions in (singular, Directions.random(noise, N, N))
    )
    return [float(exponent.mean()) for exponent in found]


def test_addition_only_looks_coarse_to_fine(generator):
    along_singular, along_random = exponents("addition", generator)
    # Of relative errors the exponent is one more: they shrink with the singular value in any direction.
    assert along_singular + 1 > 0.3
    assert along_random + 1 > 0.7
    assert along_singular < 0.1
    assert abs(along_random) < 0.3


def test_inversion_settles_large_singular_directions_worst(generator):
    along_singular, along_random = exponents("inverse", generator)
    assert along_singular < -0.3
    assert abs(along_random) < 0.3


@pytest.mark.parametrize("task", ["addition", "inverse"])
def test_ten_jumps_at_the_sharpest_level_do_as_well_as_sixty_annealed_gradients(task, generator):
    energy, x, y_star, first = started(task, generator)
    wanted = (FULL, "without the noisiest", "jumps at the sharpest", "sharpest level only")
    arms = {name: arm for name, arm in arms_of(10, 0).items() if name in wanted}
    errors = arm_errors(energy, x, y_star, first, arms)
    ratios = {name: float((error / errors[FULL]).log().mean()) for name, error in errors.items()}
    assert abs(ratios["jumps at the sharpest"]) < 0.1
    assert abs(ratios["sharpest level only"]) < 0.1
    assert abs(ratios["without the noisiest"]) < 1e-3


def test_decisions_of_the_other_precision_are_those_of_a_network_of_that_precision(generator):
    energy, x, _, first = started("addition", generator)
    run, s = sample(energy, x, init=first), energy.schedule
    found = accept_disagreement(energy, x, run)
    single, many = energy.model.to(torch.float32), x.float().repeat(5, 1)
    length = torch.tensor([1.0, 2, 2, 2, 2]).repeat_interleave(COUNT)[:, None]
    differ = torch.empty_like(found)
    for k, t in enumerate(reversed(range(10))):
        # In one batch, whose size may turn last bits.
        y, limit = run.states[k].flatten(0, 1).float(), 2 * s.sqrt_alphas_cumprod[t].float()
        before, gradient = single.energy_and_gradient(many, y, torch.full((len(y),), t))
        proposal = (y - length * s.opt_step_size[t].float() * gradient).clamp(-limit, limit)
        after = single.energy(many, proposal, torch.full((len(y),), t))
        differ[k] = ((after <= before).reshape(5, COUNT) != run.accepted[k]).double().mean(0)
    assert differ.mean() > 0.05
    assert (found - differ).abs().mean() < 0.02
