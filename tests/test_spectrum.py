"""Every engine against energies whose spectra are known, against one another, and against ARPACK."""

import sys

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from iredinterp.energy import CallableEnergy, Energy, MLPEnergy, load_energy
from iredinterp.errors import EngineError
from iredinterp.ired.model import EnergyMLP
from iredinterp.spectrum import ENGINES, spectra

DENSE = ("closed", "autograd")
WHOLE = (*DENSE, "lanczos")
# (d_x, d, h): small, compressed (d > h), blockwise triangle (d ≥ 200), both.
SHAPES = [(9, 9, 24), (16, 30, 12), (5, 210, 256), (7, 230, 40)]
# Random initialisation, and weights three times as large: curvature of either sign, a wide spectrum.
GAINS = [1.0, 3.0]


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def network(generator, dim_x, dim_y, hidden, gain=1.0):
    model = EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64)
    parameters = {name: gain * value for name, value in model.parameters.items()}
    return MLPEnergy(EnergyMLP(parameters, model.schedule))


def points(energy, generator, size=3):
    t = torch.randint(energy.schedule.levels, (size,), generator=generator)
    return normal(generator, size, energy.dim_x), normal(generator, size, energy.dim_y), t


def quadratic(generator, eigenvalues):
    """E = ½yᵀHy + xᵀy with planted eigenvalues (d,); the same H at every point, (d, d)."""
    d = len(eigenvalues)
    Q = torch.linalg.qr(normal(generator, d, d)).Q
    H = Q @ eigenvalues.diag() @ Q.mT
    H = (H + H.mT) / 2

    def energy(x, y, t):
        return (y * (y @ H)).sum(-1) / 2 + (x * y).sum(-1)

    return CallableEnergy(energy, d, d), H


def whole(engine, d):
    """Options that make an engine return all d eigenvalues."""
    return {"count": d} if engine == "lanczos" else {}


@pytest.fixture(params=["random initialisation", "random with large weights", "trained by the official code"])
def landscape(request, generator, official):
    """A network and points (x, y, t)."""
    if request.param == "trained by the official code":
        t = torch.tensor([9, 5, 0])
        y = official.get("ema", torch.float64, "q_sample")[t, torch.arange(3)]
        return load_energy(official.path), (official.reference["x"][:3], y, t)
    energy = network(generator, 9, 60, 80, 3.0 if "large" in request.param else 1.0)
    return energy, points(energy, generator)


def relative_error(found, expected):
    return ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max().item()


@pytest.mark.parametrize("engine", WHOLE)
def test_spectrum_of_an_indefinite_quadratic_is_the_planted_one(engine, generator):
    planted = normal(generator, 24).sort().values
    energy, _ = quadratic(generator, planted)
    result = spectra(energy, *points(energy, generator), engine=engine, **whole(engine, 24))
    assert (result.complete, result.which) == (True, "all")
    assert result.eigenvalues.dtype == torch.float64
    assert relative_error(result.eigenvalues, planted.expand(3, -1)) < 1e-10


@pytest.mark.parametrize("engine", WHOLE)
def test_spectrum_of_one_sided_inverse_energy_is_the_squared_singular_values_once_per_column(
    engine, generator
):
    n = 4
    energy = CallableEnergy(
        lambda x, y, t: (
            (x.unflatten(-1, (n, n)) @ y.unflatten(-1, (n, n)) - torch.eye(n)).square().sum((1, 2)) / 2
        ),
        n * n,
        n * n,
    )
    x, y, t = points(energy, generator)
    squared = torch.linalg.svdvals(x.view(-1, n, n)).square()
    expected = squared.repeat_interleave(n, dim=1).sort().values
    result = spectra(energy, x, y, t, engine=engine, **whole(engine, n * n))
    assert relative_error(result.eigenvalues, expected) < 1e-10
    X = x.view(-1, n, n)
    kept = spectra(energy, x, y, t, keep_hessian=True).hessian
    for found, one in zip(kept, X, strict=True):
        assert torch.allclose(found, torch.kron(one.mT @ one, torch.eye(n).double()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", WHOLE)
def test_spectrum_of_two_sided_inverse_energy_is_sums_of_squared_singular_values(engine, generator):
    n = 4

    def two_sided(x, y, t):
        X, Y, eye = x.unflatten(-1, (n, n)), y.unflatten(-1, (n, n)), torch.eye(n)
        return ((X @ Y - eye).square() + (Y @ X - eye).square()).sum((1, 2)) / 2

    energy = CallableEnergy(two_sided, n * n, n * n)
    x, y, t = points(energy, generator)
    squared = torch.linalg.svdvals(x.view(-1, n, n)).square()
    expected = (squared.unsqueeze(2) + squared.unsqueeze(1)).flatten(1).sort().values
    result = spectra(energy, x, y, t, engine=engine, **whole(engine, n * n))
    assert relative_error(result.eigenvalues, expected) < 1e-10


@pytest.mark.parametrize("engine", WHOLE)
def test_completion_energy_is_curved_by_one_on_observed_entries_and_flat_off_them(engine, generator):
    mask = (torch.rand(3, 20, generator=generator) < 0.5).double()
    energy = CallableEnergy(lambda x, y, t: (x * (y - 0.3)).square().sum(-1) / 2, 20, 20)
    _, y, t = points(energy, generator)
    result = spectra(energy, mask, y, t, engine=engine, vectors=20, **whole(engine, 20))
    assert torch.allclose(result.eigenvalues, mask.sort(dim=1).values, rtol=0, atol=1e-12)
    for vectors, observed in zip(result.low, mask, strict=True):
        flat = int((observed == 0).sum())
        assert vectors[observed == 1, :flat].abs().max() < 1e-12
        assert vectors[observed == 0, flat:].abs().max() < 1e-12


def hessian_by_torch_func(energy, x, y, t):
    def single(one_y, one_x, one_t):
        return energy.model.energy(one_x[None], one_y[None], one_t[None])[0]

    return torch.func.vmap(torch.func.hessian(single))(y, x, t)


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_hessian_is_that_of_torch_func(shape, gain, generator):
    energy = network(generator, *shape, gain)
    x, y, t = points(energy, generator, size=2)
    expected = hessian_by_torch_func(energy, x, y, t)
    eigenvalues = torch.linalg.eigvalsh(expected)
    scale = eigenvalues.abs().max()
    result = spectra(energy, x, y, t, keep_hessian=True)
    assert (result.hessian - expected).abs().max() < 1e-12 * scale
    assert (result.eigenvalues - eigenvalues).abs().max() < 1e-12 * scale


@pytest.mark.parametrize("engine", DENSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_networks_are_solved_in_double(shape, engine, generator):
    energy = network(generator, *shape)
    x, y, t = points(energy, generator, size=2)
    eigenvalues = torch.linalg.eigvalsh(hessian_by_torch_func(energy, x, y, t))
    single = MLPEnergy(energy.model.to(torch.float32))
    result = spectra(single, x.float(), y.float(), t, engine=engine, keep_hessian=True)
    assert result.hessian.dtype == result.eigenvalues.dtype == torch.float64
    assert (result.eigenvalues - eigenvalues).abs().max() < 1e-5 * eigenvalues.abs().max()
    solved = torch.linalg.eigvalsh(result.hessian)
    assert (result.eigenvalues - solved).abs().max() < 1e-12 * eigenvalues.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_trace_of_the_hessian_is_the_sum_of_its_eigenvalues(shape, generator):
    energy = network(generator, *shape)
    result = spectra(energy, *points(energy, generator), keep_hessian=True)
    trace = result.hessian.diagonal(dim1=1, dim2=2).sum(-1)
    scale = result.eigenvalues.abs().sum(1)
    assert ((trace - result.eigenvalues.sum(1)).abs() < 1e-12 * scale).all()


@pytest.mark.parametrize("gain", GAINS)
def test_rotating_y_leaves_the_spectrum_and_a_constant_leaves_everything(gain, generator):
    energy = network(generator, 6, 12, 20, gain)
    x, y, t = points(energy, generator)
    Q = torch.linalg.qr(normal(generator, 12, 12)).Q
    rotated = CallableEnergy(lambda x, y, t: energy.model.energy(x, y @ Q, t), 6, 12)
    shifted = CallableEnergy(lambda x, y, t: energy.model.energy(x, y, t) + 7 * x.sum(-1) + t, 6, 12)
    expected = spectra(energy, x, y, t).eigenvalues
    assert relative_error(spectra(rotated, x, y @ Q.mT, t).eigenvalues, expected) < 1e-12
    assert relative_error(spectra(shifted, x, y, t).eigenvalues, expected) < 1e-12


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("engine", WHOLE)
def test_vectors_are_orthonormal_eigenvectors_of_both_ends(landscape, engine, count):
    energy, sample = landscape
    H = energy.hessian(*sample)
    result = spectra(energy, *sample, engine=engine, vectors=count)
    assert (result.eigenvalues.diff(dim=1) >= 0).all()
    scale = result.eigenvalues.abs().amax()
    ends = (result.low, result.eigenvalues[:, :count]), (result.high, result.eigenvalues[:, -count:])
    for vectors, values in ends:
        assert vectors.shape == (3, energy.dim_y, count)
        assert (H @ vectors - vectors * values.unsqueeze(1)).abs().max() < 1e-7 * scale
        identity = torch.eye(count).double().expand(3, -1, -1)
        assert torch.allclose(vectors.mT @ vectors, identity, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 14, 6), (4, 6, 14)])
def test_all_eigenvectors_diagonalise_the_hessian_also_where_it_is_flat(shape, generator):
    energy = network(generator, *shape, 3.0)
    x, y, t = points(energy, generator)
    d = energy.dim_y
    result = spectra(energy, x, y, t, vectors=d, keep_hessian=True)
    assert torch.equal(result.low, result.high)
    identity = torch.eye(d).double().expand(3, -1, -1)
    assert torch.allclose(result.low.mT @ result.low, identity, rtol=0, atol=1e-12)
    rebuilt = result.low @ result.eigenvalues.diag_embed() @ result.low.mT
    scale = result.eigenvalues.abs().max()
    assert (rebuilt - energy.hessian(x, y, t)).abs().max() < 1e-12 * scale
    assert (result.hessian - energy.hessian(x, y, t)).abs().max() < 1e-12 * scale
    flat = max(0, d - energy.model.hidden)
    assert ((result.eigenvalues == 0).sum(1) == flat).all()


class Rebased(MLPEnergy):
    """A network whose range is given in a basis of another origin than QR."""

    @property
    def range_basis(self):
        return -super().range_basis.flip(1)


def test_any_basis_of_the_range_serves(generator):
    plain = network(generator, 4, 14, 6)
    energy = Rebased(plain.model)
    sample = points(energy, generator)
    assert not torch.allclose(energy.range_basis, plain.range_basis)
    result = spectra(energy, *sample, vectors=14, keep_hessian=True)
    scale = result.eigenvalues.abs().max()
    rebuilt = result.low @ result.eigenvalues.diag_embed() @ result.low.mT
    for hessian in (rebuilt, result.hessian):
        assert (hessian - energy.hessian(*sample)).abs().max() < 1e-12 * scale


def test_single_precision_network_with_flat_directions_has_orthonormal_vectors(generator):
    model = EnergyMLP.random(4, 14, 6, generator)
    energy = MLPEnergy(model)
    x, y, t = normal(generator, 3, 4).float(), normal(generator, 3, 14).float(), 4
    low = spectra(energy, x, y, t, vectors=14).low
    assert torch.allclose(low.mT @ low, torch.eye(14).double().expand(3, -1, -1), rtol=0, atol=1e-12)


def test_symmetry_defect_is_rounding_for_autograd_and_unknown_to_the_others(generator):
    energy = network(generator, 6, 12, 20)
    sample = points(energy, generator)
    result = spectra(energy, *sample, engine="autograd", keep_hessian=True)
    assert torch.equal(result.hessian, result.hessian.mT)
    assert result.symmetry_defect.shape == (3,)
    assert result.symmetry_defect.max() < 1e-14
    assert spectra(energy, *sample).symmetry_defect is None


def test_all_engines_agree_on_the_same_points(landscape):
    energy, sample = landscape
    closed = spectra(energy, *sample).eigenvalues
    assert relative_error(spectra(energy, *sample, engine="autograd").eigenvalues, closed) < 1e-12
    ends = spectra(energy, *sample, engine="lanczos", count=4)
    assert (ends.complete, ends.which) == (False, "both ends")
    assert relative_error(ends.eigenvalues, torch.cat([closed[:, :4], closed[:, -4:]], dim=1)) < 1e-10
    # Power iteration says of a value only that some eigenvalue is within the residual of it.
    power = spectra(energy, *sample, engine="pyhessian", count=3)
    assert (power.complete, power.which) == (False, "largest magnitude")
    distance = (power.eigenvalues.unsqueeze(2) - closed.unsqueeze(1)).abs().amin(2)
    assert (distance <= power.residual + 1e-12 * closed.abs().max()).all()


def test_pyhessian_finds_the_top_of_a_trained_landscape(official):
    x, y = official.reference["x"][:2], official.get("ema", torch.float64, "q_sample")[5, :2]
    energy = load_energy(official.path)
    top = spectra(energy, x, y, 5).eigenvalues[:, -1:]
    result = spectra(energy, x, y, 5, engine="pyhessian", count=1, tol=1e-7, max_iter=1000)
    assert relative_error(result.eigenvalues, top) < 1e-3


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_pyhessian_finds_well_separated_eigenvalues_of_any_size(size, generator):
    planted = size * torch.tensor([-8.0, 5.0, 3.0, -1.0, 0.5, 0.1, 0.0, 0.0], dtype=torch.float64)
    energy, _ = quadratic(generator, planted)
    result = spectra(energy, *points(energy, generator), engine="pyhessian", count=3, tol=1e-9, max_iter=5000)
    expected = size * torch.tensor([[-8.0, 3.0, 5.0]] * 3, dtype=torch.float64)
    assert relative_error(result.eigenvalues, expected) < 1e-4
    assert (result.residual < 1e-2 * size).all()


@pytest.mark.parametrize("gain", GAINS)
def test_pyhessian_agrees_on_networks_where_the_largest_eigenvalues_are_separated(gain, generator):
    def separation(magnitudes):
        return (magnitudes[:, 1:4] / magnitudes[:, :3]).amax(1)

    found = []
    while len(found) < 3:
        energy = network(generator, 4, 8, 16, gain)
        x, y, t = points(energy, generator, size=20)
        closed = spectra(energy, x, y, t).eigenvalues
        magnitudes, order = closed.abs().sort(dim=1, descending=True)
        index = int(separation(magnitudes).argmin())
        if separation(magnitudes)[index] < 0.8:
            one = slice(index, index + 1)
            expected = closed[one].gather(1, order[one, :3]).sort(dim=1).values
            found.append(((energy, x[one], y[one], t[one]), expected))
    for sample, expected in found:
        result = spectra(*sample, engine="pyhessian", count=3, tol=1e-9, max_iter=5000)
        assert relative_error(result.eigenvalues, expected) < 1e-4


def test_both_ends_are_those_arpack_finds(landscape, generator):
    energy, (x, y, t) = landscape
    d = energy.dim_y
    result = spectra(energy, x, y, t, engine="lanczos", count=3)
    assert result.eigenvalues.shape == (3, 6)
    for index in range(3):
        one = slice(index, index + 1)
        multiply = energy.hvp_operator(x[one], y[one], t[one])
        operator = scipy.sparse.linalg.LinearOperator(
            (d, d),
            lambda v, multiply=multiply: multiply(torch.from_numpy(v.reshape(1, -1))).numpy().ravel(),
            dtype=np.float64,
        )
        v0 = normal(generator, d).numpy()
        arpack = scipy.sparse.linalg.eigsh(operator, k=6, which="BE", v0=v0, return_eigenvectors=False)
        scale = np.abs(arpack).max()
        np.testing.assert_allclose(result.eigenvalues[index], np.sort(arpack), rtol=0, atol=1e-9 * scale)


def test_lanczos_takes_more_steps_until_a_clustered_end_has_converged(generator):
    # As trained energies are: nearly all eigenvalues in one cluster at the top.
    planted = torch.cat([1 - 0.02 * torch.rand(240, generator=generator), torch.linspace(0.1, 0.9, 10)])
    planted = planted.double().sort().values
    energy, _ = quadratic(generator, planted)
    result = spectra(energy, *points(energy, generator), engine="lanczos", tolerance=1e-9)
    assert result.eigenvalues.shape == (3, 20)
    assert (result.residual < 2e-9).all()
    expected = torch.cat([planted[:10], planted[-10:]]).expand(3, -1)
    assert relative_error(result.eigenvalues, expected) < 1e-9


def test_lanczos_gives_a_point_the_same_values_alone_and_among_others_converged_or_not(generator):
    energy, _ = quadratic(generator, torch.linspace(0, 1, 250, dtype=torch.float64))
    x, y, t = points(energy, generator)
    request = {"engine": "lanczos", "count": 2, "tolerance": 1.0}
    together = spectra(energy, x, y, t, **request)
    assert (together.residual > 1e-6).all()
    alone = spectra(energy, x[1:2], y[1:2], t[1:2], **request)
    assert relative_error(together.eigenvalues[1:2], alone.eigenvalues) < 1e-10


@pytest.mark.parametrize("engine", ["lanczos", "pyhessian"])
def test_iterative_engines_work_in_single_precision(engine, generator):
    model = EnergyMLP.random(4, 12, 16, generator)
    sample = normal(generator, 2, 4), normal(generator, 2, 12), 5
    closed = spectra(MLPEnergy(model.to(torch.float64)), *sample).eigenvalues
    x, y, t = sample
    result = spectra(MLPEnergy(model), x.float(), y.float(), t, engine=engine, count=1)
    assert result.eigenvalues.dtype == torch.float64
    distance = (result.eigenvalues.unsqueeze(2) - closed.unsqueeze(1)).abs().amin(2)
    assert (distance <= result.residual + 1e-5 * closed.abs().max()).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flat_energy_has_only_zeros(engine, generator):
    energy = CallableEnergy(lambda x, y, t: (x * y + 0 * y**2).sum(-1), 5, 5)
    result = spectra(energy, *points(energy, generator), engine=engine)
    assert torch.equal(result.eigenvalues, torch.zeros_like(result.eigenvalues))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_unknown_has_one_eigenvalue(engine, generator):
    energy = CallableEnergy(lambda x, y, t: -(y**2).sum(-1), 2, 1)
    result = spectra(energy, *points(energy, generator), engine=engine)
    assert torch.allclose(result.eigenvalues, torch.full((3, 1), -2.0).double(), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_repeat_themselves_and_leave_no_trace(engine, generator, capfd, recwarn):
    energy = network(generator, 4, 9, 16)
    x, y, t = points(energy, generator)
    before, state = (x.clone(), y.clone()), torch.get_rng_state()
    first = spectra(energy, x, y, t, engine=engine).eigenvalues
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(spectra(energy, x, y, t, engine=engine).eigenvalues, first)
    assert not first.requires_grad
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if warning.category is not DeprecationWarning]


class Opaque(Energy):
    """A cubic that offers derivatives but no function."""

    def __init__(self):
        self.inner = CallableEnergy(lambda x, y, t: (y**3).sum(-1), 2, 4)
        self.schedule, self.dim_x, self.dim_y = self.inner.schedule, 2, 4
        self.dtype, self.device = self.inner.dtype, self.inner.device

    def energy(self, x, y, t):
        return self.inner.energy(x, y, t)

    def energy_and_gradient(self, x, y, t):
        return self.inner.energy_and_gradient(x, y, t)

    def hessian(self, x, y, t, basis=None):
        return self.inner.hessian(x, y, t, basis)

    def hvp_operator(self, x, y, t):
        return self.inner.hvp_operator(x, y, t)


@pytest.mark.parametrize("engine", ["closed", "lanczos"])
def test_derivatives_are_enough_for_some_engines(engine, generator):
    energy = Opaque()
    x, y, t = points(energy, generator)
    result = spectra(energy, x, y, t, engine=engine)
    ascending = (6 * y).sort(dim=1).values
    assert torch.allclose(result.eigenvalues, ascending, rtol=0, atol=1e-12 * ascending.abs().max())


@pytest.mark.parametrize("engine", ["autograd", "pyhessian"])
def test_engines_that_need_a_function_say_so(engine, generator):
    energy = Opaque()
    with pytest.raises(
        EngineError, match=rf"'{engine}' differentiates a function and Opaque offers none: wrap it in"
    ):
        spectra(energy, *points(energy, generator), engine=engine)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"engine": "power"}, "unknown engine 'power': use one of closed, autograd, lanczos, pyhessian"),
        ({"count": 3}, "'closed' does not take 'count': use engine 'lanczos' or 'pyhessian'"),
        ({"engine": "autograd", "tol": 1e-3}, "'autograd' does not take 'tol': use engine 'pyhessian'"),
        (
            {"engine": "lanczos", "keep_hessian": True},
            "'lanczos' does not take 'keep_hessian': use engine 'clos",
        ),
        (
            {"engine": "pyhessian", "vectors": 2},
            "'pyhessian' does not take 'vectors': use engine 'closed' or",
        ),
        ({"colour": "red"}, "'closed' does not take 'colour': no engine does"),
        (
            {"engine": "lanczos", "count": 2, "vectors": 3},
            "finds 2 eigenpairs at each end, asked for 3 vectors",
        ),
    ],
)
def test_a_request_an_engine_cannot_meet_names_one_that_can(request_, message, generator):
    energy = network(generator, 4, 9, 16)
    with pytest.raises(EngineError, match=message):
        spectra(energy, *points(energy, generator), **request_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 5)}, r"x must have shape \(B, 4\), found \(3, 5\)"),
        ({"y": torch.zeros(3, 3, 3)}, r"y must have shape \(B, 9\), found \(3, 3, 3\)"),
        ({"y": torch.zeros(3, 9)}, "y must be torch.float64 as the energy is, found torch.float32"),
        ({"x": torch.zeros(2, 4).double()}, "must describe the same points, found 2 and 3"),
        ({"x": torch.zeros(0, 4).double(), "y": torch.zeros(0, 9).double()}, "found 0 and 0"),
        ({"t": 10}, "t must lie in 0 … 9, found 10"),
        ({"t": torch.zeros(2, dtype=torch.int64)}, r"one for each of 3 points, found shape \(2,\)"),
        ({"t": torch.zeros(3)}, "t must be an integer level, found torch.float32"),
        ({"vectors": 10}, "vectors must lie in 0 … d = 9, found 10"),
        ({"vectors": -1}, "vectors must lie in 0 … d = 9, found -1"),
        ({"engine": "lanczos", "count": 0}, "count must lie in 1 … d = 9, found 0"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_points_that_do_not_fit_the_energy_are_refused_by_every_engine(engine, change, message, generator):
    energy = network(generator, 4, 9, 16)
    x, y, t = points(energy, generator)
    with pytest.raises(ValueError, match=message):
        spectra(energy, **({"x": x, "y": y, "t": t, "engine": engine} | change))


@pytest.mark.parametrize("engine", ENGINES)
def test_points_where_the_hessian_is_not_finite_are_named(engine, generator):
    energy = network(generator, 4, 9, 16)
    x, y, t = points(energy, generator)
    y[1, 3] = torch.nan
    with pytest.raises(EngineError, match=r"not finite at points \[1\]"):
        spectra(energy, x, y, t, engine=engine)


def test_a_missing_reference_library_names_the_extra_that_brings_it(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "pyhessian", None)
    energy = network(generator, 4, 9, 16)
    with pytest.raises(EngineError, match=r'pip install "iredinterp\[reference\]"'):
        spectra(energy, *points(energy, generator), engine="pyhessian")
