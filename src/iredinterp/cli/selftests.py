"""Small calculations with known answers, one per part of the package.

Each returns how far off it is from something that the part did not compute itself.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DIM_X, DIM_Y, COUNT = 6, 9, 8


def schedule() -> float:
    """ᾱ_t against cos²((t + 1)/K …)/cos²(0 …), but for the last level, where β is clipped."""
    from iredinterp.ired.schedule import cosine_schedule

    steps = np.arange(10) / 10
    signal = np.cos((steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.abs(cosine_schedule().abar[:9].numpy() - signal[1:] / signal[0]).max()


def problems() -> float:
    """Condition numbers of x and products x y* of inversion at κ = 10."""
    from iredinterp.ired.tasks import make_problems

    drawn = make_problems("inverse", 5, COUNT, seed=0, kappa=10)
    x, y = drawn.x.view(-1, 5, 5).numpy(), drawn.y_star.view(-1, 5, 5).numpy()
    product = x @ y
    scalar = np.trace(product, axis1=1, axis2=2)[:, None, None] / 5 * np.eye(5)
    return max(np.abs(np.linalg.cond(x) - 10).max(), np.abs(product - scalar).max())


def spectrum() -> float:
    """Eigenvalues of a planted network's input Hessian at every level."""
    from iredinterp.energy import MLPEnergy
    from iredinterp.spectrum import spectra

    case, x, y = _planted()
    found = [spectra(MLPEnergy(case.model), x, y, t).eigenvalues for t in range(10)]
    expected = case.truth.spectrum.sort(dim=1).values[:, None].expand(10, COUNT, DIM_Y)
    return _apart(torch.stack(found), expected)


def sampler() -> float:
    """Answers of the released sampler on a planted network, after every level."""
    from iredinterp.energy import MLPEnergy
    from iredinterp.ired.sampler import sample

    case, x, init = _planted()
    return _apart(sample(MLPEnergy(case.model), x, init=init).answers, case.truth.trajectory(x, init))


def checkpoint() -> float:
    """Parameters of a planted network, written and read."""
    from iredinterp.ired.checkpoint import load_checkpoint
    from iredinterp.truth.planted import save_planted

    case, *_ = _planted()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planted.safetensors"
        save_planted(case, path)
        read = load_checkpoint(path).model.parameters
    return max(_apart(read[name], value) for name, value in case.model.parameters.items())


def minima() -> float:
    """The minimum of a planted landscape at its sharpest level, from a random start."""
    from iredinterp.energy import MLPEnergy
    from iredinterp.points import minimum

    case, x, y = _planted()
    return _apart(minimum(MLPEnergy(case.model), x, y, 0).y, case.truth.minimum(x, 0))


def tangent_kernel() -> float:
    """Θ_E of two points by layer factors against parameter gradients by autograd, relatively."""
    from iredinterp.analyses.ntk.factors import Points
    from iredinterp.analyses.ntk.kernels import energy_kernel
    from iredinterp.ired.model import EnergyMLP

    generator = torch.Generator().manual_seed(0)
    model = EnergyMLP.random(DIM_X, DIM_Y, 16, generator).to(torch.float64)
    x, y = (torch.randn(2, size, generator=generator, dtype=torch.float64) for size in (DIM_X, DIM_Y))
    found = energy_kernel(model, Points(x, y, 3))
    rows = []
    for one in range(2):
        leaves = {name: value.clone().requires_grad_() for name, value in model.parameters.items()}
        value = EnergyMLP(leaves, model.schedule).energy(x[one : one + 1], y[one : one + 1], 3)
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(value, list(leaves.values()))]))
    gradients = torch.stack(rows)
    expected = gradients @ gradients.mT
    return _apart(found / expected, torch.ones_like(expected))


def circuits() -> float:
    """The gradient of a planted network with nothing but its circuit left."""
    from iredinterp.analyses.circuits.ablation import ablated, fills
    from iredinterp.analyses.circuits.curves import unit_masks
    from iredinterp.truth.planted import EVERY_DECOY, planted

    case = planted(DIM_X, DIM_Y, seed=0, decoys=EVERY_DECOY)
    _, x, y = _planted()
    t = torch.full((COUNT,), 4)
    circuit = torch.stack([case.truth.circuit(layer, 4) for layer in (1, 2, 3)])
    fill = fills(case.model, x, y, t, "zero")
    found = ablated(case.model, x, y, t, unit_masks(case.model, circuit), fill)[1]
    return _apart(found.reshape(COUNT, DIM_Y), case.truth.gradient_formula(x, y, t))


def oracle() -> float:
    """σ_tλ = 1 in every direction for the Bayes-optimal energy of inversion."""
    from iredinterp.ired.tasks import ProblemSpec, make_problems
    from iredinterp.spectrum import spectra
    from iredinterp.truth.oracle import BayesOracle

    energy = BayesOracle(ProblemSpec("inverse", 5))
    drawn = make_problems("inverse", 5, COUNT, seed=0)
    found = torch.stack([spectra(energy, drawn.x, drawn.y_star, t).eigenvalues for t in range(10)])
    scaled = energy.schedule.sigma[:, None, None] * found
    return _apart(scaled, torch.ones_like(scaled))


def grassmann() -> float:
    """The arc between planes that share one direction and are turned by 0.3 and by π/2 in the other."""
    from iredinterp.geometry.subspace import grassmann_distance

    angles = torch.tensor([0.3, math.pi / 2], dtype=torch.float64)
    U = torch.eye(5, dtype=torch.float64)[:, :2].expand(2, 5, 2)
    V = U.clone()
    V[:, 1, 1], V[:, 2, 1] = angles.cos(), angles.sin()
    return _apart(grassmann_distance(U, V), angles)


def geomstats() -> float:
    """The same arc through geomstats, whose unit is 1/√2 of ours; NumPy's trapz is put back for it."""
    from iredinterp.geometry.geomstats_bridge import grassmannian

    U = np.eye(5)[:, :2]
    V = U.copy()
    V[1, 1], V[2, 1] = math.cos(0.3), math.sin(0.3)
    found = grassmannian(5, 2).metric.dist(U @ U.T, V @ V.T)
    return abs(float(np.squeeze(found)) - 0.3 * math.sqrt(2))


def tangent() -> float:
    """Shares of the normal space: none of a gradient in the tangent space, all of one in the normal space."""
    from iredinterp.geometry.fixed_rank import tangent_normal

    generator = np.random.default_rng(0)
    U, _ = np.linalg.qr(generator.standard_normal((5, 5)))
    V, _ = np.linalg.qr(generator.standard_normal((5, 5)))
    Y = U[:, :2] * [3.0, 2.0] @ V[:, :2].T
    inside = U[:, :2] @ generator.standard_normal((2, 5))
    outside = U[:, 2:] @ generator.standard_normal((3, 3)) @ V[:, 2:].T
    G = torch.from_numpy(np.stack([inside, outside]))
    found = tangent_normal(G, torch.from_numpy(np.stack([Y, Y])), rank=2)
    ratio = found.ratio
    return float(max(ratio[0], 1 / ratio[1]))


def autoencoder() -> float:
    """Codes of an autoencoder with orthonormal atoms: the largest entries themselves."""
    from iredinterp.analyses.sae.model import SparseAutoencoder

    eye, zero = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    x = torch.arange(1.0, 7, dtype=torch.float64).repeat(2, 1)
    expected = torch.where(x > 4, x, torch.zeros_like(x))
    return _apart(SparseAutoencoder("topk", eye, zero, eye, zero, 2, None)(x), expected)


def tables() -> float:
    """Numbers written as Parquet and read."""
    import pyarrow as pa

    from iredinterp.tables import read_table, tensor_array, tensor_column, write_table

    values = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(4, 3)
    table = pa.table({"problem": pa.array(range(4)), "tensor": tensor_array(values)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        write_table(table, path, {})
        return _apart(tensor_column(read_table(path), "tensor"), values)


def statistics() -> float:
    """The exact sign-flip test of eight equal effects, 2/2⁸."""
    from iredinterp.evidence.statistics import sign_flip_test

    return abs(sign_flip_test([1.0] * 8) - 2 / 2**8)


# By name: the test, the largest error that is allowed, and what the error is.
SELFTESTS = {
    "schedule": (schedule, 1e-12, "levels off by"),
    "problems": (problems, 1e-9, "x y* off by"),
    "input Hessian": (spectrum, 1e-10, "planted eigenvalues off by"),
    "sampler": (sampler, 1e-10, "planted answers off by"),
    "minima": (minima, 1e-7, "planted minima off by"),
    "tangent kernels": (tangent_kernel, 1e-10, "ratio to autograd off by"),
    "circuits": (circuits, 1e-10, "planted circuit off by"),
    "checkpoint": (checkpoint, 0.0, "weights off by"),
    "Bayes oracle": (oracle, 1e-10, "σ_tλ off by"),
    "Grassmann distance": (grassmann, 1e-12, "arcs off by"),
    "geomstats": (geomstats, 1e-7, "arc off by"),
    "tangent space": (tangent, 1e-20, "ratio off by"),
    "sparse autoencoder": (autoencoder, 1e-12, "codes off by"),
    "tables": (tables, 0.0, "numbers off by"),
    "statistics": (statistics, 0.0, "p off by"),
}


def _planted():
    """A planted network with problems whose answers the sampler reaches without a clamp."""
    from iredinterp.truth.planted import planted

    case = planted(DIM_X, DIM_Y, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, DIM_X, generator=generator, dtype=torch.float64)
    x = x / (x @ case.truth.slope.mT).abs().amax()
    return case, x, torch.randn(COUNT, DIM_Y, generator=generator, dtype=torch.float64)


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference; infinite if shapes differ or a number is none."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return math.inf
    return float((found - expected).abs().max())
