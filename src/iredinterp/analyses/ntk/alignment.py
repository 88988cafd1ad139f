"""How two Gram matrices over the same points agree, without the bias of few points and many features.

Centring by column and row sums of the off-diagonal entries alone (U-centring) makes the inner product of two
matrices an unbiased estimate of HSIC: it is 0 on average where they are independent, however many features
lie behind them. The usual centred alignment of two independent Gram matrices of rank above n is close to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.errors import ConfigError

LEAST = 4
# Share of the plain inner product below which the unbiased one is rounding.
ROUNDING = 1e-12


def u_centred(gram: Tensor) -> Tensor:
    """Gram matrices with zero diagonal whose off-diagonal rows and columns sum to 0, (…, n, n).

    Raises:
        ConfigError: fewer than 4 points, for which nothing is left.

    Source:
        Székely & Rizzo 2014, definition 2; ⟨K̃, L̃⟩/(n(n − 3)) is HSIC₁ of Song et al. 2012, eq. 5.
    """
    n = gram.shape[-1]
    if n < LEAST:
        raise ConfigError(
            f"ntk.kernels.count: found {n}, allowed ≥ {LEAST}: a debiased alignment needs that many"
        )
    gram = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    rows = gram.sum(-1, keepdim=True) / (n - 2)
    centred = gram - rows - rows.mT + gram.sum((-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    return centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1))


def debiased_alignment(one: Tensor, two: Tensor) -> Tensor:
    """Debiased CKA of Gram matrices, (…): 1 for equal ones, 0 on average for independent ones.

    Args:
        one: (…, n, n), symmetric.
        two: likewise.

    Returns:
        (…), ⟨K̃, L̃⟩/(‖K̃‖‖L̃‖); NaN where either is constant off its diagonal.

    Raises:
        ConfigError: fewer than 4 points.

    Source:
        Song et al. 2012; Kornblith et al. 2019 with its debiased form in Nguyen, Raghu & Kornblith 2021.
    """
    return _inner(*(_unit(gram) for gram in (one, two)))


def permuted_alignment(one: Tensor, two: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The same with the points of the second shuffled, as if they had no relation, (count, …).

    Args:
        one: (…, n, n).
        two: (…, n, n).
        count: permutations.
        generator: of the permutations, on the CPU; the same ones for all pairs.
    """
    one, two = _unit(one), _unit(two)
    orders = torch.stack([torch.randperm(one.shape[-1], generator=generator) for _ in range(count)])
    return torch.stack([_inner(one, two[..., order, :][..., order]) for order in orders.to(one.device)])


def _unit(gram: Tensor) -> Tensor:
    centred = u_centred(gram)
    size = centred.norm(dim=(-2, -1), keepdim=True)
    constant = size <= ROUNDING * gram.norm(dim=(-2, -1), keepdim=True)
    return (centred / size).masked_fill(constant, torch.nan)


def _inner(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum((-2, -1))
