"""The planes to look at around a right answer: families of directions, each with its name and reason."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.analyses.landscape.slices import Plane, hessian_plane, plane, principal_plane
from iredinterp.geometry.fixed_rank import FixedRankPoint

# What u and v of each family are called.
REASONS = {
    "random": "the two directions are parallel",
    "hessian": "the Hessian is not finite",
    "manifold": "answers of addition lie on no manifold, or this one has no singular gap",
    "minima": "one minimum was found",
    "trajectory": "the sampler moves along a line or not at all",
}


def manifold_plane(task: str, reference: Tensor, rank: int, noise: Tensor) -> Plane:
    """A random direction along the manifold of answers and one across it; none for addition.

    Args:
        task: completion (matrices of rank r), inverse (symmetric matrices), or addition.
        reference: matrices on the manifold, (P, n, m).
        rank: r.
        noise: (2, P, n, m), projected to either side.
    """
    along, across = noise
    if task == "addition":
        return Plane(*(torch.full_like(part, torch.nan).flatten(1) for part in noise))
    if task == "inverse":
        return plane((along + along.mT).flatten(1), (across - across.mT).flatten(1))
    point = FixedRankPoint.from_matrix(reference, rank)
    along, across = point.project_tangent(along), point.project_normal(across)
    along = along.where(point.defined[:, None, None], torch.nan)
    return plane(along.flatten(1), across.flatten(1))


def planes(
    task: str, reference: Tensor, rank: int, hessian: Tensor, towards: Tensor, states: Tensor, noise: Tensor
) -> dict[str, Plane]:
    """One plane per family, by the names of `FAMILIES`.

    Args:
        task: see `manifold_plane`.
        reference: (P, n, m), likewise.
        rank: likewise.
        hessian: ∇²_yE at the centre, (P, d, d).
        towards: from the right minimum to the runner-up, (P, d); NaN where there is none.
        states: of a sampler run at this level, (N, P, d).
        noise: standard normal, (2, P, d).
    """
    return {
        "random": plane(*noise),
        "hessian": hessian_plane(hessian),
        "manifold": manifold_plane(task, reference, rank, noise.unflatten(2, reference.shape[1:])),
        "minima": plane(towards, noise[1]),
        "trajectory": principal_plane(states)[0],
    }
