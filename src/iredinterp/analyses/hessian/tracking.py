"""How the end eigenspaces of H turn from level to level."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.energy import map_chunks
from iredinterp.errors import TableError
from iredinterp.linalg import principal_angles, subspace_overlap
from iredinterp.spectrum import ENDS, NOT_SEPARATED
from iredinterp.tables import Metric, tensor_column, tidy

NO_VECTORS = "no eigenvectors were asked for"
# Columns of the spectra that do not say which point a row belongs to.
VALUES = ("eigenvalues", "scaled", "residual", "low", "high", "low_separated", "high_separated")
# Bounds the memory of a comparison.
PAIRS_PER_CHUNK = 256


def level_overlap(table: pa.Table, absent: str = NO_VECTORS) -> pa.Table:
    """How far the end eigenspaces turn from level to level, for the same problem, kind of point and draw.

    H changes through y_t as well as through t; q_samples share their noise ε between levels.

    Args:
        table: spectra from `spectrum_tables`, all levels of a problem together.
        absent: why eigenvectors are missing, where they are.

    Returns:
        Long and tidy, for every two levels `t` > `t2` and either end (component low or high)

        * level_overlap: ‖V(t)ᵀV(t2)‖_F²/m; beside it level_overlap_chance, m/d.
        * largest_angle, median_angle: of the principal angles, in radians (Björck & Golub 1973).

        Null where an eigenspace is not identified at one of the levels. `converged` says that both points
        are. No rows where no problem has two levels.

    Raises:
        TableError: two rows for one point.
    """
    keys = table.select([name for name in table.column_names if name not in (*VALUES, "sigma")])
    first, second = _level_pairs(keys)
    metrics = []
    for end in ENDS:
        overlap, largest, median, chance = torch.full((4, len(first)), torch.nan, dtype=torch.float64)
        reason = absent
        if end in table.column_names:
            V, separated = tensor_column(table, end), tensor_column(table, f"{end}_separated")
            compared = _comparison(V, first, second)
            overlap, largest, median = compared.where(separated[first] & separated[second], torch.nan)
            chance, reason = torch.full_like(chance, V.shape[2] / V.shape[1]), NOT_SEPARATED
        metrics += [
            Metric("level_overlap", overlap, end, reason),
            Metric("level_overlap_chance", chance, end, reason),
            Metric("largest_angle", largest, end, reason),
            Metric("median_angle", median, end, reason),
        ]
    return tidy(_pair_keys(keys, first, second), metrics)


def _level_pairs(keys: pa.Table) -> tuple[Tensor, Tensor]:
    """Rows of one problem, kind of point and draw at two levels, the noisier first, each (R,)."""
    frame = keys.to_pandas()
    same = [name for name in keys.column_names if name not in ("t", "converged")]
    if frame.duplicated([*same, "t"]).any():
        raise TableError("hessian: two spectra have the same keys; gather each block once")
    group = torch.tensor(frame.groupby(same, dropna=False, sort=False).ngroup().to_numpy())
    levels, level = torch.tensor(-frame["t"].to_numpy(dtype=int)).unique(return_inverse=True)
    row = torch.full((int(group.max()) + 1, len(levels)), -1)
    row[group, level] = torch.arange(len(frame))
    candidates = row[:, torch.triu_indices(len(levels), len(levels), 1).mT]
    return candidates[(candidates >= 0).all(-1)].unbind(-1)


def _pair_keys(keys: pa.Table, first: Tensor, second: Tensor) -> pa.Table:
    one, two = (keys.take(pa.array(rows.numpy())) for rows in (first, second))
    if "converged" in keys.column_names:
        both = pc.and_(one["converged"], two["converged"])
        one = one.set_column(one.column_names.index("converged"), "converged", both)
    return one.add_column(one.column_names.index("t") + 1, "t2", two["t"])


def _comparison(V: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Overlap, largest and median principal angle of paired eigenspaces, (3, R)."""

    def compare(first: Tensor, second: Tensor) -> Tensor:
        angles = principal_angles(V[first], V[second])
        overlap = subspace_overlap(V[first], V[second])
        return torch.stack([overlap, angles[:, -1], angles.quantile(0.5, dim=-1)])

    parts = map_chunks(compare, (first, second), PAIRS_PER_CHUNK)
    return torch.cat([V.new_empty(3, 0), *parts], dim=1)
