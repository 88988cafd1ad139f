"""The kernels of one block of problems, and the shapes of their spectra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.analyses.ntk.factors import Points
from iredinterp.analyses.ntk.kernels import (
    Directions,
    energy_kernel,
    every_direction,
    gradient_kernel_trace,
    output_kernel,
    pilot_basis,
    probe_directions,
)
from iredinterp.analyses.ntk.names import KERNELS, LAYERS
from iredinterp.ired.model import EnergyMLP
from iredinterp.linalg import finite_rows


@dataclass(frozen=True)
class Sampling:
    """Over which directions of y traces of Θ_g are taken.

    Attributes:
        exact_below: all d of them where d is below this; where it is not, those below.
        probes: random signs, in the complement of the deflated directions.
        deflated: directions whose terms are summed exactly.
        pilots: points whose mean Θ_g gives these directions.
        seed: of the probes.
    """

    exact_below: int = 100
    probes: int = 16
    deflated: int = 8
    pilots: int = 2
    seed: int = 0

    def directions(self, model: EnergyMLP, points: Points) -> Directions:
        """Those for a network, shared by all points.

        Raises:
            ConfigError: fewer than 2 probes.
        """
        if model.dim_y < self.exact_below or self.deflated >= model.dim_y:
            return every_direction(points.y)
        generator = torch.Generator().manual_seed(self.seed)
        basis = None
        if self.deflated:
            # Spread over the levels, which come one after the other.
            rows = torch.linspace(0, len(points.y) - 1, self.pilots).long().to(points.y.device)
            basis = pilot_basis(model, Points(*(part[rows] for part in points)), self.deflated)
        return probe_directions(points.y, self.probes, generator, basis)


@dataclass(frozen=True)
class Kernels:
    """The kernels of P problems at L levels.

    Attributes:
        within: at each level, by kernel and layer, (8, L, P, P).
        traces: tr Θ_g between all points, (L, P, L, P).
        stderr: of tr Θ_g of each point with itself, (L, P).
    """

    within: Mapping[str, Tensor]
    traces: Tensor
    stderr: Tensor

    @classmethod
    def of(cls, model: EnergyMLP, points: Points, sizes: tuple[int, int], sampling: Sampling) -> Kernels:
        """Those of a network at its points, one level after the other.

        Raises:
            ConfigError: fewer than 2 probes.
        """
        found = gradient_kernel_trace(
            model, points, directions=sampling.directions(model, points), by_layer=True
        )
        value = found.value.unflatten(1, sizes).unflatten(3, sizes)
        levels = [Points(*part) for part in zip(*(part.split(sizes[1]) for part in points), strict=True)]
        within = {
            "E": torch.stack([energy_kernel(model, level, by_layer=True) for level in levels], 1),
            "g": value.diagonal(dim1=1, dim2=3).movedim(-1, 1),
            "r": torch.stack([output_kernel(model, level, by_layer=True) for level in levels], 1),
        }
        return cls(within, value.sum(0), found.stderr.diagonal().view(sizes))

    @classmethod
    def undefined(cls, sizes: tuple[int, int]) -> Kernels:
        """NaN in place of those of an energy that has none."""
        L, P = sizes
        nothing = torch.full((L, P, L, P), torch.nan, dtype=torch.float64)
        within = nothing[:, :, 0].expand(len(LAYERS), L, P, P)
        return cls(dict.fromkeys(KERNELS, within), nothing, nothing[:, :, 0, 0])


def spectral_shape(kernel: Tensor, top: int) -> dict[str, Tensor]:
    """Size and shape of the spectra of symmetric matrices.

    Args:
        kernel: (L, P, P).
        top: eigenvalues wanted, at most P.

    Returns:
        frobenius and effective_rank (tr K)²/‖K‖²_F in [1, P], (L,), and eigenvalue_share, (L, top),
        descending; NaN of a matrix that is zero or not finite.
    """
    kernel, finite = finite_rows(kernel)
    trace, size = kernel.diagonal(dim1=1, dim2=2).sum(-1), kernel.norm(dim=(1, 2))
    values = torch.linalg.eigvalsh(kernel).flip(-1)[:, :top]
    there = finite & (size > 0)
    return {
        "frobenius": size.where(finite, torch.nan),
        "effective_rank": (trace / size).square().where(there, torch.nan),
        "eigenvalue_share": (values / trace[:, None]).where(there[:, None], torch.nan),
    }
