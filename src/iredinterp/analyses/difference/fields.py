"""Gradients and Hessians of two energies at the same points."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.energy import Energy, map_chunks
from iredinterp.linalg import principal_angles, subspace_overlap
from iredinterp.spectrum import ENDS, NOT_SEPARATED, Spectra, separation, spectra
from iredinterp.tables import Metric

SIDES = ("model", "other")
NO_ORACLE = "no computable Bayes-optimal reference"
ZERO = "what it would be divided by is zero"
# By metric, where it is not that.
REASONS = dict.fromkeys(("eigenspace_overlap", "principal_angle"), NOT_SEPARATED)
# Values by metric and component.
Values = dict[tuple[str, str], Tensor]


def field_metrics(
    energy: Energy,
    other: Energy,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    *,
    vectors: int,
    chunk: int,
    oracle: Energy | None = None,
) -> list[Metric]:
    """Spectra, Hessians and gradients of two energies, point by point; see `difference_tables`.

    Args:
        energy: of one network.
        other: of the other.
        x: (B, d_x).
        y: (B, d).
        t: (B,).
        vectors: m of the end eigenspaces, 1 … d − 1.
        chunk: points in memory at once.
        oracle: the Bayes-optimal energy, if there is one.
    """

    def measure(x: Tensor, y: Tensor, t: Tensor) -> Values:
        pair = energy, other
        found = [spectra(each, x, y, t, vectors=vectors, keep_hessian=True) for each in pair]
        forms = {
            "hessian": [each.hessian.flatten(1) for each in found],
            "gradient": [each.gradient(x, y, t).double() for each in pair],
        }
        scaled = [energy.schedule.sigma[t].double().unsqueeze(1) * each.eigenvalues for each in found]
        best, optimum = {}, torch.full_like(scaled[0], torch.nan)
        if oracle is not None:
            hessian = oracle.hessian(x, y, t).double()
            best = {"hessian": hessian.flatten(1), "gradient": oracle.gradient(x, y, t).double()}
            optimum = energy.schedule.sigma[t].double().unsqueeze(1) * torch.linalg.eigvalsh(hessian)
        sides = zip((*SIDES, "oracle"), (*scaled, optimum), strict=True)
        values = {("scaled", side): each for side, each in sides}
        values["scaled_difference", ""] = scaled[0] - scaled[1]
        for name, (a, b) in forms.items():
            values |= _compared(name, a, b, best.get(name, torch.full_like(a, torch.nan)))
        return values | _eigenspaces(found, (energy.dtype, other.dtype))

    parts = list(map_chunks(measure, (x, y, t), chunk))
    return [
        Metric(
            name,
            torch.cat([part[name, component] for part in parts]),
            component,
            _reason(name, component, oracle),
        )
        for name, component in parts[0]
    ]


def _reason(name: str, component: str, oracle: Energy | None) -> str:
    if oracle is None and (component == "oracle" or "_error" in name):
        return NO_ORACLE
    return REASONS.get(name, ZERO)


def _compared(name: str, a: Tensor, b: Tensor, best: Tensor) -> Values:
    """Relative sizes of a − b and of what each lacks, and cosines; rows (B, k)."""
    apart, size, errors = (a - b).norm(dim=1), best.norm(dim=1), (a - best, b - best)
    return {
        (f"{name}_difference", "mean"): _over(apart, (a.norm(dim=1) + b.norm(dim=1)) / 2),
        (f"{name}_difference", "oracle"): _over(apart, size),
        (f"{name}_cosine", ""): _cosine(a, b),
        (f"{name}_error", "model"): _over(errors[0].norm(dim=1), size),
        (f"{name}_error", "other"): _over(errors[1].norm(dim=1), size),
        (f"{name}_error_cosine", ""): _cosine(*errors),
    }


def _eigenspaces(found: list[Spectra], precisions: tuple[torch.dtype, torch.dtype]) -> Values:
    """How far the end eigenspaces are turned against each other, where both are told from the rest."""
    separated = [separation(each, precision)[1] for each, precision in zip(found, precisions, strict=True)]
    known, values = separated[0] & separated[1], {}
    for end, defined in zip(ENDS, known.unbind(1), strict=True):
        U, V = (getattr(each, end) for each in found)
        overlap, angles = subspace_overlap(U, V), principal_angles(U, V)
        chance = torch.full_like(overlap, U.shape[2] / U.shape[1])
        values["eigenspace_overlap", end] = overlap.where(defined, torch.nan)
        values["eigenspace_overlap_chance", end] = chance
        values["principal_angle", end] = angles.where(defined.unsqueeze(1), torch.nan)
    return values


def _over(size: Tensor, scale: Tensor) -> Tensor:
    return size / scale.where(scale != 0, torch.nan)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return _over((a * b).sum(1), a.norm(dim=1) * b.norm(dim=1))
