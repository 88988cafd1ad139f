"""Slices, minimum-energy paths and saddles on surfaces whose answers are published or written down."""

import numpy as np
import pytest
import torch

from iredinterp.analyses.landscape.planes import manifold_plane
from iredinterp.analyses.landscape.saddles import saddles
from iredinterp.analyses.landscape.slices import (
    hessian_plane,
    plane,
    principal_plane,
    slice_energies,
    slice_grid,
    states_at,
)
from iredinterp.barriers import elastic_band, line, paths_between, string_path
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.truth.analytic import (
    DoubleWell,
    GaussianPosterior,
    MixturePosterior,
    MuellerBrown,
    QuadraticEnergy,
    haar_orthogonal,
)

METHODS = [string_path, elastic_band]
SCHEDULE = cosine_schedule()


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def well(generator, d=4):
    return DoubleWell(curvatures=0.5 + 3 * torch.rand(d - 1, generator=generator, dtype=torch.float64))


def nothing(count):
    """The x of energies that do not read it, and level 0."""
    return torch.zeros(count, 1, dtype=torch.float64), torch.zeros(count, dtype=torch.long)


def test_a_slice_of_a_quadratic_is_half_the_hessian_form_in_units_of_sigma(generator):
    d, levels = 6, 10
    spectrum, centre = normal(generator, levels, d), normal(generator, d)
    energy = QuadraticEnergy(spectrum=spectrum, eigenbasis=haar_orthogonal(d, generator), centre=centre)
    axis = slice_grid(3.0, 7)
    x = torch.zeros(2, 1, dtype=torch.float64)
    for t in (0, 5, 9):
        where = plane(*normal(generator, 2, 2, d))
        found = slice_energies(energy, x, centre.expand(2, -1), t, where, axis, chunk=11)
        H = energy.hessian(x, centre.expand(2, -1), t)
        for row in range(2):
            z = axis[:, None, None] * where.u[row] + axis[None, :, None] * where.v[row]
            exact = SCHEDULE.sigma[t] ** 2 * torch.einsum("abi,ij,abj->ab", z, H[row], z) / 2
            torch.testing.assert_close(found[row], exact, rtol=1e-12, atol=1e-12)


def test_planes_are_orthonormal_and_keep_their_first_direction(generator):
    first, second = normal(generator, 2, 5, 8)
    second[1] = first[1] + 1e-9 * second[1]
    found = plane(first, second)
    basis = torch.stack([found.u, found.v], dim=1)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(2).double().expand(5, 2, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.u, first / first.norm(dim=1, keepdim=True))
    second[2], first[3] = -2 * first[2], 0
    assert plane(first, second).defined.tolist() == [True, True, False, False, True]


def test_the_hessian_plane_holds_the_extreme_eigenvectors(generator):
    basis = haar_orthogonal(7, generator)
    spectrum = torch.linspace(-2, 4, 7, dtype=torch.float64)
    hessian = (basis * spectrum) @ basis.mT
    found = hessian_plane(torch.stack([hessian, torch.full_like(hessian, torch.nan)]))
    assert abs(found.u[0] @ basis[:, -1]).item() == pytest.approx(1, abs=1e-9)
    assert abs(found.v[0] @ basis[:, 0]).item() == pytest.approx(1, abs=1e-9)
    assert found.defined.tolist() == [True, False]
    for direction in (found.u[0], found.v[0]):
        assert direction @ torch.arange(1, 8).double().sqrt() > 0


def test_the_manifold_plane_has_one_direction_along_answers_and_one_across(generator):
    n, noise = 4, normal(generator, 2, 3, 4, 4)
    left, right = normal(generator, 2, 3, n, 1)
    reference = left @ right.mT
    found = manifold_plane("completion", reference, 1, noise)
    P, Q = (factor @ factor.mT / factor.square().sum((1, 2), keepdim=True) for factor in (left, right))
    u, v = found.u.unflatten(1, (n, n)), found.v.unflatten(1, (n, n))
    torch.testing.assert_close(P @ u + u @ Q - P @ u @ Q, u, rtol=0, atol=1e-12)
    assert (P @ v).abs().max() < 1e-12
    assert (v @ Q).abs().max() < 1e-12
    symmetric = manifold_plane("inverse", reference, 1, noise)
    u, v = symmetric.u.unflatten(1, (n, n)), symmetric.v.unflatten(1, (n, n))
    torch.testing.assert_close(u, u.mT)
    torch.testing.assert_close(v, -v.mT)
    assert not manifold_plane("addition", reference, 1, noise).defined.any()
    assert not manifold_plane("completion", torch.zeros_like(reference), 1, noise).defined.any()


def test_principal_planes_are_those_of_the_covariance_and_tell_how_much_they_hold(generator):
    states = normal(generator, 9, 3, 6) * torch.linspace(3, 0.1, 6, dtype=torch.float64)
    found, share = principal_plane(states)
    for row in range(3):
        values, vectors = np.linalg.eigh(np.cov(states[:, row].T.numpy()))
        np.testing.assert_allclose(share[row], values[::-1][:2] / values.sum(), rtol=1e-9)
        for component, direction in ((-1, found.u), (-2, found.v)):
            assert abs(vectors[:, component] @ direction[row].numpy()) == pytest.approx(1, abs=1e-9)
            assert direction[row] @ torch.arange(1, 7).double().sqrt() > 0
    onward = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None] * normal(generator, 2, 6)
    assert not principal_plane(onward)[0].defined.any()


def test_states_of_a_level_begin_where_the_level_was_entered_and_end_where_it_was_left(generator):
    energy = MLPEnergy(EnergyMLP.random(2, 3, 8, generator).to(torch.float64))
    run = sample(energy, normal(generator, 4, 2), init=normal(generator, 4, 3))
    for t in range(10):
        states = states_at(run, SCHEDULE, t)
        assert states.shape == (7, 4, 3)
        torch.testing.assert_close(states[-1], run.answers[9 - t] * SCHEDULE.sqrt_alphas_cumprod[t].item())
    torch.testing.assert_close(states_at(run, SCHEDULE, 9)[0], run.entered[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_double_well_has_a_barrier_of_one_at_a_saddle_in_the_origin(method, generator):
    energy = well(generator)
    ends = energy.minima
    x, t = nothing(1)
    found = method(energy, x, ends[:1], ends[1:], t, images=11, steps=300)
    assert found.converged.all()
    assert found.barrier.item() == pytest.approx(1, abs=1e-9)
    assert found.length_ratio.item() == pytest.approx(1, abs=1e-9)
    top = saddles(energy, x, found, t, 1e-10)
    assert top.verified.all()
    assert top.index.item() == 1
    torch.testing.assert_close(top.y, energy.saddles, rtol=0, atol=1e-10)
    assert top.energy.item() == pytest.approx(energy.barrier, abs=1e-12)
    assert top.eigenvalues[0, 0].item() == pytest.approx(-4)


@pytest.mark.parametrize("method", METHODS)
def test_paths_of_mueller_and_brown_cross_the_published_saddles(method):
    energy = MuellerBrown()
    x, t = nothing(3)
    pairs = torch.tensor([[0, 2], [0, 1], [1, 2]])
    start, end = energy.minima[pairs].unbind(1)
    found = method(energy, x, start, end, t, images=16, steps=400)
    assert found.converged.all()
    top = saddles(energy, x, found, t, 1e-8)
    assert top.verified.all()
    higher = energy.minimum_energies[pairs].amax(1)
    published = energy.saddle_energies[[0, 0, 1]] - higher
    torch.testing.assert_close(top.energy - higher, published, rtol=0, atol=1e-6)
    # Without Newton's steps the images bound it from below, by their spacing.
    torch.testing.assert_close(found.barrier, published, rtol=0.04, atol=0)
    straight = energy.energy(x.repeat_interleave(99, 0), line(start, end, 99).flatten(0, 1), 0)
    assert (straight.reshape(3, 99).amax(1) - higher > published).all()
    assert (found.length_ratio > 1.05).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_saddle_between_two_equal_gaussians_is_halfway(method, generator):
    d, distance = 4, 1.0 + torch.rand(1, generator=generator).item()
    axis = haar_orthogonal(d, generator)[0]
    parts = [
        GaussianPosterior(
            slope=torch.zeros(d, 1), centre=sign * distance * axis, covariance=0.01 * torch.eye(d)
        )
        for sign in (1, -1)
    ]
    energy = MixturePosterior(weights=torch.tensor([0.5, 0.5]), components=parts)
    # Bent, so that the path is not the straight line: y → y + 0.3(a·y)² b moves the middle sideways.
    side = haar_orthogonal(d, generator)[0]
    side = side - (side @ axis) * axis

    def bent(x, y, t):
        along = y @ axis
        return energy.function(x, y + 0.3 * (along.square() - 1)[:, None] * side, t)

    surface = CallableEnergy(bent, 1, d)
    levels = torch.tensor([0, 2])
    x = torch.zeros(2, 1, dtype=torch.float64)
    reached = SCHEDULE.sqrt_alphas_cumprod[levels].unsqueeze(1) * distance * axis

    def unbent(y):
        return y - 0.3 * ((y @ axis).square() - 1)[:, None] * side

    found = method(surface, x, unbent(reached), unbent(-reached), levels, images=11, steps=300)
    top = saddles(surface, x, found, levels, 1e-8)
    assert top.verified.all()
    torch.testing.assert_close(top.y, unbent(0 * reached), rtol=0, atol=1e-6)
    exact = energy.energy(x, 0 * reached, levels)
    torch.testing.assert_close(top.energy, exact, rtol=0, atol=1e-9)


def test_a_saddle_of_two_unstable_directions_is_not_taken_for_a_barrier(generator):
    scale = normal(generator, 1).abs().item() + 0.5

    def function(x, y, t):
        return scale * (y.square() - 1).square().sum(1)

    energy = CallableEnergy(function, 1, 2)
    x, t = nothing(1)
    start = torch.ones(1, 2, dtype=torch.float64)
    # By symmetry the straight line is stationary, and its top, the origin, has index 2.
    found = string_path(energy, x, start, -start, t, images=11, steps=50)
    top = saddles(energy, x, found, t, 1e-8)
    assert top.index.item() == 2
    assert not top.verified.any()


def test_paths_found_together_are_those_found_one_by_one(generator):
    energy = MuellerBrown()
    x, t = nothing(3)
    start, end = energy.minima[torch.tensor([[0, 2], [0, 1], [1, 2]])].unbind(1)
    whole = paths_between(energy, x, start, end, t, images=10, steps=100, chunk=1000)
    for row in range(3):
        part = slice(row, row + 1)
        alone = paths_between(energy, x[part], start[part], end[part], t[part], 10, 100, chunk=1)
        for together, single in zip(whole, alone, strict=True):
            torch.testing.assert_close(together.images[part], single.images, rtol=0, atol=1e-9)
            torch.testing.assert_close(together.energies[part], single.energies, rtol=1e-9, atol=1e-9)
    split = paths_between(energy, x, start, end, t, images=10, steps=100, chunk=15)
    torch.testing.assert_close(split[1].images, whole[1].images, rtol=0, atol=1e-9)


def test_a_path_that_is_stopped_early_says_so():
    energy = MuellerBrown()
    x, t = nothing(1)
    assert not string_path(energy, x, energy.minima[:1], energy.minima[2:], t, images=10, steps=2).converged
