"""Where curvature lies: eigenspaces and traces of H against the geometric bases of the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.analyses.hessian.tracking import NO_VECTORS
from iredinterp.bases import BASES, GeometricBases, haar_deviation
from iredinterp.errors import ConfigError
from iredinterp.linalg import zero_tolerance
from iredinterp.points import reference_matrices
from iredinterp.spectrum import ENDS, NOT_SEPARATED, SEPARATION, Spectra
from iredinterp.tables import Metric, tidy

# Share of Σ|λ| that has to survive in Σλ for a share of the trace to mean anything.
SURVIVING = 0.5
SHARES = {
    "curvature_share": "positive and negative eigenvalues cancel in the trace, or H is zero",
    "response_share": "positive and negative eigenvalues cancel in the trace, or I-σH is zero to rounding",
    "response_square_share": "I-σH is zero to rounding",
}


@dataclass(frozen=True)
class References:
    """Geometric bases of P problems.

    Attributes:
        bases: of all problems.
        identified: (P, 6), which of `BASES` the gaps between singular values identify.
    """

    bases: GeometricBases
    identified: Tensor

    @classmethod
    def of(cls, problems: pa.Table, rank: int) -> References:
        """Bases of rank q from `signal` where the problems have one, else from `y_star`.

        Raises:
            ConfigError: no such rank.
        """
        Y = reference_matrices(problems)
        most = min(Y.shape[1:])
        if not 1 <= rank <= most:
            raise ConfigError(f"rank: found {rank}, allowed 1 … min(n, m) = {most}; lower it")
        singular_values = torch.linalg.svdvals(Y)
        simple = -pad(singular_values, (0, 1)).diff() > SEPARATION * singular_values[:, :1]
        # The products u_i v_iᵀ need every leading singular value to be simple, the symmetric matrices none.
        special = {"outer": simple[:, :rank].all(1), "symmetric": torch.ones(len(Y), dtype=torch.bool)}
        identified = torch.stack([special.get(name, simple[:, rank - 1]) for name in BASES], dim=1)
        return cls(GeometricBases.from_reference(Y, rank), identified)

    def at(self, rows: Tensor, device: torch.device) -> GeometricBases:
        """Bases of the problems at `rows`."""
        parts = (self.bases.U, self.bases.V, self.bases.gap)
        return GeometricBases(*(part[rows].to(device) for part in parts))


def projections(
    found: Spectra, sigma: Tensor, own: GeometricBases, other: GeometricBases
) -> dict[str, Tensor]:
    """Everything that needs H or its eigenvectors together with bases, for one chunk.

    Args:
        found: B spectra, with H.
        sigma: σ_t, (B,).
        own: bases of the problem each point belongs to.
        other: bases of another problem.

    Returns:
        With R = I − σ_tH, `trace` tr(PR) and `square` ‖PR‖_F², (B, 6); `alignment` of the low and of the high
        end, (B, 6, 2), and `mismatched`, the same with the other bases. NaN for a basis that does not exist,
        or without eigenvectors.
    """
    nan = found.eigenvalues.new_full((len(sigma),), torch.nan)
    identity = torch.eye(found.hessian.shape[1], dtype=nan.dtype, device=nan.device)
    response = identity - sigma[:, None, None] * found.hessian

    def alignment(basis: str, bases: GeometricBases) -> Tensor:
        ends = (found.low, found.high)
        return torch.stack([nan if E is None else bases.alignment(basis, E) for E in ends], dim=-1)

    parts = {"trace": [], "square": [], "alignment": [], "mismatched": []}
    for basis in (name for name in BASES if _exists(own, name)):
        projected = own.project(basis, response)
        parts["trace"].append(projected.diagonal(dim1=1, dim2=2).sum(-1))
        parts["square"].append(projected.square().sum((1, 2)))
        parts["alignment"].append(alignment(basis, own))
        parts["mismatched"].append(alignment(basis, other))
    # Only the last basis, symmetric, can be missing.
    missing = len(BASES) - len(parts["trace"])
    return {
        name: torch.stack(values + missing * [torch.full_like(values[0], torch.nan)], dim=1)
        for name, values in parts.items()
    }


def shares(
    trace: Tensor,
    square: Tensor,
    eigenvalues: Tensor,
    sigma: Tensor,
    bases: GeometricBases,
    precision: torch.dtype,
) -> Tensor:
    """tr(PH)/tr(H), tr(PR)/tr(R) and ‖PR‖_F²/‖R‖_F² with R = I − σ_tH.

    Args:
        trace: tr(PR), (B, 6).
        square: ‖PR‖_F², (B, 6).
        eigenvalues: of H, (B, d).
        sigma: σ_t, (B,).
        bases: of any problems of this shape.
        precision: in which H was built.

    Returns:
        (B, 6, 3), NaN where R is zero to rounding or more than half of a trace cancels.
    """
    scaled = sigma.unsqueeze(-1) * eigenvalues
    both = torch.stack([scaled, 1 - scaled], dim=-1)
    k = torch.tensor([bases.k_dim(name) if _exists(bases, name) else math.nan for name in BASES]).to(trace)
    parts, wholes = torch.stack([k - trace, trace], dim=-1), both.sum(1, keepdim=True)
    rounding = torch.stack([zero_tolerance(scaled, precision), response_tolerance(scaled, precision)], dim=-1)
    least = (SURVIVING * both.abs().sum(1)).maximum(scaled.shape[1] * rounding).unsqueeze(1)
    of_traces = (parts / wholes).where(wholes.abs() > least, torch.nan)
    present = (1 - scaled).abs().amax(1, keepdim=True) > rounding[:, 1:]
    of_squares = (square / (1 - scaled).square().sum(1, keepdim=True)).where(present, torch.nan)
    return torch.cat([of_traces, of_squares.unsqueeze(-1)], dim=-1)


def response_tolerance(scaled: Tensor, precision: torch.dtype) -> Tensor:
    """Rounding of 1 − σ_tλ, (B,): that of σ_tλ, (B, d), and that of 1."""
    return zero_tolerance(scaled, precision).maximum(zero_tolerance(torch.ones_like(scaled), precision))


def alignment_table(
    keys: pa.Table,
    parts: Mapping[str, Tensor],
    bases: GeometricBases,
    known: Tensor,
    vectors: int,
    absent: str,
    no_vectors: str,
) -> pa.Table:
    """Alignments and shares with their chance levels, long and tidy; the metrics of `spectrum_tables`.

    Args:
        keys: N points.
        parts: `share` (N, 6, 3), `alignment` and `mismatched` (N, 6, 2), or nothing where H is not formed.
        bases: of all problems.
        known: (N, 14), which of the 6 bases of the problem itself, which of the 6 of the other problem and
            which of the 2 end eigenspaces are identified.
        vectors: m.
        absent: why there are no parts, or empty.
        no_vectors: why there are no eigenvectors, or empty.
    """
    tables = []
    # A metric gives one reason, so points undefined for different reasons are tidied apart.
    cases, case = known.unique(dim=0, return_inverse=True)
    for index, identified in enumerate(cases.tolist()):
        rows = (case == index).nonzero().flatten()
        blank = torch.full((len(rows), len(BASES), len(SHARES)), torch.nan, dtype=torch.float64)
        some = dict.fromkeys(("share", "alignment", "mismatched"), blank)
        some |= {name: values[rows] for name, values in parts.items()}
        metrics = _metrics(some, bases, identified, vectors, absent, no_vectors)
        tables.append(tidy(keys.take(pa.array(rows.numpy())), metrics))
    return pa.concat_tables(tables)


def _metrics(
    parts: Mapping[str, Tensor],
    bases: GeometricBases,
    identified: Sequence[bool],
    vectors: int,
    absent: str,
    no_vectors: str,
) -> Iterator[Metric]:
    d, own, other, separated = math.prod(bases.shape), identified[:6], identified[6:12], identified[12:]
    no_gap = f"reference matrix has no gap at rank {bases.rank}: σ_q − σ_(q+1) below {SEPARATION:g}·σ_1"

    def metric(name: str, component: str, values: Tensor | float, reason: str, rarely: str = "") -> Metric:
        values = torch.as_tensor(math.nan if reason else values, dtype=torch.float64)
        return Metric(name, values.expand(len(parts["share"])), component, reason or rarely)

    for index, basis in enumerate(BASES):
        unfit = "" if _exists(bases, basis) else f"basis {basis} needs square matrices"
        k = math.nan if unfit else bases.k_dim(basis)
        chance = k / d
        undefined = absent or unfit or (f"basis {basis} is the whole space" if k == d else "")
        reason = undefined or ("" if own[index] else no_gap)
        for (name, rarely), share in zip(SHARES.items(), parts["share"][:, index].unbind(-1), strict=True):
            yield metric(name, basis, share, reason, rarely)
        yield metric("curvature_share_chance", basis, chance, unfit)
        mismatch = undefined or ("" if other[index] else f"other problem: {no_gap}")
        if basis == "symmetric":
            mismatch = mismatch or "the basis is the same for every problem"
        elif len(bases.U) == 1:
            mismatch = mismatch or "there is no other problem"
        deviation = math.nan if unfit or not vectors else haar_deviation(k, d, vectors)
        for column, end in enumerate(ENDS):
            component = f"{basis}/{end}"
            blurred = no_vectors or ("" if separated[column] else NOT_SEPARATED)
            a, b = (parts[name][:, index, column] for name in ("alignment", "mismatched"))
            excess = math.nan if reason else (a - chance) / (1 - chance)
            yield metric("alignment", component, a, reason or blurred)
            yield metric("alignment_excess", component, excess, reason or blurred)
            yield metric("alignment_mismatched", component, b, mismatch or blurred)
            yield metric("alignment_chance", component, chance, unfit)
            yield metric("alignment_chance_sd", component, deviation, unfit, NO_VECTORS)


def _exists(bases: GeometricBases, basis: str) -> bool:
    n, m = bases.shape
    return basis != "symmetric" or n == m
