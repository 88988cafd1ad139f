"""What gradients and Hessians say of a manifold of answers, point by point."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.tangent.manifolds import Manifold, Values, View, cosine, manifold_of
from iredinterp.analyses.tangent.names import RADIAL_REMOVED, SHUFFLED
from iredinterp.bases import beta_band
from iredinterp.energy import Energy, map_chunks
from iredinterp.errors import TableError
from iredinterp.linalg import finite_rows, stable_rank
from iredinterp.points import point_tensors, reference_matrices, reference_rank
from iredinterp.tables import Metric, tensor_column, tidy

NO_MANIFOLD = {"addition": "answers of addition lie on no manifold"}
REASONS = {
    "spd_distance": "the symmetric part of the point is not positive definite",
    "curvature_ratio": "no trace along the manifold, or the answer has no singular gap at this rank",
    "error_cosine": "the gradient is zero or not finite",
    "residual_cosine": "the gradient is zero or not finite, or the answer is singular",
    "stable_rank": "the gradient is zero or not finite",
} | dict.fromkeys(
    (
        "base_distance",
        "base_gap",
        "riemannian_gradient_norm",
        "weingarten_dominance",
        "negative_index",
        "smallest_curvature",
    ),
    "the point has no singular gap at this rank, hence no nearest matrix",
)
NOT_DEFINED = "the gradient is zero or not finite, or the answer has no gap that tells the blocks apart"
# What a task without a manifold says, for every point.
HEADLINES = (
    ("normal_tangent_ratio", ""),
    ("normal_tangent_ratio", RADIAL_REMOVED),
    ("normal_tangent_ratio", SHUFFLED),
    ("normal_tangent_low", ""),
    ("normal_tangent_high", ""),
    ("normal_tangent_p", ""),
    ("curvature_ratio", ""),
    ("curvature_ratio", SHUFFLED),
)


def tangent_table(
    energy: Energy, points: pa.Table, problems: pa.Table, *, rank: int | None = None, chunk: int = 64
) -> pa.Table:
    """Gradients and Hessians along and across the manifold of answers.

    The manifold is met at the right answer Y* (`signal` where problems have one), whose tangent space T and
    normal space N are those of √ᾱ_t Y* as well.

    Args:
        energy: the landscape.
        points: rows of a points table, of one task; every column that is not a tensor is a key.
        problems: all problems they belong to; the shuffled pair takes the next one's answer (cyclic), which
            changes nothing where all answers share one tangent space, as those of inverse do.
        rank: r of completion; if not given, the `rank` of the points, or 1 where they have none.
        chunk: points in memory at once.

    Returns:
        Metrics, long and tidy, null with a reason where undefined. With g = ∇_yE and H = ∇²_yE at the point:

        * normal_tangent_ratio: F = (‖P_N g‖²/dim N)/(‖P_T g‖²/dim T); component "radial removed", without
          the direction of Y* in T; "shuffled pair", with T and N of another answer.
        * normal_tangent_low, normal_tangent_high, normal_tangent_p: 95 % interval and two-sided p-value of F
          for isotropic g.
        * block_share, component the block: its part of ‖g‖². Blocks of completion: core, column, row, normal;
          of inverse: skew, isospectral, spectral. block_share_null, block_share_low, block_share_high: mean
          and 95 % interval for isotropic g; block_share_shuffled: with another answer.
        * radial_cosine: cos(g, Y*); error_cosine: cos(g, y − √ᾱ_t y*); stable_rank of g as a matrix.
        * curvature_ratio: C = (tr P_N H/dim N)/(tr P_T H/dim T); component "shuffled pair" as above.
        * completion alone: cell_share, component e.g. "tangent observed": ‖P_Ω P_T g‖²/‖g‖², with Ω the
          observed or the missing entries; the four add up to 1. cell_share_null: mean for isotropic g.
        * completion alone, at the nearest matrix Y_r of rank r to the point y, with G and H taken there:
          base_distance ‖y − Y_r‖/‖y‖ and base_gap (σ_r − σ_{r+1})/‖y‖; riemannian_gradient_norm ‖P_T G‖;
          weingarten_dominance χ = σ₁(G_N)/(σ_r ‖P_T H P_T‖₂); negative_index, the share of negative
          eigenvalues, and smallest_curvature, σ_tλ_min, components "projected" (P_T H P_T) and "riemannian"
          (with the bending of the manifold).
        * inverse alone: residual_cosine cos(g, Xᵀ(XY − I)) at Y = y/√ᾱ_t, X the inverse of Y*; and
          spd_distance ‖ln(Y*^-½ Y Y*^-½)‖_F of the symmetric part of Y.

        Of addition only the first two and `curvature_ratio`, null: its answers lie on no manifold.

    Raises:
        ConfigError: no such rank, or a point lacks its problem.
        TableError: no points, or points of several tasks.
    """
    if not points.num_rows:
        raise TableError("tangent: the points table is empty; give at least one point")
    tasks = pc.unique(points["task"]).to_pylist()
    if len(tasks) > 1:
        raise TableError(f"tangent: found points of {' and '.join(tasks)}; give those of one task")
    tensors = [field.name for field in points.schema if isinstance(field.type, pa.FixedShapeTensorType)]
    keys = points.drop_columns(tensors)
    if reason := NO_MANIFOLD.get(tasks[0]):
        nothing = torch.full((keys.num_rows,), torch.nan, dtype=torch.float64)
        return tidy(keys, [Metric(name, nothing, part, reason) for name, part in HEADLINES])

    x, y, t = point_tensors(energy, points, problems)
    references = reference_matrices(problems).to(y.device)
    masks = {"mask"} & set(problems.column_names)
    masks = {name: tensor_column(problems, name).double().to(y.device) for name in masks}
    manifold = manifold_of(tasks[0], references, reference_rank(points["rank"].to_pylist(), rank), masks)
    answers = tensor_column(problems, "y_star").double().to(y.device)
    rows = pc.index_in(points["problem_id"], problems["problem_id"].combine_chunks())
    rows = torch.tensor(rows.to_numpy(), dtype=torch.int64, device=y.device)

    def measure(x: Tensor, y: Tensor, t: Tensor, rows: Tensor) -> Values:
        view = View.of(energy, x, y, t, references.shape[1:])
        values = _shares_and_ratios(manifold, view, rows)
        values["error_cosine", ""] = cosine(view.gradient, view.unscaled - answers[rows])
        values["stable_rank", ""] = stable_rank(torch.linalg.svdvals(finite_rows(view.gradient)[0]))
        return values | manifold.measures(view, rows)

    parts = list(map_chunks(measure, (x, y, t, rows), chunk))
    joined = ((name, torch.cat([part[name] for part in parts])) for name in parts[0])
    metrics = [
        Metric(metric, values, component, REASONS.get(metric, NOT_DEFINED))
        for (metric, component), values in joined
    ]
    return tidy(keys, metrics)


def _shares_and_ratios(manifold: Manifold, view: View, rows: Tensor) -> Values:
    others = (rows + 1) % len(manifold.answers)
    own, other = (manifold.split(view.gradient, which) for which in (rows, others))
    count = own.ratio.new_ones(len(rows))
    values = {
        ("normal_tangent_ratio", ""): own.ratio,
        ("normal_tangent_ratio", RADIAL_REMOVED): own.ratio_without_radial,
        ("normal_tangent_ratio", SHUFFLED): other.ratio,
        ("normal_tangent_low", ""): own.band[0] * count,
        ("normal_tangent_high", ""): own.band[1] * count,
        ("normal_tangent_p", ""): own.p_value,
        ("radial_cosine", ""): own.radial_cosine,
        ("curvature_ratio", ""): manifold.curvature_ratio(view.hessian, rows),
        ("curvature_ratio", SHUFFLED): manifold.curvature_ratio(view.hessian, others),
    }
    d = sum(own.block_dims.values())
    for index, (name, dim) in enumerate(own.block_dims.items()):
        low, high = beta_band(dim, d)
        values["block_share", name] = own.shares[:, index]
        values["block_share_shuffled", name] = other.shares[:, index]
        values["block_share_null", name] = dim / d * count
        values["block_share_low", name] = low * count
        values["block_share_high", name] = high * count
    return values
