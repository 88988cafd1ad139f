"""Atoms as matrices: how much structure they have, next to that of random directions."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.linalg import effective_rank, finite_rows, unit_matrices


def as_matrices(atoms: Tensor, shape: tuple[int, int]) -> Tensor:
    """Atoms (m, d) as matrices (m, n, p), d = n·p, in row-major order.

    Raises:
        ConfigError: d is not n·p.
    """
    n, p = shape
    if atoms.shape[1] != n * p:
        raise ConfigError(f"atoms of dimension {atoms.shape[1]} are no {n}×{p} matrices; check the shape")
    return atoms.reshape(-1, n, p)


def atom_structure(atoms: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
    """Shape of each atom, whatever its norm.

    Args:
        atoms: (m, n, p).
        reference: (R, n, p), matrices whose singular pairs atoms are compared with.

    Returns:
        By name, (m,) each in float64, NaN for atoms that are zero or not finite:

        * effective_rank: exp of the entropy of σ/Σσ, 1 … min(n, p).
        * rank_one_share: σ₁²/Σσ².
        * row_concentration: Σ over rows of (share of the squared norm)², from 1/n (all rows alike) to 1 (one
          row).
        * column_concentration: likewise.
        * diagonal_share: share of the squared norm on the main diagonal.
        * symmetric_share: that of (Z + Zᵀ)/2; where n = p only.
        * pair_cosine: largest |uᵢᵀZvⱼ| over all i and j, mean over references; with a reference only.

    Raises:
        ConfigError: a reference of another shape.
    """
    units, finite = finite_rows(unit_matrices(atoms))
    singular_values = torch.linalg.svdvals(units)
    squares = units.square()
    values = {
        "effective_rank": effective_rank(singular_values),
        "rank_one_share": singular_values[:, 0].square(),
        "row_concentration": squares.sum(2).square().sum(1),
        "column_concentration": squares.sum(1).square().sum(1),
        "diagonal_share": squares.diagonal(dim1=1, dim2=2).sum(1),
    }
    if atoms.shape[1] == atoms.shape[2]:
        values["symmetric_share"] = ((units + units.mT) / 2).square().sum((1, 2))
    if reference is not None:
        values["pair_cosine"] = _pair_cosine(units, reference.double())
    return {name: value.where(finite, torch.nan) for name, value in values.items()}


def chance_structure(
    shape: tuple[int, int],
    generator: torch.Generator,
    reference: Tensor | None = None,
    draws: int = 1000,
) -> dict[str, float]:
    """Mean of `atom_structure` over uniformly random directions.

    In closed form, from the Dirichlet law of squared coordinates, for all but effective_rank,
    rank_one_share and pair_cosine, which are means over draws.

    Args:
        shape: (n, p).
        generator: source of randomness.
        reference: as in `atom_structure`.
        draws: random directions.
    """
    n, p = shape
    values = atom_structure(
        torch.randn(draws, n, p, generator=generator, dtype=torch.float64),
        None if reference is None else reference.cpu(),
    )
    chance = {name: float(value.mean()) for name, value in values.items()}
    chance |= {
        "row_concentration": (p + 2) / (n * p + 2),
        "column_concentration": (n + 2) / (n * p + 2),
        "diagonal_share": 1 / max(n, p),
    }
    if n == p:
        chance["symmetric_share"] = (n + 1) / (2 * n)
    return chance


def _pair_cosine(units: Tensor, reference: Tensor) -> Tensor:
    if reference.ndim != 3 or reference.shape[1:] != units.shape[1:]:
        raise ConfigError(
            f"reference matrices have shape (R, {units.shape[1]}, {units.shape[2]}) as the atoms do; "
            f"found {tuple(reference.shape)}"
        )
    U, _, Vh = torch.linalg.svd(reference, full_matrices=False)
    # One reference at a time: all at once would be R·m·min(n, p)² numbers.
    largest = [(u.mT @ units @ vh.mT).abs().amax((1, 2)) for u, vh in zip(U, Vh, strict=True)]
    return torch.stack(largest).mean(0)
