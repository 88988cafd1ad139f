"""What the analyses have to find on a planted network, from the formula of its energy alone.

Nothing here comes from the analyses or runs the network: with H_t = Q diag(a(t)) Qᵀ known, condition numbers
are ratios of a(t), curvatures along a manifold are traces with its projector written out, and the energy of a
displacement ΔY, averaged over both signs, is ½ΔYᵀH_tΔY. What the sampler does is run on that formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.geometry.fixed_rank import FixedRankPoint
from iredinterp.geometry.perturb import ARMS, arm_stack
from iredinterp.ired.sampler import sample
from iredinterp.points import normal_draws, point_keys, reference_matrices, reference_rank
from iredinterp.tables import Metric, tensor_column, tidy
from iredinterp.truth.planted.truth import PlantedTruth

NO_MANIFOLD = "answers of addition lie on no manifold"
NO_GAP = "the answer has no singular gap at this rank"
ONE_VALUE = "no two singular values of the answer differ, so errors have no slope in them"


def expected_table(
    truth: PlantedTruth,
    problems: pa.Table,
    keys: Mapping[str, object],
    tangent: Mapping[str, object],
    grassmann: Mapping[str, object],
    annealing: Mapping[str, object],
) -> pa.Table:
    """Planted values of the metrics that hypotheses speak of, one row per problem and level.

    Args:
        truth: of the planted network.
        problems: on which it is analysed.
        keys: values of `iredinterp.points.MODEL_KEYS` of the planted model.
        tangent: settings of EXP-005: `rank`.
        grassmann: settings of EXP-004: `rank`, `draws` and `seed`.
        annealing: settings of EXP-010: `seed`.

    Returns:
        A metric table: condition_number and curvature_ratio of q_samples, energy_ratio of perturbed answers,
        coarse_first_exponent of trajectories.
    """
    ids = problems["problem_id"].to_pylist()
    hessians = truth.hessian_formula(torch.empty(0), torch.empty(0), torch.arange(truth.schedule.levels))
    answers = reference_matrices(problems)
    along = tangent_projectors(keys["task"], answers, reference_rank([keys.get("rank")], tangent["rank"]))
    rank = reference_rank([keys.get("rank")], grassmann["rank"])
    arms = arms_of(ids, answers, rank, grassmann["draws"], grassmann["seed"])
    column, core = (arms[arm].flatten(2) for arm in ("column", "core"))
    x = tensor_column(problems, "x").flatten(1).double()
    init = normal_draws(annealing["seed"], "first_state", ids, 1, answers[0].numel())[:, 0]
    sampled = sample(truth, x, init=init)
    targets = tensor_column(problems, "y_star").double()
    exponents = coarse_first_exponents(sampled.answers.flip(0).reshape(-1, *targets.shape), targets)
    parts = []
    for t, hessian in enumerate(hessians):
        sigma = float(truth.schedule.sigma[t])
        curvature = condition_number(truth.spectrum[t].numpy())
        at_q_samples = [
            Metric("condition_number", torch.full((len(ids),), float(curvature), dtype=torch.float64)),
            Metric("curvature_ratio", curvature_ratio(hessian, along, len(ids)), reason=NO_MANIFOLD),
        ]
        # −d ln(e_i/s_i)/d ln s_i is 1 more.
        exponent_of_errors = [
            Metric("coarse_first_exponent", exponents[t] + shift, component, ONE_VALUE)
            for component, shift in (("", 0), ("relative", 1))
        ]
        ratio = _mean_square(column, hessian) / _mean_square(core, hessian)
        for kind, metrics in (
            ("q_sample", at_q_samples),
            ("perturbed", [Metric("energy_ratio", ratio, reason=NO_GAP)]),
            ("trajectory", exponent_of_errors),
        ):
            parts.append(tidy(point_keys(keys, ids, t, sigma, kind, [0] * len(ids)), metrics))
    return pa.concat_tables(parts)


def condition_number(eigenvalues: np.ndarray) -> np.ndarray:
    """|λ|max/|λ|min of spectra (…, d): (…,)."""
    return abs(eigenvalues).max(-1) / abs(eigenvalues).min(-1)


# Metrics that the eigenvalues alone decide.
OF_SPECTRA: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"condition_number": condition_number}


def curvature_ratio(hessian: Tensor, along: Tensor | None, count: int) -> Tensor:
    """(tr P_N H/dim N)/(tr P_T H/dim T), (count,), for H (d, d) and P_T (P, d, d); NaN without a manifold."""
    if along is None:
        return torch.full((count,), torch.nan, dtype=torch.float64)
    inside, dims = (along * hessian).sum((1, 2)), along.diagonal(dim1=1, dim2=2).sum(1)
    across = hessian.trace() - inside
    return (across / (len(hessian) - dims)) / (inside / dims)


def coarse_first_exponents(found: Tensor, answers: Tensor) -> Tensor:
    """−d ln e_i/d ln s_i for e = |diag(Uᵀ(Ŷ − Y)V)| and Y = U diag(s) Vᵀ, one singular triple after another.

    Args:
        found: Ŷ, (K, P, n, m).
        answers: Y, (P, n, m).

    Returns:
        (K, P), NaN where Y has no two different singular values above rounding.
    """
    slopes = torch.full(found.shape[:2], torch.nan, dtype=torch.float64)
    for p, answer in enumerate(answers):
        U, s, Vh = np.linalg.svd(answer.numpy())
        rank = np.linalg.matrix_rank(answer.numpy())
        differ = rank > 1 and np.ptp(np.log(s[:rank])) > 1e-10
        for k in range(len(found) if differ else 0):
            errors = abs(np.diag(U.T @ (found[k, p] - answer).numpy() @ Vh.T))[:rank]
            slopes[k, p] = -np.polyfit(np.log(s[:rank]), np.log(errors), 1)[0]
    return slopes


def tangent_projectors(task: str, answers: Tensor, rank: int) -> Tensor | None:
    """P_T in the space of flattened n×m matrices, (P, nm, nm): dense, from Kronecker products.

    Args:
        task: completion (matrices of rank r), inverse (symmetric matrices), or addition (None).
        answers: (P, n, m).
        rank: r.
    """
    count, n, m = answers.shape
    if task == "addition":
        return None
    if task == "inverse":
        swap = torch.eye(n * n, dtype=torch.float64).reshape(n, n, n, n).transpose(0, 1).reshape(n * n, n * n)
        return ((torch.eye(n * n, dtype=torch.float64) + swap) / 2).expand(count, -1, -1)
    U, _, Vh = torch.linalg.svd(answers)
    left, right = (basis[..., :rank] @ basis[..., :rank].mT for basis in (U, Vh.mT))
    eye_n, eye_m = (torch.eye(size, dtype=torch.float64) for size in (n, m))
    return torch.stack(
        [
            torch.kron(P, eye_m) + torch.kron(eye_n, Q) - torch.kron(P, Q)
            for P, Q in zip(left, right, strict=True)
        ]
    )


def arms_of(ids: Sequence[int], answers: Tensor, rank: int, draws: int, seed: int) -> dict[str, Tensor]:
    """The unit directions of EXP-004 by arm, (P, draws, n, m), for answers (P, n, m)."""
    point, shape = FixedRankPoint.from_matrix(answers, rank), answers.shape[1:]
    noise = normal_draws(seed, "arms", ids, draws, math.prod(shape)).unflatten(-1, shape)
    return dict(zip(ARMS, arm_stack(point, noise).unbind(1), strict=True))


def _mean_square(directions: Tensor, hessian: Tensor) -> Tensor:
    """Mean over draws of bᵀHb for b (P, draws, d): (P,)."""
    return torch.einsum("pki,ij,pkj->pk", directions, hessian, directions).mean(1)
