"""What training does to the weights: ranks of each layer and of its change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from iredinterp.linalg import effective_rank, stable_rank

UNCHANGED = "the weights have not changed yet"


def layers(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight matrices of a stack of networks by layer, (S, out, in)."""
    return {name.removesuffix(".weight"): w for name, w in parameters.items() if name.endswith(".weight")}


def weight_measures(weight: Tensor, initial: Tensor) -> dict[str, Tensor]:
    """Ranks and singular values of W and of ΔW = W − W₀.

    Args:
        weight: W, (S, out, in).
        initial: W₀, likewise.

    Returns:
        weight_stable_rank, weight_effective_rank, change_stable_rank, change_effective_rank and
        relative_change ‖ΔW‖_F/‖W₀‖_F, (S,), weight_singular_value and change_singular_value, (S, min),
        descending; float64 on the CPU. Ranks of a change that is 0 are NaN.
    """
    weight, initial = weight.double(), initial.double()
    change = weight - initial
    found = {"relative_change": change.norm(dim=(1, 2)) / initial.norm(dim=(1, 2))}
    for name, matrix in (("weight", weight), ("change", change)):
        values = torch.linalg.svdvals(matrix)
        found |= {
            f"{name}_stable_rank": stable_rank(values),
            f"{name}_effective_rank": effective_rank(values),
            f"{name}_singular_value": values,
        }
    return {name: value.cpu() for name, value in found.items()}
