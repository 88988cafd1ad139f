"""Closed-form derivatives against autograd and differences, and chunks against memory that runs out."""

import logging

import pytest
import torch

from iredinterp.energy import CallableEnergy, MLPEnergy, autograd_hessian, map_chunks, resolve_device
from iredinterp.ired.model import EnergyMLP
from iredinterp.spectrum import spectra
from iredinterp.truth.analytic import QuadraticEnergy, haar_orthogonal

# (d_x, d, h): as the inverse task, a wide y (d > h), and one large enough for the blockwise triangle.
SHAPES = [(9, 9, 24), (16, 30, 12), (5, 210, 256), (7, 230, 40)]


def network(generator, dim_x, dim_y, hidden, dtype=torch.float64):
    return MLPEnergy(EnergyMLP.random(dim_x, dim_y, hidden, generator).to(dtype))


def points(energy, generator, size=4):
    x = torch.randn(size, energy.dim_x, generator=generator, dtype=torch.float64)
    y = torch.randn(size, energy.dim_y, generator=generator, dtype=torch.float64)
    t = torch.randint(energy.schedule.levels, (size,), generator=generator)
    return x.to(energy.dtype), y.to(energy.dtype), t


def by_autograd(energy):
    """The same network through torch.func alone."""
    return CallableEnergy(energy.model.energy, energy.dim_x, energy.dim_y, dtype=energy.dtype)


def assert_close(found, expected, relative):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_derivatives_are_those_of_autograd(shape, generator):
    energy = network(generator, *shape)
    x, y, t = points(energy, generator)
    reference = by_autograd(energy)
    value, gradient = energy.energy_and_gradient(x, y, t)
    point = y.clone().requires_grad_()
    expected = torch.autograd.grad(energy.model.energy(x, point, t).sum(), point)[0]
    assert_close(value, reference.energy(x, y, t), 1e-13)
    assert_close(gradient, expected, 1e-12)
    assert_close(reference.gradient(x, y, t), expected, 1e-12)
    hessian = energy.hessian(x, y, t)
    assert torch.equal(hessian, hessian.mT)
    assert_close(hessian, reference.hessian(x, y, t), 1e-12)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_derivatives_are_the_limits_of_central_differences(shape, generator):
    energy = network(generator, *shape)
    x, y, t = points(energy, generator)
    v = torch.nn.functional.normalize(torch.randn(y.shape, generator=generator, dtype=y.dtype))
    step = 1e-4
    energies = [energy.energy(x, y + sign * step * v, t) for sign in (1, -1)]
    gradients = [energy.gradient(x, y + sign * step * v, t) for sign in (1, -1)]
    slope = (energy.gradient(x, y, t) * v).sum(-1)
    scale = energy.gradient(x, y, t).norm(dim=-1).max()
    assert (slope - (energies[0] - energies[1]) / (2 * step)).abs().max() < 1e-7 * scale
    assert_close((gradients[0] - gradients[1]) / (2 * step), energy.hvp(x, y, t, v), 1e-6)


@pytest.mark.parametrize("make", [lambda energy: energy, by_autograd])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_hessian_vector_product_is_the_hessian_times_the_vector(shape, make, generator):
    energy = make(network(generator, *shape))
    x, y, t = points(energy, generator)
    hessian, multiply = energy.hessian(x, y, t), energy.hvp_operator(x, y, t)
    for _ in range(2):
        v = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        expected = (hessian @ v.unsqueeze(-1)).squeeze(-1)
        assert_close(multiply(v), expected, 1e-12)
        assert_close(energy.hvp(x, y, t, v), expected, 1e-12)


@pytest.mark.parametrize("make", [lambda energy: energy, by_autograd])
def test_compression_to_a_basis_is_the_hessian_between_its_columns(make, generator):
    energy = make(network(generator, *SHAPES[1]))
    x, y, t = points(energy, generator)
    basis = torch.linalg.qr(torch.randn(30, 7, generator=generator, dtype=torch.float64)).Q
    expected = basis.mT @ energy.hessian(x, y, t) @ basis
    assert_close(energy.hessian(x, y, t, basis), expected, 1e-12)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3]])
def test_a_network_narrower_than_y_is_flat_outside_its_range_basis(shape, generator):
    energy = network(generator, *shape)
    basis = energy.range_basis
    assert basis.shape == (energy.dim_y, energy.model.hidden)
    assert_close(basis.mT @ basis, torch.eye(energy.model.hidden).double(), 1e-13)
    hessian = energy.hessian(*points(energy, generator))
    assert_close(basis @ (basis.mT @ hessian @ basis) @ basis.mT, hessian, 1e-12)


def test_a_network_wider_than_y_and_a_function_promise_no_flat_direction(generator):
    energy = network(generator, *SHAPES[0])
    assert energy.range_basis is None
    assert by_autograd(energy).range_basis is None


def test_gauss_newton_is_the_squared_jacobian_and_the_rest_vanishes_where_the_outputs_do(generator):
    energy = network(generator, *SHAPES[0])
    x, y, t = points(energy, generator)

    def output(one_y, one_x, one_t):
        return energy.model.activations(one_x[None], one_y[None], one_t[None]).output[0]

    J = torch.func.vmap(torch.func.jacrev(output))(y, x, t)
    outputs = torch.func.vmap(output)(y, x, t)
    curvatures = torch.func.vmap(torch.func.hessian(output))(y, x, t)
    remainder = 2 * torch.einsum("bo,boij->bij", outputs, curvatures)
    assert_close(energy.gauss_newton(x, y, t), 2 * J.mT @ J, 1e-12)
    assert_close(energy.gauss_newton(x, y, t) + remainder, energy.hessian(x, y, t), 1e-12)

    bias = energy.model.parameters["fc4.bias"] - outputs[0]
    shifted = MLPEnergy(EnergyMLP(energy.model.parameters | {"fc4.bias": bias}, energy.schedule))
    first = x[:1], y[:1], t[:1]
    assert shifted.energy(*first).item() < 1e-25
    assert_close(shifted.hessian(*first), shifted.gauss_newton(*first), 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_keeps_its_digits(shape, generator):
    double = network(generator, *shape)
    x, y, t = points(double, generator)
    single = MLPEnergy(double.model.to(torch.float32))
    inputs = x.float(), y.float(), t
    for name in ("energy", "gradient", "hessian", "gauss_newton"):
        found = getattr(single, name)(*inputs)
        assert found.dtype == torch.float32
        assert_close(found.double(), getattr(double, name)(x, y, t), 1e-5)
    assert_close(single.hvp(*inputs, y.float()).double(), double.hvp(x, y, t, y), 1e-5)


@pytest.mark.parametrize("make", [lambda energy: energy, by_autograd])
def test_results_carry_no_graph_and_inputs_stay_as_they_were(make, generator):
    energy = make(network(generator, *SHAPES[1]))
    x, y, t = points(energy, generator)
    y.requires_grad_()
    before = x.clone(), y.detach().clone(), t.clone()
    results = [
        energy.energy(x, y, t),
        *energy.energy_and_gradient(x, y, t),
        energy.gradient(x, y, t),
        energy.hessian(x, y, t),
        energy.hvp(x, y, t, y.detach()),
    ]
    assert not any(result.requires_grad for result in results)
    assert y.grad is None
    assert all(torch.equal(now, then) for now, then in zip((x, y, t), before, strict=True))


@pytest.mark.parametrize("make", [lambda energy: energy, by_autograd])
def test_derivatives_survive_a_surrounding_no_grad(make, generator):
    energy = make(network(generator, *SHAPES[0]))
    x, y, t = points(energy, generator)
    expected = energy.gradient(x, y, t), energy.hessian(x, y, t), energy.hvp(x, y, t, y)
    with torch.no_grad():
        found = energy.gradient(x, y, t), energy.hessian(x, y, t), energy.hvp(x, y, t, y)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-13)


def test_first_use_inside_a_transform_leaves_a_network_usable_in_another(generator):
    energy = network(generator, *SHAPES[0])
    x, y, t = points(energy, generator)
    first, second = (autograd_hessian(energy.model.energy, x, y, t) for _ in range(2))
    assert torch.equal(first, second)
    assert_close(first, energy.hessian(x, y, t), 1e-12)


def test_one_level_for_all_is_that_level_for_each(generator):
    energy = network(generator, *SHAPES[0])
    x, y, _ = points(energy, generator)
    for make in (lambda one: one, by_autograd):
        each = make(energy).hessian(x, y, torch.full((4,), 3))
        assert torch.equal(make(energy).hessian(x, y, 3), each)
        assert torch.equal(make(energy).hessian(x, y, torch.tensor(3)), each)
        assert not torch.equal(make(energy).hessian(x, y, 4), each)


@pytest.mark.parametrize("make", [lambda energy: energy, by_autograd])
@pytest.mark.parametrize("method", ["energy", "gradient", "hessian", "hvp_operator"])
@pytest.mark.parametrize(
    ("t", "message"),
    [
        (10, r"t must lie in 0 … 9, found 10 … 10"),
        (torch.tensor([0, 1, -1, 2]), r"t must lie in 0 … 9, found -1 … 2"),
        (1.5, "t must be an integer level, found torch.float32"),
        (torch.zeros(3, dtype=torch.int64), r"one for each of 4 points, found shape \(3,\)"),
    ],
)
def test_a_level_that_does_not_exist_is_refused(t, message, method, make, generator):
    energy = make(network(generator, *SHAPES[0]))
    x, y, _ = points(energy, generator)
    with pytest.raises(ValueError, match=message):
        getattr(energy, method)(x, y, t)


def test_a_linear_energy_has_no_curvature_by_any_route(generator):
    energy = CallableEnergy(lambda x, y, t: (x * y).sum(-1), 6, 6)
    x, y, t = points(energy, generator)
    assert torch.equal(energy.gradient(x, y, t), x)
    assert torch.equal(energy.hessian(x, y, t), torch.zeros(4, 6, 6).double())
    assert torch.equal(energy.hvp(x, y, t, x), torch.zeros(4, 6).double())


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def limited(size, error=OUT_OF_MEMORY):
    """A function whose memory holds `size` rows."""
    calls = []

    def function(rows, more):
        calls.append(len(rows))
        if len(rows) > size:
            raise error
        return rows + more

    return function, calls


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_chunks_cover_every_row_once_and_in_order(chunk):
    function, calls = limited(100)
    rows = torch.arange(20)
    results = list(map_chunks(function, (rows, 100 * rows), chunk))
    assert torch.equal(torch.cat(results), 101 * rows)
    assert max(calls) == min(chunk, 20)
    assert len(calls) == -(-20 // chunk)


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ],
    ids=["torch", "cuBLAS", "cuSOLVER"],
)
def test_chunks_are_halved_when_memory_runs_out_and_this_is_logged(error, caplog):
    function, calls = limited(3, error)
    rows = torch.arange(11)
    with caplog.at_level(logging.WARNING, logger="iredinterp"):
        results = list(map_chunks(function, (rows, rows), 8))
    assert torch.equal(torch.cat(results), 2 * rows)
    assert calls == [8, 4, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory: continuing with chunks of 4 points",
        "out of memory: continuing with chunks of 2 points",
    ]


def test_chunks_are_halved_when_the_memory_of_the_host_runs_out():
    def greedy(rows):
        # Two rows ask for more than an address space holds.
        torch.empty(2**48 if len(rows) > 1 else 1, dtype=torch.uint8)
        return rows

    rows = torch.arange(5)
    assert torch.equal(torch.cat(list(map_chunks(greedy, (rows,), 4))), rows)


def test_a_single_row_that_does_not_fit_raises():
    function, calls = limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        list(map_chunks(function, (torch.arange(5), torch.arange(5)), 4))
    assert calls == [4, 2, 1]


def test_errors_that_are_not_about_memory_pass_through_at_once():
    calls = []

    def broken(rows):
        calls.append(len(rows))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(map_chunks(broken, (torch.arange(8),), 4))
    assert calls == [4]


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_without_rows_are_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk must be at least 1, found {chunk}"):
        list(map_chunks(lambda rows: rows, (torch.arange(3),), chunk))


@pytest.mark.parametrize("engine", ["closed", "autograd", "lanczos"])
def test_an_energy_given_by_formulas_serves_every_engine(generator, engine):
    spectrum = torch.linspace(-1, 2, 6, dtype=torch.float64)
    energy = QuadraticEnergy(spectrum=spectrum, eigenbasis=haar_orthogonal(6, generator))
    x = torch.zeros(3, 1, dtype=torch.float64)
    y = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    found = spectra(energy, x, y, 4, engine=engine).eigenvalues
    torch.testing.assert_close(found, spectrum.expand(3, -1), rtol=0, atol=1e-10)


def test_an_energy_given_by_formulas_compresses_and_multiplies_by_its_hessian(generator):
    Q = haar_orthogonal(6, generator)
    energy = QuadraticEnergy(spectrum=torch.arange(6, dtype=torch.float64), eigenbasis=Q)
    x, y = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    core = energy.hessian(x, y, 0, Q[:, 2:4])
    torch.testing.assert_close(core, torch.diag(torch.tensor([2.0, 3.0]).double()).expand(2, 2, 2))
    torch.testing.assert_close(
        energy.hvp(x, y, 0, Q[:, [5, 1]].mT), Q[:, [5, 1]].mT * torch.tensor([[5.0], [1.0]]).double()
    )


@pytest.mark.parametrize(
    ("environment", "usable", "device", "warned"),
    [
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, False, "cpu", True),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, True, "cuda", False),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""}, False, "cpu", False),
        ({"SLURM_JOB_ID": "7"}, False, "cpu", False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, False, "cpu", False),
        ({}, True, "cuda", False),
    ],
)
def test_the_log_names_the_device_and_a_gpu_that_the_scheduler_gave_in_vain(
    monkeypatch, caplog, environment, usable, device, warned
):
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    caplog.set_level(logging.INFO)
    assert resolve_device("auto").type == device
    *warnings, last = caplog.records
    assert last.getMessage() == f"device: {device}"
    assert [record.levelname for record in warnings] == ["WARNING"] * warned
    assert all("SLURM gave job 7 the GPU 0,1, but torch" in record.getMessage() for record in warnings)


def test_a_device_by_name_is_taken_as_it_is(monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert resolve_device("cpu") == torch.device("cpu")
    assert not caplog.records
