"""Annealed inference against whole runs of the official code, and its own rules."""

import pytest
import torch
from official import available

from iredinterp.energy import CallableEnergy
from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample, unchanged

# The steps amplify the rounding of single evaluations: at n = 20 a float32 run of the official code is off its
# float64 run by 8.5e-4, and ours differs from it by up to 1.4e-3, as the order decides in which MKL sums.
WHOLE_RUN = {torch.float32: 2e-3, torch.float64: 1e-9}
# Two float32 energies of magnitude E that differ by less than this share of E differ by rounding.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.mark.parametrize("reference", available(), ids=lambda reference: reference.name)
@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("dtype", WHOLE_RUN, ids=str)
def test_whole_runs_equal_those_of_the_official_code(reference, weights, dtype, record_property):
    network = load_checkpoint(reference.path, weights).model.to(dtype)
    run = sample(network, reference.reference["x"].to(dtype), init=reference.reference["init"])
    expected = {
        name: reference.get(weights, dtype, name)
        for name in ("final", "level_answer", "inner_energy", "inner_energy_proposed")
    }
    assert relative_error(run.final, expected["final"]) <= WHOLE_RUN[dtype]
    if dtype == torch.float64:
        assert relative_error(run.answers, expected["level_answer"]) <= WHOLE_RUN[dtype]
        states = reference.get(weights, dtype, "inner_state")
        assert relative_error(run.states, states) <= WHOLE_RUN[dtype]

    before, after = expected["inner_energy"], expected["inner_energy_proposed"]
    disagreement = run.accepted != ~(after > before)
    record_property("decisions", disagreement.numel())
    record_property("decisions_within_rounding", int(disagreement.sum()))
    print(f"{int(disagreement.sum())} of {disagreement.numel()} accept decisions differ, all within rounding")
    gap = ((after - before).abs() / before.abs())[disagreement]
    assert (gap <= ROUNDING[dtype]).all()
    if dtype == torch.float64:
        assert not disagreement.any()


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_the_references_exercise_rejection():
    rejected = [
        (
            r.get("ema", torch.float32, "inner_energy_proposed") > r.get("ema", torch.float32, "inner_energy")
        ).sum()
        for r in available()
    ]
    assert min(rejected) > 0


@pytest.fixture
def quadratic(generator):
    """E = |y − √ᾱ_t Bx|²/(2σ_t): the Bayes-optimal energy of y* = Bx."""
    answer = torch.rand(6, 4, generator=generator, dtype=torch.float64) / 4
    energy = CallableEnergy(lambda x, y, t: 0 * t, 4, 6)
    s = energy.schedule

    def function(x, y, t):
        return (y - s.sqrt_alphas_cumprod[t, None] * (x @ answer.T)).square().sum(-1) / (2 * s.sigma[t])

    x = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    return CallableEnergy(function, 4, 6), x, x @ answer.T


def test_the_optimal_energy_is_answered_exactly_after_the_first_jump(quadratic, seed):
    energy, x, answer = quadratic
    run = sample(energy, x, seed=seed)
    torch.testing.assert_close(run.answers, answer.expand_as(run.answers), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        run.final, energy.schedule.sqrt_alphas_cumprod[0] * answer, rtol=1e-7, atol=1e-9
    )


def test_the_published_algorithm_contracts_by_one_minus_eta_over_sigma_each_step(quadratic, generator):
    energy, x, answer = quadratic
    s = energy.schedule
    init = torch.randn(5, 6, generator=generator, dtype=torch.float64) / 100
    run = sample(energy, x, init=init, faithful=False)
    error = init / s.sqrt_alphas_cumprod[9] - answer
    for k, t in enumerate(run.levels.tolist()):
        error = error * (1 - s.opt_step_size[t] / s.sigma[t]) ** 5
        torch.testing.assert_close(run.answers[k], answer + error, rtol=1e-6, atol=1e-9)
    assert torch.equal(run.final, run.answers[-1])


def test_every_state_follows_from_the_one_before(generator, seed):
    network = EnergyMLP.random(9, 9, 12, generator).to(torch.float64)
    x = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    run = sample(network, x, seed=seed)
    s = network.schedule
    for k, t in enumerate(run.levels.tolist()):
        limit = 2 * s.sqrt_alphas_cumprod[t]
        for step in range(5):
            energy, gradient = network.energy_and_gradient(x, run.states[k, step], t)
            proposal = run.states[k, step] - (1 if step == 0 else 2) * s.opt_step_size[t] * gradient
            assert torch.equal(run.clamped[k, step], (proposal.abs() > limit).sum(-1))
            proposal = proposal.clamp(-limit, limit)
            torch.testing.assert_close(run.energies[k, step], energy)
            torch.testing.assert_close(run.proposed_energies[k, step], network.energy(x, proposal, t))
            assert torch.equal(
                run.accepted[k, step], ~(run.proposed_energies[k, step] > run.energies[k, step])
            )
            after = run.states[k, step + 1] if step < 4 else s.sqrt_alphas_cumprod[t] * run.answers[k]
            expected = torch.where(run.accepted[k, step, :, None], proposal, run.states[k, step])
            torch.testing.assert_close(after, expected)
        if t > 0:
            torch.testing.assert_close(run.entered[k + 1], s.sqrt_alphas_cumprod[t - 1] * run.answers[k])


def test_a_first_state_or_a_seed_is_needed_and_not_both(quadratic):
    energy, x, _ = quadratic
    with pytest.raises(ValueError, match="`init` or a `seed`"):
        sample(energy, x)
    with pytest.raises(ValueError, match="`init` or a `seed`"):
        sample(energy, x, init=torch.zeros(5, 6), seed=1)


def test_the_seed_fixes_the_run(quadratic, seed):
    energy, x, _ = quadratic
    assert torch.equal(sample(energy, x, seed=seed).entered, sample(energy, x, seed=seed).entered)
    assert not torch.equal(sample(energy, x, seed=seed).entered, sample(energy, x, seed=seed + 1).entered)


def recorder(kept, change=lambda g: g):
    def substitute(x, y, t, gradient):
        kept.append((y, t, gradient))
        return change(gradient)

    return substitute


def test_a_substitute_is_given_the_gradient_at_every_jump_and_at_every_inner_step(generator, seed):
    network = EnergyMLP.random(9, 9, 12, generator).to(torch.float64)
    x = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    jumps, steps = [], []
    plain = sample(network, x, seed=seed)
    run = sample(network, x, seed=seed, jump_gradient=recorder(jumps), step_gradient=recorder(steps))
    for name, value in vars(plain).items():
        assert torch.equal(getattr(run, name), value), name
    assert [t for _, t, _ in jumps] == plain.levels.tolist()
    assert torch.equal(torch.stack([y for y, _, _ in jumps]), plain.entered)
    assert torch.equal(torch.stack([y for y, _, _ in steps]), plain.states.flatten(0, 1))
    for y, t, gradient in jumps + steps:
        assert torch.equal(gradient, network.energy_and_gradient(x, y, t)[1])


def test_a_substitute_acts_where_it_stands_and_nowhere_else(quadratic, generator):
    energy, x, answer = quadratic
    s = energy.schedule
    init = s.sqrt_alphas_cumprod[9] * (
        answer + torch.rand(5, 6, generator=generator, dtype=torch.float64) / 4
    )
    halve = recorder([], lambda g: g / 2)
    # E is |y − y*|²/(2σ): a jump along half the gradient keeps half the error, a step of η keeps 1 − η/σ.
    rate = (s.opt_step_size / s.sigma)[:, None, None]
    inner = (1 - rate) * (1 - 2 * rate) ** 4
    half_inner = (1 - rate / 2) * (1 - rate) ** 4
    for jump, step, factor in ((halve, unchanged, inner / 2), (halve, halve, half_inner / 2)):
        run = sample(energy, x, init=init, jump_gradient=jump, step_gradient=step, reject=False)
        error = init / s.sqrt_alphas_cumprod[9] - answer
        for k, t in enumerate(run.levels.tolist()):
            error = error * factor[t]
            torch.testing.assert_close(run.answers[k], answer + error, rtol=1e-6, atol=1e-9)


def test_without_rejection_steps_that_raise_the_energy_are_taken_and_still_told(quadratic, seed):
    energy, x, _ = quadratic
    halve, climb = recorder([], lambda g: g / 2), recorder([], lambda g: -g)
    run = sample(energy, x, seed=seed, jump_gradient=halve, step_gradient=climb, reject=False)
    assert torch.equal(run.accepted, ~(run.proposed_energies > run.energies))
    assert not run.accepted.all()
    torch.testing.assert_close(run.energies[:, 1:], run.proposed_energies[:, :-1])


def test_levels_are_passed_through_in_the_order_and_as_often_as_named(generator, seed):
    network = EnergyMLP.random(9, 9, 12, generator).to(torch.float64)
    x = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    s = network.schedule
    plain = sample(network, x, seed=seed)
    named = sample(network, x, seed=seed, levels=range(9, -1, -1))
    for name, value in vars(plain).items():
        assert torch.equal(getattr(named, name), value), name
    levels = [3, 3, 9, 0, 4]
    run = sample(network, x, seed=seed, levels=levels)
    assert run.levels.tolist() == levels
    for k in range(1, len(levels)):
        assert torch.equal(run.entered[k], s.sqrt_alphas_cumprod[levels[k]] * run.answers[k - 1])
        again = sample(network, x, init=run.entered[k], levels=levels[k:])
        assert torch.equal(again.final, run.final)
    torch.testing.assert_close(run.final, s.sqrt_alphas_cumprod[4] * run.answers[-1])


def test_without_inner_steps_a_level_is_its_jump(quadratic, seed):
    energy, x, answer = quadratic
    run = sample(energy, x, seed=seed, inner_steps=0)
    torch.testing.assert_close(run.answers, answer.expand_as(run.answers), rtol=1e-7, atol=1e-9)
    assert run.states.shape == (10, 0, 5, 6)
    for name in ("energies", "proposed_energies", "accepted", "clamped"):
        assert getattr(run, name).shape == (10, 0, 5), name
    assert run.accepted.dtype == torch.bool


@pytest.mark.parametrize("levels", [[], [10], [3, -1]])
def test_levels_that_the_energy_lacks_are_refused(levels, quadratic, seed):
    energy, x, _ = quadratic
    with pytest.raises(ValueError, match="levels must name some of 0 … 9, found"):
        sample(energy, x, seed=seed, levels=levels)
