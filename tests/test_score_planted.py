"""EXP-006 finds what was planted: eigenvectors, gaps and eigenvalues of a network set by hand."""

import pyarrow.compute as pc
import torch

from iredinterp.analyses.score import agreement_table, score_table
from iredinterp.bases import BASES, GeometricBases
from iredinterp.energy import MLPEnergy
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import points_table, problems_table
from iredinterp.tables import tensor_column
from iredinterp.truth.planted import planted

LEVELS, K, FLOOR = 10, 4, 0.1
EXACT = {"rtol": 1e-7, "atol": 1e-9}


def column(table, metric, component=""):
    rows = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    frame = table.filter(rows).to_pandas().sort_values(["problem_id", "t", "index"])
    return torch.tensor(frame["value"].to_numpy(dtype=float)).reshape(3, LEVELS, -1)


def case(seed, generator):
    spec = ProblemSpec("completion", 4, rank=2)
    network = planted(spec.dim_x, spec.dim_y, seed)
    problems = problems_table(draw_problems(spec, 3, generator))
    keys = {"model": "planted", "condition": "trained", "task": spec.task, "n": spec.n, "rank": spec.rank}
    energy = MLPEnergy(network.model)
    return network.truth, energy, problems, points_table(energy, problems, keys, ["q_sample"], 0)


def planted_weights(truth):
    """ρ = 1 − σ_t a_i(t), (K, d), in descending order, the order, and the weights of the leading ones."""
    rho, order = (1 - truth.schedule.sigma[:, None] * truth.spectrum).sort(1, descending=True)
    excess = rho[:, :K] - rho[:, K : K + 1].clamp(min=0)
    weights = excess.clamp(min=0)
    return rho, order, weights / weights.sum(1, keepdim=True)


def test_overlaps_of_a_planted_network_are_those_of_its_eigenvectors_and_gaps(seed, generator):
    truth, energy, problems, points = case(seed, generator)
    table = score_table(energy, points, problems, vectors=K, floor=FLOOR)
    rho, order, weights = planted_weights(truth)
    seen = rho[:, 0] > 2 * FLOOR
    assert 0 < seen.sum() < LEVELS
    torch.testing.assert_close(column(table, "response_eigenvalue"), rho[:, :K].expand(3, -1, -1), **EXACT)
    mass = (rho.clamp(max=0).abs().sum(1) / rho.abs().sum(1)).expand(3, -1)
    torch.testing.assert_close(column(table, "negative_mass")[..., 0], mass, rtol=1e-6, atol=1e-8)
    bases = GeometricBases.from_reference(tensor_column(problems, "y_star"), 2)
    Q = truth.eigenbasis.expand(3, -1, -1)
    for name in BASES:
        each = bases.project(name, Q).square().sum(1)
        expected = (each[:, order[:, :K]] * weights).sum(-1).where(seen, torch.nan)
        found = column(table, "overlap", name)[..., 0]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_two_planted_networks_agree_as_their_eigenvectors_do(seed, generator):
    truth, energy, problems, points = case(seed, generator)
    other = planted(energy.dim_x, energy.dim_y, seed + 1)
    table = agreement_table(energy, MLPEnergy(other.model), points, problems, vectors=K, floor=FLOOR)
    found = column(table, "overlap", "other model")
    for t in range(LEVELS):
        parts = []
        for one in (truth, other.truth):
            rho, order, weights = planted_weights(one)
            E = one.eigenbasis[:, order[t, :K]]
            parts.append(
                (E * weights[t]) @ E.mT if rho[t, 0] > 2 * FLOOR else torch.full((16, 16), torch.nan)
            )
        A, B = parts
        expected = ((A * B).sum() / (A.norm() * B.norm())).double().expand(3)
        torch.testing.assert_close(found[:, t, 0], expected, rtol=1e-6, atol=1e-8, equal_nan=True)
