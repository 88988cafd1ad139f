"""The manifolds that answers lie on, as the analysis sees them: one interface, two shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.energy import Energy
from iredinterp.geometry.fixed_rank import FixedRankPoint, tangent_normal
from iredinterp.geometry.nulls import TangentNormal
from iredinterp.geometry.symmetric import affine_invariant_distance, tangent_normal_symmetric
from iredinterp.linalg import finite_rows, inertia, zero_tolerance

CELLS = ("tangent observed", "tangent missing", "normal observed", "normal missing")
# Values by metric and component.
Values = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class View:
    """B points of a landscape with their derivatives, in float64.

    Attributes:
        energy: the landscape.
        x: (B, d_x), in its precision.
        t: (B,).
        y: (B, n, m).
        gradient: ∇_yE, (B, n, m).
        hessian: ∇²_yE, (B, nm, nm).
        unscaled: y/√ᾱ_t, (B, n, m).
        sigma: σ_t, (B,).
    """

    energy: Energy
    x: Tensor
    t: Tensor
    y: Tensor
    gradient: Tensor
    hessian: Tensor
    unscaled: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, energy: Energy, x: Tensor, y: Tensor, t: Tensor, shape: tuple[int, int]) -> View:
        """The landscape at x (B, d_x), y (B, d) and t (B,), y and gradient as matrices of this shape."""
        scale = energy.schedule.sqrt_alphas_cumprod[t].double()[:, None, None]
        Y = y.double().unflatten(1, shape)
        return cls(
            energy,
            x,
            t,
            Y,
            energy.gradient(x, y, t).double().unflatten(1, shape),
            energy.hessian(x, y, t).double(),
            Y / scale,
            energy.schedule.sigma[t].double(),
        )


class Manifold(ABC):
    """Answers Y*, (P, n, m), with tangent and normal space at each; `rows` select answers, (B,).

    Attributes:
        answers: Y*, (P, n, m) float64.
    """

    answers: Tensor

    @abstractmethod
    def split(self, G: Tensor, rows: Tensor) -> TangentNormal:
        """Gradients, (B, n, m), by tangent and normal space at the answers."""

    @abstractmethod
    def curvature_ratio(self, H: Tensor, rows: Tensor) -> Tensor:
        """(tr P_N H/dim N)/(tr P_T H/dim T), (B,); NaN where undefined."""

    @abstractmethod
    def measures(self, view: View, rows: Tensor) -> Values:
        """What only this manifold has to say."""


class FixedRank(Manifold):
    """Matrices of rank r; the answer is truncated to it.

    Args:
        answers: Y*, (P, n, m).
        rank: r, 1 … min(n, m) − 1.
        mask: 1 where an entry is observed, (P, n, m), if there is one.

    Raises:
        ConfigError: no such rank.
    """

    def __init__(self, answers: Tensor, rank: int, mask: Tensor | None):
        self.answers, self.rank, self.mask = answers, rank, mask
        self.points = FixedRankPoint.from_matrix(answers, rank)

    def at(self, rows: Tensor) -> FixedRankPoint:
        """Points of some answers."""
        return FixedRankPoint(**{name: value[rows] for name, value in vars(self.points).items()})

    def split(self, G: Tensor, rows: Tensor) -> TangentNormal:
        return tangent_normal(G, self.answers[rows], self.rank)

    def curvature_ratio(self, H: Tensor, rows: Tensor) -> Tensor:
        return self.at(rows).curvature_ratio(H)

    def measures(self, view: View, rows: Tensor) -> Values:
        cells = self._cells(view.gradient, rows) if self.mask is not None else {}
        return cells | self._riemannian(view)

    def _cells(self, G: Tensor, rows: Tensor) -> Values:
        """‖P_Ω P_T g‖²/‖g‖² and the like, and its mean tr(P_Ω P_T)/d for isotropic g."""
        point, mask = self.at(rows), self.mask[rows]
        tangent = point.project_tangent(G)
        U, V = point.U.square().sum(-1).unsqueeze(-1), point.V.square().sum(-1).unsqueeze(-2)
        inside = U + V - U * V
        size = G.square().sum((1, 2))
        undefined = ~point.defined | (size == 0)
        values = {}
        parts = ((tangent, inside), (G - tangent, 1 - inside))
        cells = ((*part, entries) for part in parts for entries in (mask, 1 - mask))
        for name, (part, diagonal, entries) in zip(CELLS, cells, strict=True):
            share = (entries * part.square()).sum((1, 2)) / size
            values["cell_share", name] = share.masked_fill(undefined, torch.nan)
            null = (entries * diagonal).mean((1, 2))
            values["cell_share_null", name] = null.masked_fill(undefined, torch.nan)
        return values

    def _riemannian(self, view: View) -> Values:
        """The landscape on the manifold itself, at the nearest matrix of rank r."""
        base = FixedRankPoint.from_matrix(view.y, self.rank)
        Y = base.matrix().where(base.defined[:, None, None], 0)
        y = Y.flatten(1).to(view.energy.dtype)
        here = View.of(view.energy, view.x, y, view.t, base.shape)
        hessians = {
            "projected": base.projected_hessian(here.hessian),
            "riemannian": base.riemannian_hessian(here.hessian, here.gradient),
        }
        slope = torch.linalg.matrix_norm(base.riemannian_gradient(here.gradient))
        values = {
            ("base_distance", ""): base.distance,
            ("base_gap", ""): base.gap,
            ("riemannian_gradient_norm", ""): slope.where(base.defined, torch.nan),
            ("weingarten_dominance", ""): base.chi(here.hessian, here.gradient),
        }
        for name, hessian in hessians.items():
            hessian, finite = finite_rows(hessian)
            eigenvalues = torch.linalg.eigvalsh(hessian)
            *_, negative = inertia(eigenvalues, zero_tolerance(eigenvalues, view.energy.dtype))
            known = finite & base.defined
            share = negative.double() / base.dim_tangent
            values["negative_index", name] = share.where(known, torch.nan)
            smallest = view.sigma * eigenvalues[:, 0]
            values["smallest_curvature", name] = smallest.where(known, torch.nan)
        return values


class Symmetric(Manifold):
    """Symmetric matrices, a linear space: nothing bends, and the tangent space is the same everywhere.

    Args:
        answers: Y*, (P, n, n), positive definite.
    """

    def __init__(self, answers: Tensor):
        self.answers = answers

    def split(self, G: Tensor, rows: Tensor) -> TangentNormal:
        return tangent_normal_symmetric(G, self.answers[rows])

    def curvature_ratio(self, H: Tensor, rows: Tensor) -> Tensor:
        n = self.answers.shape[-1]
        trace, transposed = (
            torch.einsum(pattern, H.unflatten(2, (n, n)).unflatten(1, (n, n)))
            for pattern in ("bijij->b", "bijji->b")
        )
        along, across = (trace + transposed) / (n * (n + 1)), (trace - transposed) / (n * (n - 1))
        return across / along.where(along != 0, torch.nan)

    def measures(self, view: View, rows: Tensor) -> Values:
        answers, Y = self.answers[rows], view.unscaled
        X, singular = torch.linalg.inv_ex(answers)
        X = X.masked_fill(singular.bool()[:, None, None], torch.nan)
        residual = X.mT @ (X @ Y - torch.eye(Y.shape[-1]).to(Y))
        distance, _ = affine_invariant_distance(answers, (Y + Y.mT) / 2)
        return {
            ("residual_cosine", ""): cosine(view.gradient, residual),
            ("spd_distance", ""): distance,
        }


def manifold_of(task: str, answers: Tensor, rank: int, problems: Mapping[str, Tensor]) -> Manifold:
    """The manifold that the answers of a task lie on.

    Args:
        task: completion or inverse.
        answers: Y*, (P, n, m) float64.
        rank: r of completion.
        problems: `mask`, (P, n, m), where there is one.
    """
    if task == "inverse":
        return Symmetric(answers)
    return FixedRank(answers, rank, problems.get("mask"))


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between matrices, (B, n, m) each; NaN where one is zero."""
    sizes = torch.linalg.matrix_norm(first) * torch.linalg.matrix_norm(second)
    return (first * second).sum((1, 2)) / sizes.where(sizes > 0, torch.nan)
