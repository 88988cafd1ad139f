"""EXP-008: kernels from factors are the kernels, and kernels say what gradient descent does."""

import numpy as np
import pytest
import torch

from iredinterp.analyses.ntk.factors import Factors, Points
from iredinterp.analyses.ntk.generic import (
    gradient_field,
    kernel_blocks,
    kernel_products,
    mlp_energy,
)
from iredinterp.analyses.ntk.kernels import (
    Directions,
    energy_kernel,
    every_direction,
    gradient_kernel_blocks,
    gradient_kernel_trace,
    output_kernel,
    pilot_basis,
    probe_directions,
)
from iredinterp.analyses.ntk.names import LAYERS
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.analytic import haar_orthogonal
from iredinterp.truth.planted import planted

DIM_X, DIM_Y, HIDDEN = 3, 4, 7


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_network(generator, dim_x=DIM_X, dim_y=DIM_Y, hidden=HIDDEN):
    """Untrained weights, doubled so that no layer is nearly linear."""
    model = EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64)
    return EnergyMLP({name: 2 * value for name, value in model.parameters.items()}, model.schedule)


def random_points(generator, count, dim_x=DIM_X, dim_y=DIM_Y):
    """Points of all levels, mixed."""
    t = torch.randint(0, 10, (count,), generator=generator)
    return Points(normal(generator, count, dim_x), normal(generator, count, dim_y), t)


def by_layer(blocks):
    """Weight and bias of each layer together, (8, B, B′, k, k)."""
    return torch.stack([blocks[f"{name}.weight"] + blocks[f"{name}.bias"] for name in LAYERS])


def trace(blocks):
    return blocks.diagonal(dim1=-2, dim2=-1).sum(-1)


def assert_close(found, expected, tolerance=1e-12):
    """Relative to the largest entry."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture
def case(generator):
    """A random network, points of mixed levels, others, and torch.func's view of the same."""
    model = random_network(generator)
    points, others = random_points(generator, 9), random_points(generator, 5)
    return model, points, others, mlp_energy(model.schedule)


def test_energy_kernel_is_that_of_per_sample_gradients_layer_by_layer(case):
    model, points, others, energy = case
    for left, right in ((points, None), (points, others)):
        expected = trace(by_layer(kernel_blocks(energy, model.parameters, left, right)))
        assert_close(energy_kernel(model, left, right, by_layer=True), expected)
        for index in range(len(LAYERS)):
            found = energy_kernel(model, left, right, by_layer=True)[index]
            assert_close(found, expected[index], 1e-11)
        assert_close(energy_kernel(model, left, right), expected.sum(0))


def test_output_kernel_is_the_trace_of_that_of_the_outputs(case):
    model, points, others, _ = case

    def outputs(parameters, x, y, t):
        network = EnergyMLP(parameters, model.schedule)
        return network.activations(x[None], y[None], t[None]).output[0]

    for right in (None, others):
        expected = trace(by_layer(kernel_blocks(outputs, model.parameters, points, right)))
        assert_close(output_kernel(model, points, right, by_layer=True), expected)


def test_gradient_kernel_is_that_of_the_mixed_derivative_layer_by_layer(case):
    model, points, others, energy = case
    field = gradient_field(energy)
    for right in (None, others):
        expected = by_layer(kernel_blocks(field, model.parameters, points, right))
        found = gradient_kernel_blocks(model, points, right, by_layer=True)
        for index in range(len(LAYERS)):
            assert_close(found[index], expected[index], 1e-11)
        assert_close(gradient_kernel_blocks(model, points, right), expected.sum(0))
        traced = gradient_kernel_trace(model, points, right, by_layer=True)
        assert_close(traced.value, trace(expected))
        assert (traced.stderr == 0).all()


def test_products_with_a_kernel_need_no_jacobian(case, generator):
    model, points, _, energy = case
    here = Points(*(part[:4] for part in points))
    there = Points(*(part[4:8] for part in points))
    v = normal(generator, 3, DIM_Y)
    found = kernel_products(gradient_field(energy), model.parameters, here, there, v)
    blocks = gradient_kernel_blocks(model, here, there)
    expected = torch.stack([v @ blocks[index, index].mT for index in range(4)])
    assert_close(found, expected)


def test_kernels_do_not_depend_on_how_points_and_directions_are_cut(case, monkeypatch):
    model, points, others, _ = case
    wholes = [gradient_kernel_trace(model, points, right).value for right in (None, others)]
    outputs = output_kernel(model, points)
    monkeypatch.setattr("iredinterp.analyses.ntk.kernels.TILE", 4)
    monkeypatch.setattr("iredinterp.analyses.ntk.kernels.BYTES", 1)
    for right, whole in zip((None, others), wholes, strict=True):
        assert_close(gradient_kernel_trace(model, points, right).value, whole)
    assert_close(output_kernel(model, points), outputs)


def test_one_step_of_gradient_descent_moves_the_field_by_the_kernel_to_first_order(generator):
    model = random_network(generator)
    points = random_points(generator, 6)
    target = normal(generator, 6, DIM_Y)

    def field(parameters):
        return EnergyMLP(parameters, model.schedule).energy_and_gradient(*points)[1]

    def loss(parameters):
        return (field(parameters) - target).pow(4).sum() / 4

    before = field(model.parameters)
    step = torch.func.grad(loss)(dict(model.parameters))
    foretold = -torch.einsum("bcij,cj->bi", gradient_kernel_blocks(model, points), (before - target) ** 3)
    # Small enough for the second order to lead, in units of what a step moves.
    unit = before.norm() / foretold.norm()
    sizes = 1e-3 * unit * 2.0 ** -torch.arange(5, dtype=torch.float64)
    remainders = []
    for h in sizes:
        after = {name: value - h * step[name] for name, value in model.parameters.items()}
        remainders.append((field(after) - before - h * foretold).norm())
    slope = np.polyfit(sizes.log().numpy(), torch.stack(remainders).log().numpy(), 1)[0]
    assert slope == pytest.approx(2, abs=0.1)


def test_a_linear_model_has_the_kernel_of_its_inputs(generator):
    W = {"W": normal(generator, 5, 3)}
    x = normal(generator, 6, 3)
    found = kernel_blocks(lambda parameters, x: parameters["W"] @ x, W, (x,))["W"]
    expected = (x @ x.mT)[..., None, None] * torch.eye(5, dtype=torch.float64)
    assert_close(found, expected)


def test_the_squared_linear_energy_has_both_kernels_in_closed_form(generator):
    """E = ‖W[x; y]‖², so ∂_θE = 2rzᵀ, and Θ_g follows by differentiating once more."""
    W = normal(generator, 5, DIM_X + DIM_Y)
    x, y = normal(generator, 6, DIM_X), normal(generator, 6, DIM_Y)

    def energy(parameters, x, y):
        return (parameters["W"] @ torch.cat([x, y])).square().sum()

    z = torch.cat([x, y], 1)
    r, Wy = z @ W.mT, W[:, DIM_X:]
    expected = 4 * (r @ r.mT) * (z @ z.mT)
    assert_close(kernel_blocks(energy, {"W": W}, (x, y))["W"][..., 0, 0], expected)
    back = r @ Wy
    expected = 4 * (
        (r @ r.mT)[..., None, None] * torch.eye(DIM_Y)
        + torch.einsum("ci,bj->bcij", y, back)
        + torch.einsum("ci,bj->bcij", back, y)
        + (z @ z.mT)[..., None, None] * (Wy.mT @ Wy)
    )
    found = kernel_blocks(gradient_field(energy), {"W": W}, (x, y))["W"]
    assert_close(found, expected)


def test_a_wide_two_layer_relu_network_has_the_arc_cosine_kernel(generator):
    """For f = aᵀrelu(Wx)/√h with standard normal a and W: Cho & Saul 2009, Jacot et al. 2018."""
    x = normal(generator, 6, 3)
    norms = x.norm(dim=1)
    cosine = ((x @ x.mT) / (norms[:, None] * norms)).clamp(-1, 1)
    angle = cosine.acos()
    first = norms[:, None] * norms * (angle.sin() + (torch.pi - angle) * cosine) / (2 * torch.pi)
    zeroth = (torch.pi - angle) / (2 * torch.pi)
    limit = first + (x @ x.mT) * zeroth

    def network(parameters, x):
        hidden = torch.relu(parameters["W"] @ x)
        return parameters["a"] @ hidden / len(hidden) ** 0.5

    widths, errors = (64, 256, 1024), []
    for width in widths:
        squares = []
        for _ in range(40):
            parameters = {"W": normal(generator, width, 3), "a": normal(generator, width)}
            found = sum(kernel_blocks(network, parameters, (x,)).values())[..., 0, 0]
            squares.append((found - limit).square().mean())
        errors.append(float(torch.stack(squares).mean().sqrt()))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.15)
    assert errors[-1] < 0.2 * limit.abs().mean()


def test_probes_are_unbiased_and_know_their_own_error(generator):
    model = random_network(generator, dim_y=12, hidden=16)
    points = random_points(generator, 5, dim_y=12)
    exact = gradient_kernel_trace(model, points).value
    basis = pilot_basis(model, Points(*(part[:2] for part in points)), 2)
    for deflated in (None, basis):
        errors, scores = [], []
        for _ in range(60):
            directions = probe_directions(points.y, 32, generator, deflated)
            found = gradient_kernel_trace(model, points, directions=directions)
            error = (found.value - exact).diagonal()
            # Points share their probes, so each draw counts once.
            errors.append((error / exact.diagonal()).mean())
            scores.append((error / found.stderr.diagonal()).square().mean())
        errors, scores = torch.stack(errors), torch.stack(scores)
        assert errors.mean().abs() < 5 * errors.std() / 60**0.5
        assert 0.5 < scores.mean().sqrt() < 2


def planted_spectrum_kernel(generator, d, deflated):
    """A stand-in for Θ_g with eigenvalues 2^−i, and the trace as probes estimate it, per probe."""
    Q = haar_orthogonal(d, generator)
    theta = Q @ torch.diag(2.0 ** -torch.arange(d, dtype=torch.float64)) @ Q.mT
    directions = probe_directions(
        torch.zeros(1, d).double(), 400, generator, Q[:, :deflated] if deflated else None
    )
    each = ((directions.probes @ theta) * directions.probes).sum(1)
    fixed = ((directions.exact @ theta) * directions.exact).sum()
    return theta, fixed, each


def test_deflation_reduces_the_variance_of_a_decaying_spectrum_and_keeps_the_trace(generator):
    theta, _, plain = planted_spectrum_kernel(generator, 20, 0)
    assert plain.mean() == pytest.approx(float(theta.trace()), abs=5 * float(plain.std()) / 20)
    theta, fixed, each = planted_spectrum_kernel(generator, 20, 5)
    # The variance of random signs is 2Σ_{i≠j}Θ_ij², at most 2‖Θ‖²_F: 2^−10 of it is left.
    assert each.std() < 0.2 * plain.std()
    assert fixed + each.mean() == pytest.approx(float(theta.trace()), abs=5 * float(each.std()) / 20 + 1e-12)


def test_a_basis_that_spans_everything_leaves_nothing_to_estimate(case, generator):
    model, points, _, _ = case
    directions = probe_directions(points.y, 2, generator, haar_orthogonal(DIM_Y, generator))
    found = gradient_kernel_trace(model, points, directions=directions)
    assert_close(found.value, gradient_kernel_trace(model, points).value)
    assert (found.stderr == 0).all()


def test_the_pilot_basis_spans_the_leading_eigenvectors_of_a_single_point(case):
    model, points, _, _ = case
    one = Points(*(part[:1] for part in points))
    block = gradient_kernel_blocks(model, one)[0, 0]
    basis = pilot_basis(model, one, 2)
    top = torch.linalg.eigvalsh(block)[-2:].sum()
    assert float((basis.mT @ block @ basis).trace()) == pytest.approx(float(top), rel=1e-10)
    traced = gradient_kernel_trace(model, one, directions=Directions(basis.mT, basis.mT[:0])).value
    assert float(traced) == pytest.approx(float(top), rel=1e-10)


def test_permuting_hidden_units_or_turning_the_outputs_changes_no_kernel(case, generator):
    model, points, _, _ = case
    order, Q = torch.randperm(HIDDEN, generator=generator), haar_orthogonal(DIM_Y, generator)
    moved = dict(model.parameters)
    for name in ("fc2.weight", "fc2.bias"):
        moved[name] = moved[name][order]
    rows = torch.cat([order, HIDDEN + order])
    for name in ("t_map_fc2.weight", "t_map_fc2.bias"):
        moved[name] = moved[name][rows]
    moved["fc3.weight"] = moved["fc3.weight"][:, order]
    moved["fc4.weight"], moved["fc4.bias"] = Q @ moved["fc4.weight"], Q @ moved["fc4.bias"]
    other = EnergyMLP(moved, model.schedule)
    for kernel in (energy_kernel, output_kernel, gradient_kernel_blocks):
        assert_close(kernel(other, points), kernel(model, points), 1e-11)


def test_an_offset_of_the_energy_with_parameters_of_its_own_changes_the_kernel_of_the_energy_alone(
    case, generator
):
    model, points, _, energy = case
    parameters = dict(model.parameters) | {"c": normal(generator, DIM_X, 10)}

    def shifted(parameters, x, y, t):
        offset = x @ torch.gather(parameters["c"], 1, t.expand(DIM_X, 1))[:, 0]
        return energy({name: parameters[name] for name in model.parameters}, x, y, t) + offset

    found = sum(kernel_blocks(gradient_field(shifted), parameters, points).values())
    assert_close(found, gradient_kernel_blocks(model, points))
    blocks = {name: trace(block) for name, block in kernel_blocks(shifted, parameters, points).items()}
    assert_close(blocks.pop("c"), (points.x @ points.x.mT) * (points.t[:, None] == points.t))
    assert_close(sum(blocks.values()), energy_kernel(model, points))


def test_the_kernel_of_a_planted_network_is_finite_and_positive_semidefinite(seed, generator):
    model = planted(DIM_X, DIM_Y, seed, decoys={"redundant": 2, "gated": 1}).model
    points = random_points(generator, 6)
    blocks = gradient_kernel_blocks(model, points).transpose(1, 2).reshape(24, 24)
    assert blocks.isfinite().all()
    values = torch.linalg.eigvalsh(blocks)
    assert values[0] > -1e-9 * values[-1]


def test_levels_that_do_not_exist_and_probes_without_an_error_are_refused(case, generator):
    model, points, _, _ = case
    with pytest.raises(ValueError, match="t must lie in 0 … 9, found 10 … 10"):
        energy_kernel(model, Points(points.x, points.y, 10))
    with pytest.raises(ValueError, match="t must be one level"):
        Factors.of(model, Points(points.x, points.y, points.t[:2]))
    with pytest.raises(ConfigError, match=r"ntk.kernels.probes: found 1, allowed ≥ 2"):
        probe_directions(points.y, 1, generator)


def test_every_direction_is_the_identity_in_the_precision_of_the_points():
    directions = every_direction(torch.zeros(2, 3, dtype=torch.float32))
    assert directions.exact.equal(torch.eye(3))
    assert directions.probes.shape == (0, 3)
