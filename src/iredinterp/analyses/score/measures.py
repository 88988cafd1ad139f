"""What the singular vectors of the score say, point by point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.score.bundle import NO_GRADIENT, SHARPEST, normal_bundle_table
from iredinterp.analyses.score.gradients import SingularFrames
from iredinterp.analyses.score.jacobian import DenoiserJacobian
from iredinterp.analyses.score.names import MISSING, OTHER_MODEL, PICTURE, POSTERIOR, SHUFFLED
from iredinterp.analyses.score.references import References
from iredinterp.energy import Energy, map_chunks
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.schedule import Schedule
from iredinterp.points import point_tensors, reference_rank
from iredinterp.tables import Metric, tidy

LEAST_SCORES = 4
# Eigenvectors that are kept as pictures, and problems of which.
PICTURES, PICTURED = 2, 8

NO_FRAME = f"{NO_GRADIENT}, or singular values of the answer coincide"
NOT_FINITE = "the Hessian is not finite"
FLOOR = "below the noise floor of the Jacobian, or no gap identifies its eigenvectors"
NO_OPTIMUM = "no computable Bayes-optimal reference"
# By component where it decides, else by metric.
REASONS = {
    MISSING: f"{FLOOR}, or no entry is missing",
    POSTERIOR: f"{FLOOR}, of the model or of the optimum",
    OTHER_MODEL: f"{FLOOR}, of either model",
    "diagonal_share": NO_FRAME,
    "diagonal_share_null": NO_FRAME,
    "diagonal_share_low": NO_FRAME,
    "diagonal_share_high": NO_FRAME,
    "jacobian_norm": NOT_FINITE,
    "response_norm": NOT_FINITE,
    "response_eigenvalue": NOT_FINITE,
    "noise_floor": NOT_FINITE,
    "negative_mass": "the Jacobian is zero to rounding, or not finite",
    PICTURE: FLOOR,
} | dict.fromkeys(
    ("overlap", "overlap_shuffled", "overlap_null", "overlap_sd"),
    f"{FLOOR}, or the answer has no singular gap at this rank",
)
# Values by metric and component.
Values = dict[tuple[str, str], Tensor]


def score_table(
    energy: Energy,
    points: pa.Table,
    problems: pa.Table,
    *,
    vectors: int = 5,
    rank: int | None = None,
    floor: float = 0.1,
    scores: int = 4,
    seed: int = 0,
    chunk: int = 64,
    oracle: Energy | None = None,
) -> pa.Table:
    """Gradients, scores around the answer and the denoiser's Jacobian against the answer's singular vectors.

    Args:
        energy: the landscape.
        points: rows of a points table, of one task; every column that is not a tensor is a key.
        problems: all problems they belong to; the shuffled pair takes the next one's answer (cyclic). Bases
            come from `signal` where there is one, else `y_star`.
        vectors: k, leading eigenvectors of ∇D that count, 1 … d − 1.
        rank: q of the geometric bases; if not given, the `rank` of the points, or 1 where they have none.
        floor: δ = ‖I − σ_tH‖_F/√d of an isotropic error, whose largest eigenvalue is 2δ: where that of I −
            σ_tH is not above it, eigenvectors are not compared with anything.
        scores: noised copies of each answer per dimension, at least 4.
        seed: of their noise.
        chunk: points in memory at once.
        oracle: the Bayes-optimal energy of the task, if it has a computable reference.

    Returns:
        Metrics, long and tidy, null with a reason where undefined. With G = mat(∇_yE) and R = I − σ_tH, that
        is √ᾱ_t ∇D:

        * diagonal_share: D = Σ_i(u_iᵀGv_i)²/‖G‖² over the singular directions of the answer; component
          "shuffled pair", over another's. diagonal_share_null, diagonal_share_low, diagonal_share_high: mean
          and 95 % interval for isotropic G.
        * normal_dimension: position of the largest drop among the singular values of 4d scores or more around
          the answer, once per problem, at level 0; normal_gap: that drop over the largest value;
          score_singular_value, by index: over the square root of their number, so 1 for white noise of many.
        * jacobian_norm: ‖∇D‖_F/√d; response_norm: ‖R‖_F/√d; response_eigenvalue, by index: the k largest of
          R, and noise_floor, 2δ, that the first has to pass; negative_mass: Σ|λ₋|/Σ|λ| of both.
        * overlap, component the reference: share tr(PA) of the leading part A of R (see `DenoiserJacobian`)
          in a basis of `iredinterp.bases.BASES` or in the "missing" entries; cosine of A with that of the
          Bayes-optimal "posterior". overlap_null and overlap_sd: mean and standard deviation over uniformly
          random eigenvectors; overlap_shuffled: with another problem's basis or mask.
        * eigenmatrix, component 1 or 2, by index the row-major entry: leading eigenvectors of ∇D at the first
          draw of q_samples of the first eight problems, the largest entry positive.

    Raises:
        ConfigError: vectors, rank or scores do not fit the problems, or a point lacks its problem.
        TableError: no points, or points of several tasks.
    """
    if scores < LEAST_SCORES:
        raise ConfigError(f"score: scores: found {scores} per dimension; {LEAST_SCORES} are needed, raise it")
    keys = _checked_keys(energy, points, vectors)
    x, y, t = point_tensors(energy, points, problems)
    references = References.of(problems, reference_rank(points["rank"].to_pylist(), rank), y.device)
    rows = pc.index_in(points["problem_id"], problems["problem_id"].combine_chunks())
    rows = torch.tensor(rows.to_numpy(), dtype=torch.int64, device=y.device)

    def measure(x: Tensor, y: Tensor, t: Tensor, rows: Tensor) -> Values:
        found = DenoiserJacobian.of(energy, x, y, t, vectors, floor)
        G = energy.gradient(x, y, t).double().unflatten(1, references.shape)
        values = _of_gradient(references.frames, G, rows) | _of_jacobian(found, energy.schedule, t, floor)
        for name in references.names:
            values |= _overlaps(references, found, rows, name)
        if oracle is None:
            return values
        return values | _agreement(found, DenoiserJacobian.of(oracle, x, y, t, vectors, floor), POSTERIOR)

    values = _joined(map_chunks(measure, (x, y, t, rows), chunk))
    reasons = REASONS
    if oracle is None:
        nothing = torch.full((len(keys),), torch.nan, dtype=torch.float64)
        values |= {(name, POSTERIOR): nothing for name in ("overlap", "overlap_null", "overlap_sd")}
        reasons = REASONS | {POSTERIOR: NO_OPTIMUM}
    metrics = _metrics(values, reasons)
    first = pc.and_(pc.equal(points["point_kind"], "q_sample"), pc.equal(points["draw"], 0))
    pictured = problems["problem_id"].combine_chunks().slice(0, PICTURED)
    shown = pc.and_(first, pc.is_in(points["problem_id"], pictured))
    tables = [tidy(keys, [metric for metric in metrics if metric.name != PICTURE])]
    tables += _only(shown, keys, [metric for metric in metrics if metric.name == PICTURE])
    around = keys.filter(pc.and_(first, pc.equal(points["t"], SHARPEST)))
    if len(around):
        tables.append(normal_bundle_table(energy, around, problems, scores, seed, chunk))
    return pa.concat_tables(tables)


def agreement_table(
    energy: Energy,
    other: Energy,
    points: pa.Table,
    problems: pa.Table,
    *,
    vectors: int = 5,
    floor: float = 0.1,
    chunk: int = 64,
) -> pa.Table:
    """How far two networks trained on different data agree on ∇D at the same points.

    Networks that generalise converge to one denoiser; networks that memorise, to as many as there are data
    sets.

    Args:
        energy: of the network that the points belong to.
        other: of the other.
        points: rows of a points table; every column that is not a tensor is a key.
        problems: the problems they belong to.
        vectors: as for `score_table`.
        floor: as for `score_table`, for both.
        chunk: points in memory at once.

    Returns:
        Rows as those of `score_table`: overlap, overlap_null and overlap_sd of the component "other model".

    Raises:
        ConfigError: vectors do not fit the problems, or a point lacks its problem.
        TableError: no points, or points of several tasks.

    Source:
        Kadkhodaie et al. 2024 (arXiv:2310.02557), section 3, for pairs of networks on disjoint data.
    """
    keys = _checked_keys(energy, points, vectors)

    def measure(x: Tensor, y: Tensor, t: Tensor) -> Values:
        both = [DenoiserJacobian.of(model, x, y, t, vectors, floor) for model in (energy, other)]
        return _agreement(*both, OTHER_MODEL)

    values = _joined(map_chunks(measure, point_tensors(energy, points, problems), chunk))
    return tidy(keys, _metrics(values, REASONS))


def _checked_keys(energy: Energy, points: pa.Table, vectors: int) -> pa.Table:
    if not points.num_rows:
        raise TableError("score: the points table is empty; give at least one point")
    tasks = pc.unique(points["task"]).to_pylist()
    if len(tasks) > 1:
        raise TableError(f"score: found points of {' and '.join(tasks)}; give those of one task")
    if not 1 <= vectors < energy.dim_y:
        raise ConfigError(
            f"score: vectors: found {vectors}, allowed 1 … d − 1 = {energy.dim_y - 1}; a leading eigenspace "
            "has to leave directions out"
        )
    tensors = [field.name for field in points.schema if isinstance(field.type, pa.FixedShapeTensorType)]
    return points.drop_columns(tensors)


def _joined(parts: Iterable[Values]) -> Values:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _metrics(values: Values, reasons: Mapping[str, str]) -> list[Metric]:
    return [
        Metric(name, value, part, reasons.get(part) or reasons[name])
        for (name, part), value in values.items()
    ]


def _of_gradient(frames: SingularFrames, G: Tensor, rows: Tensor) -> Values:
    chance = frames.chance()[rows]
    return {
        ("diagonal_share", ""): frames.diagonal_share(G, rows),
        ("diagonal_share", SHUFFLED): frames.diagonal_share(G, (rows + 1) % len(frames.U)),
        ("diagonal_share_null", ""): chance[:, 0],
        ("diagonal_share_low", ""): chance[:, 1],
        ("diagonal_share_high", ""): chance[:, 2],
    }


def _of_jacobian(found: DenoiserJacobian, schedule: Schedule, t: Tensor, floor: float) -> Values:
    leading = found.vectors.shape[2]
    values = {
        ("jacobian_norm", ""): found.size() / schedule.sqrt_alphas_cumprod[t].double(),
        ("response_norm", ""): found.size(),
        ("response_eigenvalue", ""): found.eigenvalues[:, :leading],
        ("negative_mass", ""): found.negative_mass(),
        ("noise_floor", ""): torch.full_like(found.size(), 2 * floor),
    }
    for index, vector in enumerate(found.vectors[..., :PICTURES].unbind(2)):
        # Eigenvectors have no sign of their own.
        largest = vector.gather(1, vector.abs().argmax(1, keepdim=True))
        picture = (vector * largest.sign()).where(found.defined.unsqueeze(1), torch.nan)
        values[PICTURE, str(index + 1)] = picture
    return values


def _overlaps(references: References, found: DenoiserJacobian, rows: Tensor, name: str) -> Values:
    others = (rows + 1) % len(references.frames.U)
    dimension = references.dimension(name, rows)
    known = references.identified(name, rows)

    def share(rows: Tensor) -> Tensor:
        overlap = found.overlap(references.project(name, rows, found.vectors))
        return overlap.where(references.identified(name, rows), torch.nan)

    return {
        ("overlap", name): share(rows),
        ("overlap_shuffled", name): share(others),
        ("overlap_null", name): (dimension / found.eigenvalues.shape[1]).where(known, torch.nan),
        ("overlap_sd", name): found.overlap_deviation(dimension).where(known, torch.nan),
    }


def _agreement(found: DenoiserJacobian, other: DenoiserJacobian, name: str) -> Values:
    mean, deviation = found.cosine_chance(other)
    return {
        ("overlap", name): found.cosine(other),
        ("overlap_null", name): mean,
        ("overlap_sd", name): deviation,
    }


def _only(rows: pa.ChunkedArray, keys: pa.Table, metrics: list[Metric]) -> list[pa.Table]:
    """The metrics of some of the points, if there are any."""
    chosen = torch.tensor(rows.to_numpy())
    if not chosen.any():
        return []
    return [
        tidy(keys.filter(rows), [replace(metric, values=metric.values.cpu()[chosen]) for metric in metrics])
    ]
