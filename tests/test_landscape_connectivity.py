"""Symmetries of the network that leave its energy alone, and what lies between two networks."""

import pytest
import torch

from iredinterp.analyses.landscape.connectivity import (
    UNITS,
    Batch,
    bezier,
    connection,
    denoising_loss,
    fit_bend,
    loss_barrier,
    matched,
    permuted,
    straight,
)
from iredinterp.energy import CallableEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP, random_parameters
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.truth.analytic import haar_orthogonal

SPEC = ProblemSpec("addition", 3)
HIDDEN = 24
SCHEDULE = cosine_schedule()
TIMES = torch.linspace(0, 1, 7, dtype=torch.float64)


def drawn(generator):
    parameters = random_parameters(SPEC.dim_x, SPEC.dim_y, HIDDEN, generator)
    return {name: value.double() for name, value in parameters.items()}


def shuffled(parameters, generator):
    """The same function with the units of every layer renumbered and fc4 turned."""
    widths = {name: len(parameters[f"{units['out'][0]}.bias"]) for name, units in UNITS.items()}
    orders = {name: torch.randperm(width, generator=generator) for name, width in widths.items()}
    return permuted(parameters, orders, haar_orthogonal(SPEC.dim_y, generator))


def batch(generator, count=60):
    return Batch.draw(SPEC, count, SCHEDULE.levels, generator)


def stacked(parameters):
    return {name: value.unsqueeze(0) for name, value in parameters.items()}


def test_renumbered_units_and_a_turned_last_layer_leave_energy_and_gradient_alone(generator):
    parameters = drawn(generator)
    other = shuffled(parameters, generator)
    assert any(not torch.equal(value, other[name]) for name, value in parameters.items())
    problems = draw_problems(SPEC, 20, generator)
    y = torch.randn(20, SPEC.dim_y, generator=generator, dtype=torch.float64)
    t = torch.arange(20) % SCHEDULE.levels
    for name in UNITS:
        width = len(parameters[f"{UNITS[name]['out'][0]}.bias"])
        alone = permuted(parameters, {name: torch.randperm(width, generator=generator)})
        pair = (EnergyMLP(part, SCHEDULE).energy(problems.x.double(), y, t) for part in (parameters, alone))
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
    pair = (
        EnergyMLP(part, SCHEDULE).energy_and_gradient(problems.x.double(), y, t)
        for part in (parameters, other)
    )
    for found, expected in zip(*pair, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_network_and_its_own_renumbering_have_no_barrier_once_matched(generator):
    parameters = drawn(generator)
    other = shuffled(parameters, generator)
    found = matched(parameters, other)
    for name, value in parameters.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)
    here = batch(generator)
    aligned = denoising_loss(straight(parameters, found, TIMES), SCHEDULE, here)
    assert loss_barrier(aligned).item() == pytest.approx(0, abs=1e-9)
    # Without matching the line between the two leaves the energy that both share.
    apart = denoising_loss(straight(parameters, other, TIMES), SCHEDULE, here)
    torch.testing.assert_close(apart[[0, -1]], aligned[[0, -1]], rtol=1e-9, atol=0)
    assert (apart[1:-1] - aligned[1:-1]).abs().max() > 1e-6


def test_matching_changes_no_energy_and_brings_weights_closer(generator):
    first, second = drawn(generator), drawn(generator)
    found = matched(first, second)
    here = batch(generator)
    pair = (denoising_loss(stacked(part), SCHEDULE, here) for part in (second, found))
    torch.testing.assert_close(*pair, rtol=1e-9, atol=0)

    def apart(other):
        return sum((value - other[name]).square().sum() for name, value in first.items())

    assert apart(found) < apart(second)


def test_the_loss_is_the_mean_square_error_of_the_predicted_noise(generator):
    parameters, here = drawn(generator), batch(generator)
    network = EnergyMLP(parameters, SCHEDULE)
    energy = CallableEnergy(network.energy, SPEC.dim_x, SPEC.dim_y)
    scale, sigma = (part[here.t][:, None] for part in (SCHEDULE.sqrt_alphas_cumprod, SCHEDULE.sigma))
    gradient = energy.gradient(here.x, scale * here.y_star + sigma * here.noise, here.t)
    found = denoising_loss(stacked(parameters), SCHEDULE, here)
    torch.testing.assert_close(
        found.item(), (gradient - here.noise).square().mean().item(), rtol=1e-10, atol=0
    )


def test_a_stack_of_networks_has_the_losses_of_its_members(generator):
    first, second, here = drawn(generator), drawn(generator), batch(generator)
    path = straight(first, second, TIMES)
    together = denoising_loss(path, SCHEDULE, here)
    for index in range(len(TIMES)):
        one = {name: value[index : index + 1] for name, value in path.items()}
        torch.testing.assert_close(
            denoising_loss(one, SCHEDULE, here)[0], together[index], rtol=1e-10, atol=0
        )


def test_a_curve_between_equal_ends_has_no_barrier(seed, generator):
    parameters = drawn(generator)
    options = {"steps": 3, "learning_rate": 0.05, "times": TIMES, "generator": generator}
    bend = fit_bend(parameters, parameters, SCHEDULE, batch(generator), batch(generator), **options)
    losses = denoising_loss(bezier(parameters, bend, parameters, TIMES), SCHEDULE, batch(generator))
    assert loss_barrier(losses).item() == pytest.approx(0, abs=1e-14)


def test_a_quadratic_curve_passes_through_its_ends_and_halfway_to_its_bend(generator):
    start, bend, end = (drawn(generator) for _ in range(3))
    path = bezier(start, bend, end, TIMES)
    for name, value in path.items():
        torch.testing.assert_close(value[0], start[name])
        torch.testing.assert_close(value[-1], end[name])
        torch.testing.assert_close(value[3], (start[name] + 2 * bend[name] + end[name]) / 4)


def test_a_trained_bend_is_kept_only_where_it_lowers_the_barrier(generator):
    start, end, here = drawn(generator), drawn(generator), batch(generator)
    start, end = ({name: 3 * value for name, value in part.items()} for part in (start, end))
    options = {"steps": 5, "learning_rate": 0.01, "times": TIMES, "generator": generator}
    bend = fit_bend(start, end, SCHEDULE, batch(generator), here, **options)
    line, curve = straight(start, end, TIMES), bezier(start, bend, end, TIMES)
    before, after = (loss_barrier(denoising_loss(path, SCHEDULE, here)) for path in (line, curve))
    assert after <= before + 1e-9


def test_between_a_network_and_its_own_renumbering_only_the_unmatched_line_rises(seed, generator):
    parameters = {name: 3 * value for name, value in drawn(generator).items()}
    networks = (EnergyMLP(part, SCHEDULE) for part in (parameters, shuffled(parameters, generator)))
    found = connection(*networks, SPEC, seed, problems=40, steps=2, points=5)
    assert found["start"] == pytest.approx(found["end"], rel=1e-9)
    assert found["matched"] == pytest.approx(0, abs=1e-7 * found["start"])
    assert found["bezier"] == pytest.approx(0, abs=1e-7 * found["start"])
    assert set(found) == {"start", "end", "straight", "matched", "bezier"}
    assert found["straight"] >= 0


def test_networks_of_different_shapes_are_refused(generator):
    other = random_parameters(SPEC.dim_x, SPEC.dim_y, HIDDEN + 1, generator)
    with pytest.raises(
        ConfigError, match=r"connectivity: fc1.weight: expected .* compare networks of one family"
    ):
        matched(drawn(generator), {name: value.double() for name, value in other.items()})
