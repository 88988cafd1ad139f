"""What the problems of a task can be answered with, and where those answers are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.comparators import (
    free_directions,
    least_squares_completion,
    nuclear_norm_completion,
    posterior_mean,
)
from iredinterp.analyses.implicit_bias.names import NUCLEAR, POSTERIOR, RIGHT, SQUARES, ZERO
from iredinterp.energy import Energy

# A completion whose nuclear norm is not certified to this share is not compared with.
CERTIFIED = 1e-4
# Values by metric and component.
Values = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Solved:
    """What B problems can be answered with.

    Attributes:
        solutions: (B, n, m) by name, NaN where there is none.
        free: (B, d), 1 for entries that the solutions are compared at.
        observed: (B, n, m), observed entries, NaN where missing.
        facts: of the problems.
    """

    solutions: dict[str, Tensor]
    free: Tensor
    observed: Tensor
    facts: Values


def completions(
    x: Tensor,
    Y: Tensor,
    signal: Tensor,
    rank: int | None,
    starts: Tensor,
    iterations: int,
    oracle: Energy | None,
) -> Solved:
    """All comparators of completions.

    Args:
        x: (B, n, n), 0 where missing, in the precision of the oracle.
        Y: (B, n, n), right answers.
        signal: (B, n, n), what of them has rank r.
        rank: r, if there is one.
        starts: (B, S, n, r), first factors of the least squares.
        iterations: of the least squares.
        oracle: the Bayes-optimal energy, if it has a computable reference.
    """
    posterior, x = _posterior(oracle, x.flatten(1), Y), x.double()
    nuclear = nuclear_norm_completion(x)
    certified = nuclear.gap <= CERTIFIED
    squares = torch.full_like(x, torch.nan)
    if rank is not None:
        squares = least_squares_completion(x, rank, starts, iterations)
    missing = x == 0
    facts = {
        ("missing_entries", ""): missing.sum((1, 2)).double(),
        ("free_directions", ""): free_directions(signal, x, rank),
        ("nuclear_gap", ""): nuclear.gap,
    }
    solutions = {
        NUCLEAR: nuclear.Y.where(certified[:, None, None], torch.nan),
        SQUARES: squares,
        ZERO: x,
        POSTERIOR: posterior,
        RIGHT: Y,
    }
    return Solved(solutions, missing.flatten(1).double(), x.masked_fill(missing, torch.nan), facts)


def determined(x: Tensor, Y: Tensor, oracle: Energy | None) -> Solved:
    """The one answer of problems that complete nothing; x is (B, d_x), the rest as for `completions`."""
    none = torch.full_like(Y, torch.nan)
    facts = {(name, ""): none[:, 0, 0] for name in ("missing_entries", "nuclear_gap")}
    facts["free_directions", ""] = torch.zeros_like(none[:, 0, 0])
    solutions = dict.fromkeys((NUCLEAR, SQUARES, ZERO), none)
    solutions |= {POSTERIOR: _posterior(oracle, x, Y), RIGHT: Y}
    return Solved(solutions, torch.ones_like(Y).flatten(1), none, facts)


def _posterior(oracle: Energy | None, x: Tensor, Y: Tensor) -> Tensor:
    return torch.full_like(Y, torch.nan) if oracle is None else posterior_mean(oracle, x).view_as(Y)
