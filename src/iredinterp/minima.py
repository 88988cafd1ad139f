"""Minima found from many starts: which are the same, which are wrong, and how much leads to each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.energy import Energy, map_chunks
from iredinterp.ired.sampler import ANSWER_LIMIT
from iredinterp.points import minimum

# Of the standard normal law: two-sided 95 %.
QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class Search:
    """Where S starts of each of P landscapes ended.

    Attributes:
        y: (P, S, d).
        energy: E there, (P, S).
        gradient_norm: ‖∇_yE‖₂, (P, S).
        smallest_eigenvalue: of ∇²_yE, (P, S).
        converged: gradient within tolerance and smallest eigenvalue positive, (P, S).
        cluster: the first start that found the same minimum, (P, S); −1 where the search did not converge.
    """

    y: Tensor
    energy: Tensor
    gradient_norm: Tensor
    smallest_eigenvalue: Tensor
    converged: Tensor
    cluster: Tensor

    @property
    def distinct(self) -> Tensor:
        """One start of each minimum, (P, S) bool: the first that found it."""
        return self.cluster == torch.arange(self.cluster.shape[1], device=self.cluster.device)

    def members(self, among: Tensor) -> Tensor:
        """How many of some starts, (S,) bool, found the minimum of each start, (P, S); 0 if unconverged."""
        same = (self.cluster.unsqueeze(2) == self.cluster.unsqueeze(1)) & self.converged.unsqueeze(1)
        return (same & among).sum(2) * self.converged

    def nearest(self, points: Tensor) -> Tensor:
        """Start that found the minimum nearest a point (P, d), (P,); any where none was found."""
        distance = (self.y - points.unsqueeze(1)).norm(dim=2)
        return distance.where(self.distinct, torch.inf).argmin(1)

    def lowest_besides(self, start: Tensor) -> Tensor:
        """Start that found the lowest minimum but that of the given start, (P,); −1 where there is none."""
        others = self.distinct.clone()
        others[torch.arange(len(others), device=others.device), start] = False
        lowest = self.energy.where(others, torch.inf).argmin(1)
        return lowest.masked_fill(~others.any(1), -1)


def search(
    energy: Energy,
    x: Tensor,
    starts: Tensor,
    t: Tensor,
    radius: Tensor,
    tolerance: float,
    max_steps: int,
    chunk: int,
) -> Search:
    """Descend from all starts at once, and tell the minima apart.

    Minima are those of E itself, without the sampler's clamp, which makes minima of its own on the faces of
    its box; see `outside_box`. Which start leads to which minimum is decided by Newton steps on |∇²_yE|
    (`iredinterp.points.minimum`), not by the gradient flow.

    Args:
        energy: the landscape, float64.
        x: (P, d_x).
        starts: (P, S, d).
        t: levels, (P,).
        radius: below which two minima are the same, (P,); single linkage, see `cluster`.
        tolerance: on ‖∇_yE‖₂.
        max_steps: Newton steps at most.
        chunk: starts in memory at once.
    """
    count = starts.shape[1]

    def descend(x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return tuple(vars(minimum(energy, x, y, t, tolerance, max_steps)).values())

    flat = (x.repeat_interleave(count, 0), starts.flatten(0, 1), t.repeat_interleave(count))
    columns = zip(*map_chunks(descend, flat, chunk), strict=True)
    y, value, slope, curvature, converged = (
        torch.cat(column).unflatten(0, (-1, count)) for column in columns
    )
    return Search(y, value, slope, curvature, converged, cluster(y, converged, radius))


def cluster(y: Tensor, valid: Tensor, radius: Tensor) -> Tensor:
    """Single linkage: points belong together where a chain of steps within the radius joins them.

    Args:
        y: (P, S, d).
        valid: which points count, (P, S).
        radius: (P,).

    Returns:
        (P, S), the lowest index of the chain's points; −1 where not valid.
    """
    count = y.shape[1]
    apart = (y.unsqueeze(2) - y.unsqueeze(1)).norm(dim=-1)
    joined = (apart <= radius[:, None, None]) & valid.unsqueeze(2) & valid.unsqueeze(1)
    # Squaring doubles the length of the chains that are followed.
    for _ in range(max(1, (count - 1).bit_length())):
        joined = (joined.double() @ joined.double()) > 0
    first = joined.to(torch.int8).argmax(2)
    return first.masked_fill(~valid, -1)


def outside_box(y: Tensor, scale: Tensor) -> Tensor:
    """Entries beyond the sampler's box |y| ≤ 2√ᾱ_t, (..., ), for y (..., d) and √ᾱ_t (...,).

    A minimum with such entries is none that the sampler can reach: on the face of its box it stops at a
    point where the gradient does not vanish.
    """
    return (y.abs() > ANSWER_LIMIT * scale.unsqueeze(-1)).sum(-1)


def resolution(sigma: Tensor, scale: Tensor, variance: Tensor, dimension: int) -> Tensor:
    """How far y typically lies from √ᾱ_t E[y₀|x] under p_t(y | x), √(dσ_t² + ᾱ_t tr Cov[y₀|x]).

    No landscape at level t can be asked to tell answers apart that are closer than this.

    Args:
        sigma: σ_t, (...,).
        scale: √ᾱ_t, (...,).
        variance: tr Cov[y₀|x], (...,).
        dimension: d.
    """
    return (dimension * sigma.square() + scale.square() * variance).sqrt()


def posterior_variance(oracle: Energy | None, x: Tensor, chunk: int) -> Tensor:
    """Tr Cov[y₀|x], (P,), from the Bayes-optimal Hessian; 0 without an oracle.

    Taken at y = 0 of the noisiest level, which says next to nothing of y₀, from
    Cov[y₀|y, x] = (σ_t²/ᾱ_t)(I − σ_t∇²E*).
    """
    if oracle is None:
        return x.new_zeros(len(x))
    t = oracle.schedule.levels - 1
    sigma, abar = oracle.schedule.sigma[t], oracle.schedule.abar[t]

    def trace(x: Tensor) -> Tensor:
        hessian = oracle.hessian(x, x.new_zeros(len(x), oracle.dim_y), t)
        return oracle.dim_y - sigma * hessian.diagonal(dim1=1, dim2=2).sum(1)

    found = torch.cat(list(map_chunks(trace, (x,), chunk)))
    return (sigma.square() / abar * found).clamp(min=0)


def wilson_interval(hits: Tensor, trials: Tensor, quantile: float = QUANTILE) -> tuple[Tensor, Tensor]:
    """Interval of a proportion that stays inside [0, 1] and is of use for few trials.

    Args:
        hits: (...,).
        trials: (...,).
        quantile: of the standard normal law; 95 % two-sided if not given.

    Returns:
        Low and high, (...,) float64; NaN without trials.

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22, 209; Brown, Cai & DasGupta 2001.
    """
    hits, trials, z = hits.double(), trials.double(), quantile**2
    centre = (hits + z / 2) / (trials + z)
    half = quantile * (hits * (1 - hits / trials) + z / 4).sqrt() / (trials + z)
    return (centre - half).clamp(min=0), (centre + half).clamp(max=1)
