"""What the spectrum of H says, point by point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.hessian.alignment import (
    References,
    alignment_table,
    projections,
    response_tolerance,
    shares,
)
from iredinterp.analyses.hessian.tracking import NO_VECTORS, level_overlap
from iredinterp.energy import Energy, map_chunks
from iredinterp.errors import ConfigError, TableError
from iredinterp.linalg import (
    condition_number,
    effective_rank,
    inertia,
    participation_ratio,
    quantile_ratio,
    spectral_gap,
    stable_rank,
    zero_tolerance,
)
from iredinterp.points import point_tensors, reference_rank
from iredinterp.spectrum import ENDS, ENGINES, Spectra, separation, spectra
from iredinterp.tables import Metric, tensor_array, tidy

ORACLE_DISTANCES = ("oracle_distance", "oracle_gradient_distance")
NO_ORACLE = "no computable Bayes-optimal reference"
# The sign with which an eigenvalue known to be among the largest in magnitude is the extreme one.
EXTREMES = {"scaled_min": -1, "scaled_max": 1, "stability": 1}


def spectrum_tables(
    energy: Energy,
    points: pa.Table,
    problems: pa.Table,
    *,
    engine: str = "closed",
    vectors: int = 10,
    count: int | None = None,
    rank: int | None = None,
    chunk: int = 32,
    oracle: Energy | None = None,
    **options,
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Spectra of H at every point, and what they say. H itself exists for `chunk` points at a time.

    Args:
        energy: the landscape.
        points: rows of a points table; every column that is not a tensor is a key.
        problems: the problems they belong to; bases come from `signal` where there is one, else `y_star`.
        engine: one of `iredinterp.spectrum.ENGINES`. Alignments need one that forms H.
        vectors: m, dimension of the eigenspace at either end, 0 … d − 1.
        count: eigenvalues wanted of an engine that does not give all; the others ignore it.
        rank: q of the geometric bases; if not given, the `rank` of the points, or 1 where they have none.
        chunk: points per call of the engine.
        oracle: the Bayes-optimal energy of the task, if it has a computable reference.
        **options: of the engine.

    Returns:
        Three tables. Spectra, one row per point: keys, `eigenvalues` λ, ascending, and `scaled` σ_tλ; from
        engines that give them `residual`; from engines that form H, `low` and `high` (d, m), the eigenvectors
        of either end, in float64 because small angles between levels are read from them, and `low_separated`
        and `high_separated`, whether a gap above rounding identifies that eigenspace.

        Metrics, long and tidy: those of `spectral_metrics`, and, each null with a reason where undefined,

        * gauss_newton_share: ‖2J_oᵀJ_o‖_F/‖H‖_F, the part that would be all of H if every output were 0.
        * oracle_distance: ‖H − H*‖_F/‖H*‖_F and oracle_gradient_distance: ‖∇_yE − ∇_yE*‖/√d, with the
          Bayes-optimal H* and ∇_yE*; 0 is optimal. The stderr is that of a reference found by sampling, 0 of
          an exact one, null where it is not known.
        * symmetry_defect: ‖H − Hᵀ‖_F/‖H‖_F as autograd built H.
        * end_gap, component low or high: gap between that eigenspace and the rest over |λ|max.
        * alignment, component basis/end: a = ‖P E_m‖_F²/m. Beside it alignment_chance, its mean k/d over
          uniformly random eigenspaces; alignment_chance_sd, their exact standard deviation;
          alignment_excess, (a − k/d)/(1 − k/d); alignment_mismatched, a with the basis of the next problem
          in the problems table (cyclic).
        * curvature_share, component basis: tr(PH)/tr(H), which needs no eigenvectors; response_share: the
          same of R = I − σ_tH; both can leave [0, 1] where the matrix is indefinite, and are undefined where
          more than half of the trace cancels. response_square_share: ‖PR‖_F²/‖R‖_F², in [0, 1] always.
          curvature_share_chance: k/d, for each of the three.

        The bases are those of `iredinterp.bases.GeometricBases`, k their dimension.

        Overlaps between levels, see `level_overlap`.

    Raises:
        ConfigError: vectors or rank do not fit the problems, or a point lacks its problem.
        EngineError: the engine cannot do this.
        TableError: there are no points.
    """
    if not points.num_rows:
        raise TableError("hessian: the points table is empty; give at least one point")
    if not 0 <= vectors < energy.dim_y:
        raise ConfigError(
            f"hessian: vectors: found {vectors}, allowed 0 … d − 1 = {energy.dim_y - 1}; "
            "an eigenspace has to leave directions out"
        )
    x, y, t = point_tensors(energy, points, problems)
    references = References.of(problems, reference_rank(points["rank"].to_pylist(), rank))
    own = pc.index_in(points["problem_id"], problems["problem_id"].combine_chunks())
    own = torch.tensor(own.to_numpy(), dtype=torch.int64)
    other = (own + 1) % problems.num_rows
    forms = engine in ENGINES and "keep_hessian" in ENGINES[engine].takes
    request = {"vectors": vectors, "keep_hessian": True} if forms else {"count": count}

    def measure(x: Tensor, y: Tensor, t: Tensor, own: Tensor, other: Tensor) -> tuple[Spectra, dict]:
        found = spectra(energy, x, y, t, engine, **request, **options)
        if not forms:
            return found, {}
        bases = (references.at(rows, y.device) for rows in (own, other))
        projected = _distances(energy, oracle, found.hessian, x, y, t) if oracle else {}
        projected |= projections(found, energy.schedule.sigma[t].double(), *bases)
        if hasattr(energy, "gauss_newton"):
            projected["gauss_newton"] = torch.linalg.matrix_norm(energy.gauss_newton(x, y, t).double())
        return replace(found, hessian=None), projected

    found, parts = zip(*map_chunks(measure, (x, y, t, own, other), chunk), strict=True)
    found, parts = Spectra(**_joined([vars(part) for part in found])), _joined(parts)
    sigma, step_size = _level_constants(energy, t)
    gauss_newton = parts.pop("gauss_newton", None)
    distances = {name: parts.pop(name) for name in ORACLE_DISTANCES if name in parts}
    if forms:
        inside = (parts.pop(name) for name in ("trace", "square"))
        parts["share"] = shares(*inside, found.eigenvalues, sigma, references.bases, energy.dtype)
    absent = "" if forms else f"engine {engine} does not form the Hessian"
    if not found.complete:
        absent = _incomplete(engine, found, energy.dim_y)
    no_vectors = absent or ("" if vectors else NO_VECTORS)
    gaps, separated = separation(found, energy.dtype)

    tensors = [field.name for field in points.schema if isinstance(field.type, pa.FixedShapeTensorType)]
    keys = points.drop_columns(tensors)
    table = _spectra_table(keys, found, sigma, separated)
    metrics = spectral_metrics(found, sigma, step_size, energy.dtype, absent)
    metrics += _matrix_metrics(found, gauss_newton, gaps, absent, no_vectors)
    metrics += _distance_metrics(distances, len(gaps), absent or NO_ORACLE)
    known = torch.cat([references.identified[own], references.identified[other], separated], dim=1)
    aligned = alignment_table(keys, parts, references.bases, known, vectors, absent, no_vectors)
    tracking = level_overlap(table, no_vectors or NO_VECTORS)
    return table, pa.concat_tables([tidy(keys, metrics), aligned]), tracking


def _distances(
    energy: Energy, oracle: Energy, hessian: Tensor, x: Tensor, y: Tensor, t: Tensor
) -> dict[str, Tensor]:
    """(B, 2) each: a distance, and the standard error of the reference on the same scale."""
    norm = torch.linalg.matrix_norm
    if hasattr(oracle, "hessian_and_error"):
        optimal, error = oracle.hessian_and_error(x, y, t)
    else:
        optimal = oracle.hessian(x, y, t).double()
        error = torch.zeros_like(optimal[:, 0, 0])
    curvature, sampled = norm(hessian - optimal) / norm(optimal), error / norm(optimal)
    slope = (energy.gradient(x, y, t) - oracle.gradient(x, y, t)).double().square().mean(-1).sqrt()
    unknown = error.where(error == 0, torch.nan)
    return {
        "oracle_distance": torch.stack([curvature, sampled], -1),
        "oracle_gradient_distance": torch.stack([slope, unknown], -1),
    }


def _distance_metrics(distances: Mapping[str, Tensor], count: int, absent: str) -> Iterator[Metric]:
    for name in ORACLE_DISTANCES:
        if name in distances:
            value, stderr = distances[name].unbind(1)
            yield Metric(name, value, stderr=stderr)
        else:
            yield Metric(name, torch.full((count,), torch.nan, dtype=torch.float64), reason=absent)


def spectral_metrics(
    found: Spectra,
    sigma: Tensor,
    step_size: Tensor,
    precision: torch.dtype = torch.float64,
    absent: str = "",
) -> list[Metric]:
    """What the eigenvalues of H say, in float64.

    With σ_tλ the scaled eigenvalues and τ = 10·ε·√d·|σ_tλ|max their zero tolerance:

    * scaled_min, scaled_max, scaled_median, scaled_mean: of σ_tλ; the last is σ_t tr(H)/d.
    * stability: 2η_tλ_max; above 2 the second to fifth descent steps of the official sampler overshoot.
    * zero_tolerance: τ. inertia_positive, inertia_zero, inertia_negative: eigenvalues above, within and below
      it. negative_index: inertia_negative/d.
    * condition_number: |λ|max/|λ|min. quantile_ratio: |λ|(95 %)/|λ|(5 %).
    * isotropy_defect: δ_iso = ‖σ_tH − I‖_F/√d.
    * of H and of I − σ_tH (components "H" and "I-σH"): participation_ratio (Σ|λ|)²/Σλ² (Gao et al. 2017),
      effective_rank exp(−Σp ln p), p = |λ|/Σ|λ| (Roy & Vetterli 2007), stable_rank ‖H‖_F²/‖H‖₂² (Rudelson &
      Vershynin 2007), log_gap max_i ln|λ_i| − ln|λ_{i+1}| in descending magnitude above τ, and gap_position
      i, counted from 1 (after Ventura et al. 2024, arXiv:2410.05898).

    Args:
        found: eigenvalues of B points.
        sigma: σ_t, (B,).
        step_size: η_t, (B,).
        precision: in which H was built.
        absent: why eigenvalues are missing, for an engine that does not give all.

    Returns:
        Metrics of B values, undefined where missing eigenvalues or rounding would decide them.
    """
    scaled = sigma.unsqueeze(-1) * found.eigenvalues
    d, magnitude = scaled.shape[-1], scaled.abs()
    tolerance = zero_tolerance(scaled, precision)
    positive, zero, negative = (count.double() for count in inertia(scaled, tolerance))
    largest, smallest = magnitude.amax(-1), magnitude.amin(-1)
    low_quantile = largest / quantile_ratio(scaled, high=1.0)
    metrics = [
        Metric("scaled_min", scaled[:, 0]),
        Metric("scaled_max", scaled[:, -1]),
        Metric("scaled_median", (scaled[:, (d - 1) // 2] + scaled[:, d // 2]) / 2),
        Metric("scaled_mean", scaled.mean(-1)),
        Metric("stability", 2 * step_size * found.eigenvalues[:, -1]),
        Metric("zero_tolerance", tolerance),
        Metric("inertia_positive", positive),
        Metric("inertia_zero", zero),
        Metric("inertia_negative", negative),
        Metric("negative_index", negative / d),
        Metric(
            "condition_number",
            _only(condition_number(scaled), smallest > tolerance),
            reason="smallest |λ| is below the zero tolerance",
        ),
        Metric(
            "quantile_ratio",
            _only(quantile_ratio(scaled), low_quantile > tolerance),
            reason="5 % quantile of |λ| is below the zero tolerance",
        ),
        Metric("isotropy_defect", (scaled - 1).square().mean(-1).sqrt()),
        *_shape_metrics("H", scaled, tolerance),
        *_shape_metrics("I-σH", 1 - scaled, response_tolerance(scaled, precision)),
    ]
    return metrics if found.complete else [_of_incomplete(metric, found.which, absent) for metric in metrics]


@dataclass(frozen=True)
class HessianAnalyzer:
    """Spectra of one landscape, for notebooks.

    Args:
        energy: the landscape.
        engine: one of `iredinterp.spectrum.ENGINES`.
    """

    energy: Energy
    engine: str = "closed"

    def spectra(self, x: Tensor, y: Tensor, t: Tensor | int, **options) -> Spectra:
        """`iredinterp.spectrum.spectra` at x (B, d_x), y (B, d), level t, with this engine."""
        return spectra(self.energy, x, y, t, self.engine, **options)

    def metrics(self, x: Tensor, y: Tensor, t: Tensor | int, **options) -> dict[str, Tensor]:
        """`spectral_metrics` by name, or name and component, each (B,); NaN where undefined."""
        found = self.spectra(x, y, t, **options)
        sigma, step_size = _level_constants(self.energy, torch.as_tensor(t).expand(len(y)))
        absent = "" if found.complete else _incomplete(self.engine, found, self.energy.dim_y)
        metrics = spectral_metrics(found, sigma, step_size, self.energy.dtype, absent)
        return {f"{metric.name} {metric.component}".strip(): metric.values for metric in metrics}


def _shape_metrics(component: str, eigenvalues: Tensor, tolerance: Tensor) -> list[Metric]:
    largest = eigenvalues.abs().amax(-1)
    present = largest > tolerance
    gap, position = spectral_gap(eigenvalues, tolerance)
    vanishes = f"{component} is zero to rounding"
    return [
        Metric("participation_ratio", _only(participation_ratio(eigenvalues), present), component, vanishes),
        Metric("effective_rank", _only(effective_rank(eigenvalues), present), component, vanishes),
        Metric("stable_rank", _only(stable_rank(eigenvalues), present), component, vanishes),
        Metric("log_gap", gap, component, "fewer than two magnitudes above the zero tolerance"),
        Metric(
            "gap_position",
            _only(position, gap > tolerance / largest),
            component,
            "fewer than two magnitudes above the zero tolerance, or all equal to rounding",
        ),
    ]


def _of_incomplete(metric: Metric, which: str, absent: str) -> Metric:
    """A metric of some eigenvalues: only extremes survive, and only where they are known to be extreme."""
    sign = EXTREMES.get(metric.name)
    if sign and which == "both ends":
        return metric
    known = sign * metric.values > 0 if sign else torch.zeros_like(metric.values, dtype=torch.bool)
    return replace(metric, values=_only(metric.values, known), reason=absent)


def _matrix_metrics(
    found: Spectra, gauss_newton: Tensor | None, gaps: Tensor, absent: str, no_vectors: str
) -> Iterator[Metric]:
    share = defect = torch.full_like(gaps[:, 0], torch.nan)
    why_share = absent or "this energy has no Gauss–Newton part"
    why_defect = absent or "symmetric by construction"
    if gauss_newton is not None:
        share, why_share = gauss_newton / found.eigenvalues.norm(dim=-1), "H is zero"
    if found.symmetry_defect is not None:
        defect, why_defect = found.symmetry_defect, "H is zero"
    yield Metric("gauss_newton_share", share, reason=why_share)
    yield Metric("symmetry_defect", defect, reason=why_defect)
    for end, gap in zip(ENDS, gaps.unbind(1), strict=True):
        yield Metric("end_gap", gap, end, no_vectors or "H is zero")


def _spectra_table(keys: pa.Table, found: Spectra, sigma: Tensor, separated: Tensor) -> pa.Table:
    columns = {"eigenvalues": found.eigenvalues, "scaled": sigma.unsqueeze(-1) * found.eigenvalues}
    columns |= {"residual": found.residual, "low": found.low, "high": found.high}
    table = keys
    for name, values in columns.items():
        if values is not None:
            table = table.append_column(name, tensor_array(values))
    if found.low is not None:
        for end, known in zip(ENDS, separated.unbind(1), strict=True):
            table = table.append_column(f"{end}_separated", pa.array(known.numpy()))
    return table


def _joined(parts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Tensors of all chunks one after the other on the CPU; anything else as in the first."""
    return {
        name: torch.cat([part[name] for part in parts]).cpu() if isinstance(value, Tensor) else value
        for name, value in parts[0].items()
    }


def _level_constants(energy: Energy, t: Tensor) -> tuple[Tensor, Tensor]:
    schedule = energy.schedule.to(torch.float64, "cpu")
    return schedule.sigma[t.cpu()], schedule.opt_step_size[t.cpu()]


def _incomplete(engine: str, found: Spectra, dimension: int) -> str:
    return f"engine {engine} returns {found.eigenvalues.shape[1]} of {dimension} eigenvalues"


def _only(values: Tensor, condition: Tensor) -> Tensor:
    return values.where(condition, torch.nan)
