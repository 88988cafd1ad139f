"""Completions of partly observed matrices, each by another preference, batched over problems.

Observed are the entries of x that are not exactly 0, as in the tasks, where an observed entry is 0 with
probability 0. Matrices are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.energy import Energy
from iredinterp.linalg import relative_rounding

# Smoothing of the nuclear norm, over ‖x‖₂: by what it shrinks and where it ends; the gap ends near the last.
SHARPENING, LAST_SMOOTHING = 0.3, 1e-6
NEWTON_STEPS = 30
# Newton decrements over the smoothing at which full steps are safe, and at which one more is enough.
SAFE, ENOUGH = 0.05, 1e-6
BACKTRACKING = 8
# Added to a Hessian that is flat where several completions share the least norm, and the longest step over
# ‖x‖₂: flat directions must not be left for infinity.
FLAT, LONGEST = 1e-7, 1.0
# Ridges of the least squares over the mean square of observed entries. Alternation starts at 1 and is at
# CHOOSING after a share of it; that chooses among matrices which fit as well, and VANISHING removes its bias.
CHOOSING, VANISHING, ANNEALED = 1e-6, 1e-12, 0.5
# Levenberg–Marquardt steps, and their first and least damping over the same.
POLISHING, DAMPING, LEAST_DAMPING = 30, 1e-3, 1e-10
# Every pass corrects the tilt of the noisiest level by a factor of ᾱ_t.
PASSES = 3


@dataclass(frozen=True)
class NuclearNormCompletion:
    """Completions of least nuclear norm ‖Y‖_*, and how well that is certified.

    Attributes:
        Y: (B, n, n), equal to x where observed.
        dual: Λ, (B, n, n), 0 where missing, ‖Λ‖₂ ≤ 1.
        gap: (B,), 1 − ⟨Λ, x⟩/‖Y‖_* ≥ 0: no completion has a nuclear norm smaller by a larger share.
    """

    Y: Tensor
    dual: Tensor
    gap: Tensor


def nuclear_norm_completion(x: Tensor) -> NuclearNormCompletion:
    """The least ‖Y‖_* over all Y that equal x where observed, by Newton steps on Σ√(s_i² + ε²) with ε → 0.

    Each smoothed problem has one solution, and its gradient at it is a dual certificate. Where several
    completions share the least norm, theirs is the limit.

    Args:
        x: (B, n, n), 0 where missing.

    Source:
        Candès & Recht 2009 for the problem and its dual; continuation as in interior-point methods.
    """
    missing = x == 0
    scale = _or_one(torch.linalg.matrix_norm(x, 2))[:, None, None]
    Y, smoothing = x / scale, 1.0
    while smoothing > LAST_SMOOTHING:
        smoothing = max(SHARPENING * smoothing, LAST_SMOOTHING)
        for _ in range(NEWTON_STEPS):
            step, decrement = _newton(Y, missing, smoothing)
            Y = Y + _step_length(Y, step, decrement, smoothing)[:, None, None] * step
            if (decrement <= ENOUGH * smoothing).all():
                break
    U, s, Vh = torch.linalg.svd(Y)
    dual = ((U * (s / (s.square() + smoothing**2).sqrt()).unsqueeze(1)) @ Vh).masked_fill(missing, 0)
    dual = dual / torch.linalg.matrix_norm(dual, 2).clamp(min=1)[:, None, None]
    gap = 1 - (dual * x / scale).sum((1, 2)) / s.sum(1)
    return NuclearNormCompletion((scale * Y).where(missing, x), dual, gap.where(s.sum(1) > 0, 0))


def _newton(Y: Tensor, missing: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Newton step of Σ√(s_i² + ε²) in the missing entries, (B, n, n), and its decrement |⟨g, step⟩|, (B,)."""
    n = Y.shape[-1]
    U, s, Vh = torch.linalg.svd(Y)
    root = (s.square() + smoothing**2).sqrt()
    gradient = ((U * (s / root).unsqueeze(1)) @ Vh).where(missing, 0).flatten(1)
    # In the singular basis the Hessian couples entry ij with ji alone: divided differences of s/√(s² + ε²)
    # for the symmetric part, sums over sums for the antisymmetric one.
    low, high = s.unsqueeze(1), s.unsqueeze(2)
    root_low, root_high = root.unsqueeze(1), root.unsqueeze(2)
    total = low + high
    mean = ((high * root_low + low * root_high) / _or_one(total)).where(total > 0, smoothing)
    symmetric = (smoothing**2 / (mean * root_low * root_high)).flatten(1).unsqueeze(1)
    antisymmetric = (mean / (root_low * root_high)).flatten(1).unsqueeze(1)
    basis = torch.einsum("bki,bjl->bklij", U, Vh)
    swapped = basis.mT.reshape(-1, n * n, n * n)
    basis = basis.reshape(-1, n * n, n * n)
    weighted = basis * (symmetric + antisymmetric) / 2 + swapped * (symmetric - antisymmetric) / 2
    free = missing.flatten(1)
    both = free.unsqueeze(1) & free.unsqueeze(2)
    hessian = (weighted @ basis.mT).where(both, 0) + ((~free).to(Y) + FLAT).diag_embed()
    # A singular Hessian must not stop the other problems; the gap tells.
    step = -torch.linalg.solve_ex(hessian, gradient).result.nan_to_num(0, 0, 0)
    step = step / (step.norm(dim=1, keepdim=True) / LONGEST).clamp(min=1)
    return step.view_as(Y), (step * gradient).sum(1).abs()


def _step_length(Y: Tensor, step: Tensor, decrement: Tensor, smoothing: float) -> Tensor:
    lengths = 0.5 ** torch.arange(BACKTRACKING, dtype=Y.dtype, device=Y.device)
    lengths[-1] = 0
    tried = torch.linalg.svdvals(Y + lengths[:, None, None, None] * step)
    best = (tried.square() + smoothing**2).sqrt().sum(-1).argmin(0)
    # Close to the optimum the values differ by rounding alone.
    return lengths[best].where(decrement > SAFE * smoothing, 1)


def least_squares_completion(x: Tensor, rank: int, starts: Tensor, iterations: int) -> Tensor:
    """The matrix UVᵀ of rank r closest to x where observed, by alternating least squares.

    A small ridge ‖U‖² + ‖V‖², at its least 2‖UVᵀ‖_*, chooses among matrices that fit as well: what x says
    nothing of is 0. Between blocks that share no row or column it leaves the sign to the starts. Damped
    Gauss–Newton steps finish what alternation is slow at.

    Args:
        x: (B, n, m), 0 where missing.
        rank: r, 1 … min(n, m).
        starts: (B, S, m, r), first V of each start, of order 1; one more is the leading right singular
            vectors of x.
        iterations: of the alternation, over both factors.

    Returns:
        (B, n, m), the best of all starts.

    Source:
        Hastie, Mazumder, Lee & Zadeh 2015 for the ridge; Marquardt 1963 for the damping.
    """
    observed = (x != 0).to(x)
    size = (x.square().sum((1, 2)) / observed.sum((1, 2)).clamp(min=1)).sqrt()
    x, size = x / _or_one(size)[:, None, None], size[:, None, None]
    leading = torch.linalg.svd(x, full_matrices=False).Vh[:, :rank].mT
    V = torch.cat([leading.unsqueeze(1), starts], 1)
    known, seen = (tensor.unsqueeze(1) for tensor in (observed, x))
    for iteration in range(iterations):
        ridge = max(CHOOSING ** (iteration / (ANNEALED * iterations)), CHOOSING)
        U = _ridge_rows(V, known, seen, ridge)
        V = _ridge_rows(U, known.mT, seen.mT, ridge)
    for ridge in (CHOOSING, VANISHING):
        U, V, loss = _polished(U, V, known, seen, ridge)
    every, best = torch.arange(len(x), device=x.device), loss.argmin(1)
    return size * U[every, best] @ V[every, best].mT


def _ridge_rows(V: Tensor, known: Tensor, seen: Tensor, ridge: float) -> Tensor:
    """Row by row the u that minimises Σ_j known_j (v_j·u − seen_j)² + ridge ‖u‖², (…, n, r)."""
    r = V.shape[-1]
    outer = (V.unsqueeze(-1) * V.unsqueeze(-2)).flatten(-2)
    normal = (known @ outer).unflatten(-1, (r, r)) + ridge * torch.eye(r, dtype=V.dtype, device=V.device)
    return torch.linalg.solve(normal, seen @ V)


def _polished(
    U: Tensor, V: Tensor, known: Tensor, seen: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    """U and V after Levenberg–Marquardt steps on the ridge least squares, and the loss, (B, S)."""
    parts = (U.shape[-2:], V.shape[-2:])
    sizes = [rows * rank for rows, rank in parts]
    weight = known.flatten(2)
    factors = torch.cat([U.flatten(2), V.flatten(2)], -1)
    identity = torch.eye(sum(sizes), dtype=U.dtype, device=U.device)

    def split(factors: Tensor) -> list[Tensor]:
        return [
            part.unflatten(-1, shape) for part, shape in zip(factors.split(sizes, -1), parts, strict=True)
        ]

    def misfit(factors: Tensor) -> Tensor:
        U, V = split(factors)
        return weight * (U @ V.mT - seen).flatten(2)

    def total(factors: Tensor) -> Tensor:
        return misfit(factors).square().sum(-1) + ridge * factors.square().sum(-1)

    loss = total(factors)
    damping = torch.full_like(loss, DAMPING)
    for _ in range(POLISHING):
        moves = weight.unsqueeze(-1) * _moves(*split(factors))
        normal = moves.mT @ moves + (ridge + damping)[..., None, None] * identity
        slope = (moves.mT @ misfit(factors).unsqueeze(-1)).squeeze(-1) + ridge * factors
        tried = factors - torch.linalg.solve(normal, slope)
        after = total(tried)
        better = after < loss
        factors, loss = tried.where(better.unsqueeze(-1), factors), after.where(better, loss)
        damping = (damping * torch.where(better, 0.1, 10.0)).clamp(LEAST_DAMPING, 1 / DAMPING)
    return *split(factors), loss


def _moves(U: Tensor, V: Tensor) -> Tensor:
    """Derivatives of UVᵀ by the entries of U, then of V, (…, nm, (n + m)r)."""
    n, m = U.shape[-2], V.shape[-2]
    identity = [torch.eye(size, dtype=U.dtype, device=U.device) for size in (n, m)]
    by_U = torch.einsum("ia,...jk->...ijak", identity[0], V).flatten(-2)
    by_V = torch.einsum("...ik,jc->...ijck", U, identity[1]).flatten(-2)
    return torch.cat([by_U, by_V], -1).flatten(-3, -2)


def free_directions(Y: Tensor, x: Tensor, rank: int | None) -> Tensor:
    """Dimension of the tangent vectors of M_r at Y that vanish where x is observed, (B,).

    0 where, close to Y, no other matrix of rank r has its observed entries; for rank 1 nor anywhere else.
    Without a rank every missing entry is free.

    Args:
        Y: (B, n, m), of rank r.
        x: (B, n, m), 0 where missing.
        rank: r, if there is one.

    Source:
        Singer & Cucuringu 2010 (the rank of the completion matrix).
    """
    if rank is None:
        return (x == 0).sum((1, 2)).double()
    n, m = Y.shape[1:]
    U, _, Vh = torch.linalg.svd(Y, full_matrices=False)
    U, V = U[..., :rank], Vh[:, :rank].mT
    moves = _moves(U, V)
    s = torch.linalg.svdvals(moves * (x != 0).flatten(1).unsqueeze(-1))
    known = (s > relative_rounding(moves)).sum(1)
    return (rank * (n + m - rank) - known).double()


def posterior_mean(oracle: Energy, x: Tensor) -> Tensor:
    """E[y₀ | x], (B, d) float64, by the Bayes-optimal denoiser at the noisiest level.

    E[y₀ | y, x] at y = √ᾱ_t μ weighs each y₀ by exp(−ᾱ_t‖y₀ − μ‖²/2σ_t²), so with μ the mean itself it is
    E[y₀ | x] up to third moments times ᾱ_t, 2.4e-5 at the official noisiest level.

    Args:
        oracle: the Bayes-optimal energy.
        x: (B, d_x), in its precision.
    """
    t = oracle.schedule.levels - 1
    scale, sigma = (getattr(oracle.schedule, name)[t] for name in ("sqrt_alphas_cumprod", "sigma"))
    mean = x.new_zeros(len(x), oracle.dim_y)
    for _ in range(PASSES):
        mean = mean - sigma / scale * oracle.gradient(x, scale * mean, t)
    return mean.double()


def _or_one(values: Tensor) -> Tensor:
    return values.where(values > 0, 1)
