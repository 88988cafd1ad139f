"""Two-dimensional slices through a landscape, and the planes they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.energy import Energy, map_chunks
from iredinterp.ired.sampler import Trajectory
from iredinterp.ired.schedule import Schedule
from iredinterp.linalg import finite_rows, relative_rounding


@dataclass(frozen=True)
class Plane:
    """Orthonormal pairs of directions, one per problem.

    Attributes:
        u: (P, d); NaN where the plane is not defined.
        v: (P, d), likewise.
    """

    u: Tensor
    v: Tensor

    @property
    def defined(self) -> Tensor:
        """Where there is a plane, (P,)."""
        return ~self.u.isnan().any(1)

    def coordinates(self, displacement: Tensor) -> Tensor:
        """Components of displacements (..., P, d) along u and v, (..., P, 2)."""
        return torch.stack([(displacement * self.u).sum(-1), (displacement * self.v).sum(-1)], dim=-1)


def plane(first: Tensor, second: Tensor) -> Plane:
    """The planes that two directions span, the first of them kept.

    Args:
        first: (P, d), of any length.
        second: (P, d), of any length; made orthogonal to the first.

    Returns:
        NaN where one is zero or not finite, or both are parallel to rounding.
    """
    u = first / first.norm(dim=1, keepdim=True)
    v = second / second.norm(dim=1, keepdim=True)
    # Twice is enough: Parlett, The Symmetric Eigenvalue Problem, section 6.9.
    for _ in range(2):
        v = v - (v * u).sum(1, keepdim=True) * u
    length = v.norm(dim=1, keepdim=True)
    defined = (length > relative_rounding(first)) & length.isfinite()
    u, v = (vector.where(defined, torch.nan) for vector in (u, v / length))
    return Plane(u, v)


def hessian_plane(hessian: Tensor) -> Plane:
    """Directions of the largest and of the smallest eigenvalue.

    Random slices average all curvatures and hide a single negative one; these two do not.

    Args:
        hessian: (P, d, d).

    Source:
        Böttcher & Wheeler 2022 (arXiv:2208.13219).
    """
    clean, finite = finite_rows(hessian)
    vectors = torch.linalg.eigh(clean).eigenvectors.where(finite[:, None, None], torch.nan)
    return plane(_one_sign(vectors[..., -1]), _one_sign(vectors[..., 0]))


def states_at(trajectory: Trajectory, schedule: Schedule, t: int) -> Tensor:
    """What a sampler run went through at one level.

    Args:
        trajectory: of the levels of the schedule.
        schedule: the levels.
        t: level.

    Returns:
        (S + 2, B, d): entered, before each inner step, left.
    """
    k = len(trajectory.levels) - 1 - t
    left = schedule.sqrt_alphas_cumprod[t] * trajectory.answers[k]
    return torch.stack([trajectory.entered[k], *trajectory.states[k], left])


def principal_plane(states: Tensor) -> tuple[Plane, Tensor]:
    """The two principal components of the states of a run, and the share of its variance in each.

    Two components hold most of the variance of any random walk: look at the shares before reading a spiral
    into a picture.

    Args:
        states: (N, P, d).

    Returns:
        The planes, NaN where fewer than two components are above rounding, and the shares, (P, 2).

    Source:
        Antognini & Sohl-Dickstein 2018 (arXiv:1806.08805) on random walks.
    """
    centred = (states - states.mean(0)).transpose(0, 1)
    _, size, vectors = torch.linalg.svd(centred, full_matrices=False)
    share = size[:, :2].square() / size.square().sum(1, keepdim=True)
    # Motion is a difference of states, so their size sets its rounding.
    rounding = relative_rounding(centred) * states.norm(dim=-1).norm(dim=0)
    defined = (size[:, 1] > rounding)[:, None]
    found = plane(*(_one_sign(vectors[:, index]).where(defined, torch.nan) for index in (0, 1)))
    return found, share.where(defined, torch.nan)


def _one_sign(vectors: Tensor) -> Tensor:
    # Eigenvectors come with either sign, as rounding has it. Roots as weights leave no tie in vectors that
    # clamping or a symmetry gave entries of equal size.
    weights = torch.arange(1, vectors.shape[1] + 1, device=vectors.device).to(vectors).sqrt()
    return torch.where((vectors @ weights < 0).unsqueeze(1), -vectors, vectors)


def slice_grid(extent: float, size: int) -> Tensor:
    """Coordinates along one axis of a slice, (size,), −extent … extent in units of σ_t."""
    return torch.linspace(-extent, extent, size, dtype=torch.float64)


def slice_energies(
    energy: Energy, x: Tensor, centre: Tensor, t: int, where: Plane, axis: Tensor, chunk: int
) -> Tensor:
    """S(α, β) = E(y_c + σ_t(αu + βv)) − E(y_c).

    Args:
        energy: the landscape.
        x: (P, d_x).
        centre: y_c, (P, d).
        t: level.
        where: planes of the slices.
        axis: α and β, (G,), in units of σ_t.
        chunk: energies evaluated at once.

    Returns:
        (P, G, G) float64, α on the first of the two axes; NaN where the plane is not defined.

    Source:
        Li et al. 2018 (arXiv:1712.09913), in y and with σ_t in the place of their filter norms, which remove
        a scale symmetry that y does not have.
    """
    size, sigma = len(axis), energy.schedule.sigma[t]
    axis = axis.to(centre)
    u, v = (vector.nan_to_num().to(centre)[:, None, None] for vector in (where.u, where.v))
    points = centre[:, None, None] + sigma * (axis[:, None, None] * u + axis[:, None] * v)
    points = points.flatten(0, 2)
    parts = map_chunks(
        lambda x, y: energy.energy(x, y, t), (x.repeat_interleave(size * size, 0), points), chunk
    )
    values = torch.cat(list(parts)).double().unflatten(0, (-1, size, size))
    change = values - energy.energy(x, centre, t).double()[:, None, None]
    return change.where(where.defined[:, None, None], torch.nan)
