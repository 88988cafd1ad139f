"""Rank correlations of many short samples at once."""

from __future__ import annotations

import numpy as np

# Below this, 1 − ρ² of the variable given is rounding.
RESOLVED = 1e-12


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row, (B, k) and (B, k) → (B,); NaN where one is constant or not finite.

    Source:
        Spearman 1904; ties share their mean rank.
    """
    first, second = _centred_ranks(first), _centred_ranks(second)
    return _divide((first * second).sum(1), np.sqrt((first**2).sum(1) * (second**2).sum(1)))


def partial_correlation(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Spearman's partial ρ of two given a third, row by row, (B, k) each → (B,).

    NaN where one of the three is constant or not finite, or `given` orders one of the others perfectly.

    Source:
        (ρ₁₂ − ρ₁₃ρ₂₃)/√((1 − ρ₁₃²)(1 − ρ₂₃²)); Conover 1999, section 5.4.
    """
    both, one, other = spearman(first, second), spearman(first, given), spearman(second, given)
    left = (1 - one**2) * (1 - other**2)
    return _divide(both - one * other, np.sqrt(np.where(left > RESOLVED, left, 0)))


def kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's τ_b of each row, (B, k) and (B, k) → (B,); NaN where one is constant or not finite.

    Source:
        Kendall 1945.
    """
    first, second = _orders(first), _orders(second)
    size = np.sqrt((first**2).sum((1, 2)) * (second**2).sum((1, 2)))
    return _divide((first * second).sum((1, 2)), size)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean, ties sharing theirs: half of how many more are below than above."""
    return _orders(values).sum(2) / 2


def _orders(values: np.ndarray) -> np.ndarray:
    """Signs of v_i − v_j, (B, k, k); NaN throughout a row where an entry is not finite."""
    finite = np.where(np.isfinite(values).all(1, keepdims=True), values, np.nan)
    return np.sign(finite[:, :, None] - finite[:, None, :])


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(len(numerator), np.nan))
