"""Points on landscapes whose minima and noise laws are known."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.energy import CallableEnergy, MLPEnergy, load_energy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, make_problems
from iredinterp.points import (
    gradients_table,
    minimum,
    model_keys,
    normal_draws,
    perturbed,
    point_noise,
    point_tensors,
    points_table,
    problem_rows,
    problems_table,
    q_sample,
)
from iredinterp.tables import tensor_column

KINDS = ["q_sample", "trajectory", "minimum"]
KEYS = {"model": "m", "condition": "trained", "task": "inverse", "n": 5, "weights": "ema"}


@pytest.fixture
def network(official):
    return load_energy(official.path)


def test_q_sample_has_the_mean_and_variance_of_its_level(generator):
    schedule = cosine_schedule()
    y_star = torch.full((20_000, 1), 0.7, dtype=torch.float64)
    noise = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    for t in range(10):
        y = q_sample(y_star, t, noise, schedule)
        assert (
            abs(float(y.mean() - schedule.abar[t].sqrt() * 0.7)) < 6 * float(schedule.sigma[t]) / 20_000**0.5
        )
        assert abs(float(y.var() / (1 - schedule.abar[t])) - 1) < 6 * (2 / 20_000) ** 0.5
    mixed = q_sample(y_star[:10], torch.arange(10), noise[:10], schedule)
    assert torch.equal(mixed[3:4], q_sample(y_star[3:4], 3, noise[3:4], schedule))


def test_perturbed_moves_by_exactly_the_radius_in_no_preferred_direction(generator):
    y = torch.zeros(20_000, 3, dtype=torch.float64)
    moved = perturbed(y, 0.3, generator)
    torch.testing.assert_close(moved.norm(dim=-1), torch.full((20_000,), 0.3, dtype=torch.float64))
    assert (moved.mean(0).abs() < 6 * 0.3 / 3**0.5 / 20_000**0.5).all()


@pytest.mark.parametrize("max_steps", [0, 1, 50])
def test_what_is_said_of_a_minimum_is_true_there_however_the_descent_ended(max_steps, network, generator):
    untrained = EnergyMLP.random(network.dim_x, network.dim_y, 32, generator).to(torch.float64)
    for energy in (network, MLPEnergy(untrained)):
        x = torch.randn(12, energy.dim_x, generator=generator, dtype=torch.float64)
        y = 3 * torch.randn(12, energy.dim_y, generator=generator, dtype=torch.float64)
        found = minimum(energy, x, y, 3, max_steps=max_steps)
        value, gradient = energy.energy_and_gradient(x, found.y, 3)
        torch.testing.assert_close(found.energy, value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.gradient_norm, gradient.norm(dim=1), rtol=1e-9, atol=1e-11)
        assert (value <= energy.energy(x, y, 3) * (1 + 1e-12)).all()


@pytest.mark.parametrize("smallest", [0.5, 2e-3, 1e-4, -0.5])
def test_a_newton_step_divides_by_curvatures_without_sign_and_above_the_floor(smallest, generator):
    Q = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.tensor([smallest, 0.6, 0.7, 0.8, 1.0], dtype=torch.float64)
    linear = torch.randn(5, generator=generator, dtype=torch.float64)
    H = Q * eigenvalues @ Q.T
    energy = CallableEnergy(lambda x, y, t: (y @ H * y).sum(-1) / 2 + y @ linear, 1, 5)
    y = torch.zeros(1, 5, dtype=torch.float64)
    found = minimum(energy, torch.zeros(1, 1, dtype=torch.float64), y, 0, max_steps=1)
    expected = -Q @ ((Q.T @ linear) / eigenvalues.abs().clamp(min=1e-3))
    torch.testing.assert_close(found.y[0], expected, rtol=1e-9, atol=1e-9)


def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step(generator):
    A = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    H = A @ A.T + torch.eye(6, dtype=torch.float64)
    centre = torch.randn(6, generator=generator, dtype=torch.float64)
    energy = CallableEnergy(lambda x, y, t: ((y - centre) @ H * (y - centre)).sum(-1) / 2 + x[:, 0], 1, 6)
    x, y = torch.zeros(4, 1, dtype=torch.float64), torch.randn(4, 6, generator=generator, dtype=torch.float64)
    found = minimum(energy, x, y, 0, tolerance=1e-10, max_steps=2)
    torch.testing.assert_close(found.y, centre.expand(4, -1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.smallest_eigenvalue, torch.linalg.eigvalsh(H)[:1].expand(4))
    assert found.converged.all()


def test_the_search_ends_where_no_start_makes_progress(generator):
    def bowl(x, y, t):
        assert len(y) > 0
        return 0.5 * y.square().sum(-1)

    x = torch.empty(2, 0, dtype=torch.float64)
    y = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    # No gradient is short enough, and from the bottom no step leads on.
    found = minimum(CallableEnergy(bowl, 0, 3), x, y, 0, tolerance=-1.0)
    torch.testing.assert_close(found.y, torch.zeros_like(y), rtol=0, atol=1e-12)


def test_minimum_leaves_a_saddle_and_finds_the_wells_of_a_double_well(generator):
    curvature = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)

    def double_well(x, y, t):
        return (y[:, 0].square() - 1).square() + (curvature * y[:, 1:].square()).sum(-1) / 2

    energy = CallableEnergy(double_well, 1, 4)
    start = torch.randn(64, 4, generator=generator, dtype=torch.float64) / 10
    found = minimum(energy, torch.zeros(64, 1, dtype=torch.float64), start, 0)
    assert found.converged.all()
    expected = torch.zeros(64, 4, dtype=torch.float64)
    expected[:, 0] = start[:, 0].sign()
    torch.testing.assert_close(found.y, expected, rtol=0, atol=1e-7)


def test_a_maximum_or_an_unbounded_descent_is_not_called_a_minimum():
    energy = CallableEnergy(lambda x, y, t: -y.square().sum(-1), 1, 2)
    x = torch.zeros(2, 1, dtype=torch.float64)
    y = torch.tensor([[0.0, 0.0], [0.1, 0.0]], dtype=torch.float64)
    assert not minimum(energy, x, y, 0, max_steps=5).converged.any()


def test_minima_of_a_network_are_stationary_and_no_higher_than_their_start(network, generator):
    x, y = torch.randn(2, 8, 25, generator=generator, dtype=torch.float64)
    t = torch.randint(10, (8,), generator=generator)
    found = minimum(network, x, y, t)
    assert (network.energy(x, found.y, t) <= network.energy(x, y, t)).all()
    assert (network.gradient(x, found.y, t).norm(dim=-1)[found.converged] <= 1e-8).all()


def test_points_are_where_they_are_said_to_be(network, seed, monkeypatch):
    runs = []

    def watched(*arguments, **options):
        runs.append(sample(*arguments, **options))
        return runs[-1]

    monkeypatch.setattr("iredinterp.points.sample", watched)
    problems = make_problems("inverse", 5, 4, seed)
    table = points_table(network, problems_table(problems), KEYS, KINDS, seed, draws=2)
    assert table.num_rows == 4 * 2 * 10 * 3
    frame = table.drop_columns(["y"]).to_pandas()
    y = tensor_column(table, "y").flatten(1)
    s = network.schedule

    noised = frame.point_kind == "q_sample"
    noise = {}
    for row in np.flatnonzero(noised):
        key, t = (frame.problem_id[row], frame.draw[row]), frame.t[row]
        epsilon = (y[row] - s.sqrt_alphas_cumprod[t] * problems.y_star[key[0]]) / s.sigma[t]
        torch.testing.assert_close(epsilon, noise.setdefault(key, epsilon))
    values = torch.stack(list(noise.values()))
    assert abs(float(values.mean())) < 6 / values.numel() ** 0.5
    assert len({tuple(v.tolist()) for v in noise.values()}) == 8

    minima = frame.point_kind == "minimum"
    assert frame.converged[minima].notna().all()
    assert frame.converged[~minima].isna().all()
    x, _, t = point_tensors(network, table, problems_table(problems))
    converged = torch.from_numpy(frame.converged.fillna(False).to_numpy(dtype=bool, copy=True))
    assert (network.gradient(x, y, t).norm(dim=-1)[converged] <= 1e-8).all()

    (run,) = runs
    start = run.entered[0]
    assert abs(float(start.mean())) < 6 / start.numel() ** 0.5
    assert len({tuple(v.tolist()) for v in [*start, *values]}) == 16
    trajectory = y[torch.from_numpy((frame.point_kind == "trajectory").to_numpy(copy=True))]
    expected = s.sqrt_alphas_cumprod[:, None, None] * run.answers.flip(0)
    torch.testing.assert_close(trajectory, expected.flatten(0, 1))


def test_splitting_the_problems_into_blocks_changes_no_point(network, seed):
    problems = problems_table(make_problems("inverse", 5, 6, seed))
    whole = points_table(network, problems, KEYS, KINDS, seed)
    parts = pa.concat_tables(
        points_table(network, problems.slice(start, 2), KEYS, KINDS, seed) for start in (0, 2, 4)
    )
    keys = ["point_kind", "t", "problem_id"]
    whole, parts = (
        table.take(pc.sort_indices(table, [(key, "ascending") for key in keys])) for table in (whole, parts)
    )
    assert whole.select(keys).equals(parts.select(keys))
    # Rounding depends on the size of a block, and decides the sampler's accept rule where two energies tie.
    tolerance = {"q_sample": 1e-12, "trajectory": 1e-5, "minimum": 1e-6}
    limits = torch.tensor([tolerance[kind] for kind in whole["point_kind"].to_pylist()])
    settled = torch.tensor([converged is not False for converged in whole["converged"].to_pylist()])
    difference = (tensor_column(whole, "y") - tensor_column(parts, "y")).abs().amax((1, 2))
    assert (difference <= limits)[settled].all()


def test_gradients_table_holds_the_energy_and_gradient_of_its_points(network, seed):
    problems = problems_table(make_problems("inverse", 5, 3, seed))
    points = points_table(network, problems, KEYS, ["q_sample"], seed)
    table = gradients_table(network, points, problems)
    x, y, t = point_tensors(network, points, problems)
    y.requires_grad_()
    (expected,) = torch.autograd.grad(network.model.energy(x, y, t).sum(), y)
    torch.testing.assert_close(tensor_column(table, "gradient").flatten(1), expected)
    torch.testing.assert_close(tensor_column(table, "gradient_norm"), expected.norm(dim=-1))
    assert table.column_names[:12] == points.column_names[:12]


def test_unknown_kinds_and_foreign_problems_are_named(network, seed):
    problems = problems_table(make_problems("inverse", 5, 4, seed))
    with pytest.raises(ConfigError, match="unknown kind 'maximum'; use q_sample"):
        points_table(network, problems, KEYS, ["maximum"], seed)
    points = points_table(network, problems, KEYS, ["q_sample"], seed)
    with pytest.raises(ConfigError, match="problem_id"):
        point_tensors(network, points, problems.slice(0, 2))


def test_every_point_carries_the_noise_level_of_its_landscape(network, generator):
    problems = problems_table(make_problems("inverse", 5, 2, seed=3))
    table = points_table(network, problems, KEYS, ["q_sample"], seed=0)
    sigma = network.schedule.sigma[tensor_column(table, "t").long()]
    assert torch.equal(tensor_column(table, "sigma"), sigma)


def test_keys_name_the_family_and_the_seed_of_the_configuration(network):
    spec = ProblemSpec("inverse", 5)
    keys = model_keys("m-seed3", network, spec, "oracle", family="m", seed=3)
    assert (keys["model"], keys["family"], keys["seed"]) == ("m-seed3", "m", 3)
    assert keys["condition"] == "oracle"
    alone = model_keys("m", network, spec)
    assert (alone["family"], alone["seed"], alone["condition"]) == ("m", None, "trained")


def test_the_noise_of_q_samples_is_what_was_drawn_for_their_problems_in_any_order(network, seed):
    problems = problems_table(make_problems("inverse", 5, 6, seed=seed))
    points = points_table(network, problems, KEYS, ["q_sample"], seed)
    order = pa.array(np.random.default_rng(seed).permutation(points.num_rows))
    points, problems = points.take(order), problems.take(pa.array([4, 0, 5, 2, 1, 3]))
    drawn = normal_draws(seed, "q_sample", range(6), 1, 25)[:, 0]
    expected = drawn[points["problem_id"].to_pylist()]
    torch.testing.assert_close(point_noise(network, points, problems), expected, rtol=1e-9, atol=1e-9)
    rows = problem_rows(points, problems).tolist()
    assert [problems["problem_id"][row].as_py() for row in rows] == points["problem_id"].to_pylist()
