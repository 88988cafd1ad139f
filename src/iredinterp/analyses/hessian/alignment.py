"""Where curvature lies: eigenspaces and traces of H against the geometric bases of the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import pad

from iredinterp.analyses.hessian.tracking import ENDS, NO_VECTORS, NOT_SEPARATED, SEPARATION
from iredinterp.errors import ConfigError
from iredinterp.linalg import BASES, GeometricBases, haar_deviation
from iredinterp.spectra import Spectra
from iredinterp.tables import Metric, tensor_column, tidy


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
        Y = tensor_column(problems, "signal" if "signal" in problems.column_names else "y_star").double()
        most = min(Y.shape[1:])
        if not 1 <= rank <= most:
            raise ConfigError(f"hessian: rank: found {rank}, allowed 1 … min(n, m) = {most}; lower it")
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
    found: Spectra, response: Tensor, weighty: Tensor, own: GeometricBases, other: GeometricBases
) -> dict[str, Tensor]:
    """Everything that needs H or eigenvectors together with bases, for one chunk.

    Args:
        found: B spectra, with H.
        response: I − σ_tH, (B, d, d).
        weighty: whether the traces of H and of I − σ_tH are above rounding, (B, 2).
        own: bases of the problem each point belongs to.
        other: bases of another problem.

    Returns:
        (B, 6, 2) each, NaN where undefined: `share` of the traces of H and of I − σ_tH, `alignment` of the
        low and of the high end, and `mismatched`, the same with the other bases.
    """
    blank = found.eigenvalues.new_full((len(weighty), 2), torch.nan)

    def share(basis: str) -> Tensor:
        pair = [own.curvature_share(basis, matrix) for matrix in (found.hessian, response)]
        return torch.stack(pair, dim=-1).where(weighty, torch.nan)

    def alignment(basis: str, bases: GeometricBases) -> Tensor:
        if found.low is None:
            return blank
        pair = [bases.alignment(basis, vectors) for vectors in (found.low, found.high)]
        return torch.stack(pair, dim=-1)

    def per_basis(function: Callable[..., Tensor], *arguments) -> Tensor:
        values = (function(name, *arguments) if _fits(own, name) else blank for name in BASES)
        return torch.stack(list(values), dim=1)

    return {
        "share": per_basis(share),
        "alignment": per_basis(alignment, own),
        "mismatched": per_basis(alignment, other),
    }


def alignment_table(
    keys: pa.Table,
    projected: Mapping[str, Tensor],
    bases: GeometricBases,
    known: Tensor,
    vectors: int,
    absent: str,
    no_vectors: str,
) -> pa.Table:
    """Alignments and shares as a long, tidy table, each with its chance level; metrics as in `spectrum_tables`.

    Args:
        keys: N points.
        projected: joined `projections`, or none where the engine does not form H.
        bases: of all problems.
        known: (N, 14), which of the 6 bases of the problem itself, which of the 6 of the other problem and
            which of the 2 end eigenspaces are identified.
        vectors: m.
        absent: why there are no projections, or empty.
        no_vectors: why there are no eigenvectors, or empty.
    """
    tables = []
    # A metric gives one reason, so points undefined for different reasons are tidied apart.
    cases, case = known.unique(dim=0, return_inverse=True)
    for index, identified in enumerate(cases.tolist()):
        rows = (case == index).nonzero().flatten()
        blank = torch.full((len(rows), len(BASES), 2), torch.nan, dtype=torch.float64)
        parts = dict.fromkeys(("share", "alignment", "mismatched"), blank)
        parts |= {name: values[rows] for name, values in projected.items()}
        metrics = _metrics(parts, bases, identified, vectors, absent, no_vectors)
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
        unfit = "" if _fits(bases, basis) else f"basis {basis} needs square matrices"
        k = math.nan if unfit else bases.k_dim(basis)
        chance = k / d
        undefined = absent or unfit or (f"basis {basis} is the whole space" if k == d else "")
        reason = undefined or ("" if own[index] else no_gap)
        for name, share in zip(
            ("curvature_share", "response_share"), parts["share"][:, index].T, strict=True
        ):
            yield metric(name, basis, share, reason, "the trace is zero to rounding")
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


def _fits(bases: GeometricBases, basis: str) -> bool:
    n, m = bases.shape
    return basis != "symmetric" or n == m
