"""Energies of displaced answers, and along paths between answers, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.grassmann.level import Answers, Displaced, Level, Path
from iredinterp.analyses.grassmann.names import BASELINE, ISOTROPIC
from iredinterp.analyses.grassmann.ranks import kendall, partial_correlation, spearman
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.geometry.fixed_rank import FixedRankPoint
from iredinterp.geometry.paths import barrier
from iredinterp.geometry.perturb import ARMS, arm_stack
from iredinterp.geometry.subspace import grassmann_distance
from iredinterp.points import point_keys, reference_rank
from iredinterp.ranges import require_least
from iredinterp.tables import Metric, tidy

CHUNK = 4096
# Of what the dearest arm costs; an energy change below is rounding.
RESOLVED = 1e-12
NO_GAP = "the answer has no singular gap at this rank"
NOT_POSITIVE = f"the mean energy change of an arm is not positive, or {NO_GAP}"
NO_ORDER = f"distances or energies do not vary, or {NO_GAP}"
NORM_DECIDES = f"the norm alone orders energies or distances, or {NO_GAP}"
NO_PATH = "an answer is not of this rank, or the path between them is one of several or loses its rank"


def grassmann_tables(
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    *,
    block: slice = slice(None),
    rank: int | None = None,
    radii: Sequence[float] = (0.3, 1.0),
    draws: int = 4,
    perturbations: int = 40,
    steps: int = 21,
    seed: int = 0,
    chunk: int = CHUNK,
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Energy changes of displaced answers √ᾱ_t y*, at every level.

    The subspaces are the leading r of `signal` where problems have one, else of y*.

    Args:
        energy: the landscape.
        problems: all problems; a path starts at the answer of the next one (cyclic).
        keys: values of `iredinterp.points.MODEL_KEYS`.
        block: which of the problems.
        rank: r; if not given, the `rank` of the keys, or 1 where they have none.
        radii: norms ‖ΔY‖ of the arms in units of σ_t√d, ascending.
        draws: directions per arm and problem, shared by all levels and conditions.
        perturbations: isotropic displacements per problem, with norms uniform up to the largest radius.
        steps: points on a path, both ends included.
        seed: of directions and norms.
        chunk: energies evaluated at once.

    Returns:
        Three tables with the keys, problem_id, t, sigma, point_kind "perturbed", draw and converged (null).

        Metrics, long and tidy, null with a reason where undefined; `index` is the position of the radius:

        * energy_change, component the arm: mean of ΔE over draws and both signs. scaled_change: 2σ_tΔE/‖ΔY‖².
          odd_change: root mean square over draws of (ΔE(+ΔY) − ΔE(−ΔY))/2, what a slope at the answer adds.
        * energy_ratio: ΔE(column)/ΔE(core) at the largest radius. arm_ratio, component e.g. "normal/core":
          the same for every arm and radius.
        * swapped, component the arm: mean number of leading directions exchanged for others.
        * correlation, components "column", "row", "norm": Spearman's ρ of ΔE with the arc distance of the
          column or row spaces, or with ‖ΔY‖, over isotropic displacements. partial_correlation, "column" and
          "row": given ‖ΔY‖. kendall: τ, components as of the first.
        * barrier, components "straight" and "subspace": how far E rises above the higher end between
          √ᾱ_t y* of another problem and the right one, on the straight line and along Grassmann geodesics.
          path_length_ratio: length of the second over the first.

        Displacements, one row each: arm, radius (in σ_t√d), norm ‖ΔY‖_F, energy_change (of an arm the mean
        over both signs), energy_odd, column_distance, row_distance, swapped, and a reason where one of them
        is null. `draw` counts the directions of an arm; "isotropic" ones have a radius each and one sign.

        Paths, one row per point on a path: path, position, energy_change from the right answer, reason.

    Raises:
        ConfigError: no such rank, or a setting is out of range.
    """
    _check(radii, draws, perturbations, steps)
    rank = reference_rank([keys.get("rank")], rank)
    answers = Answers.of(energy, problems, block, rank, draws, perturbations, radii[-1], seed)
    parts = []
    for t in range(energy.schedule.levels):
        sigma = float(energy.schedule.sigma[t])
        here = Level(energy, answers, t, chunk)
        rows = point_keys(keys, answers.ids, t, sigma, "perturbed", [0] * len(answers.ids))
        arms, isotropic, paths = here.arms(radii), here.isotropic(), here.paths(rank, steps)
        metrics = [*_arm_metrics(arms, sigma), *_correlations(isotropic), *_path_metrics(paths)]
        displaced = pa.concat_tables([_displacements(rows, arms, ARMS), _isotropic_rows(rows, isotropic)])
        parts.append((tidy(rows, metrics), displaced, _path_rows(rows, paths)))
    return tuple(pa.concat_tables(tables) for tables in zip(*parts, strict=True))


@dataclass(frozen=True)
class GrassmannianAnalyzer:
    """Subspaces and the energy of turning them, for notebooks.

    Args:
        energy: the landscape.
        rank: r, dimension of the leading subspaces.
    """

    energy: Energy
    rank: int

    def distances(self, Y: Tensor, Z: Tensor) -> dict[str, Tensor]:
        """Arc distances, (B,), of the leading column and row spaces of matrices (B, n, m); NaN without a gap.

        Raises:
            ConfigError: no such rank.
        """
        first, second = (FixedRankPoint.from_matrix(matrices, self.rank) for matrices in (Y, Z))
        defined = first.defined & second.defined
        pairs = {"column": (first.U, second.U), "row": (first.V, second.V)}
        return {name: grassmann_distance(*pair).where(defined, torch.nan) for name, pair in pairs.items()}

    def arms(
        self, x: Tensor, Y: Tensor, t: int, radius: float = 1.0, draws: int = 4, seed: int = 0
    ) -> dict[str, Tensor]:
        """Mean cost of displacing answers Y, (B, n, m), by equal norms: energy changes (B,) by arm.

        Args:
            x: (B, d_x).
            Y: answers, not yet scaled by √ᾱ_t.
            t: level.
            radius: ‖ΔY‖_F in units of σ_t√d.
            draws: directions per arm, averaged with both signs.
            seed: of the directions.

        Raises:
            ConfigError: no such rank.
        """
        Y = Y.double()
        point = FixedRankPoint.from_matrix(Y, self.rank)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(Y), draws, *point.shape, generator=generator, dtype=torch.float64).to(Y)
        answers = Answers(range(len(Y)), x, Y, Y, point, arm_stack(point, noise).nan_to_num(), Y[:, None], Y)
        found = Level(self.energy, answers, t, CHUNK).arms([radius]).even.mean(2).squeeze(-1)
        return dict(zip(ARMS, found.unbind(1), strict=True))


def _check(radii: Sequence[float], draws: int, perturbations: int, steps: int) -> None:
    if not radii or radii[0] <= 0 or any(b <= a for a, b in pairwise(radii)):
        raise ConfigError(f"grassmann.radii: found {list(radii)}; give positive numbers in ascending order")
    found = {"draws": draws, "perturbations": perturbations, "steps": steps}
    require_least("grassmann", {"draws": 1, "perturbations": 4, "steps": 3}, found)


def _arm_metrics(arms: Displaced, sigma: float) -> list[Metric]:
    even, odd = arms.even.mean(2), arms.odd.square().mean(2).sqrt()
    scaled = (2 * sigma * arms.even / arms.norm.square()).mean(2)
    swapped = arms.swapped.mean(2)
    costs = even.where(even > RESOLVED * even.amax(1, keepdim=True), torch.nan)
    ratios = costs / costs[:, [ARMS.index(BASELINE)]]
    metrics = []
    for index, arm in enumerate(ARMS):
        metrics += [
            Metric("energy_change", even[:, index], arm, NO_GAP),
            Metric("scaled_change", scaled[:, index], arm, NO_GAP),
            Metric("odd_change", odd[:, index], arm, NO_GAP),
            Metric("swapped", swapped[:, index], arm, NO_GAP),
        ]
        if arm != BASELINE:
            metrics.append(Metric("arm_ratio", ratios[:, index], f"{arm}/{BASELINE}", NOT_POSITIVE))
    return [*metrics, Metric("energy_ratio", ratios[:, ARMS.index("column"), -1], reason=NOT_POSITIVE)]


def _correlations(found: Displaced) -> list[Metric]:
    cost, norm = found.even.cpu().numpy(), found.norm.cpu().numpy()
    distances = {"column": found.column.cpu().numpy(), "row": found.row.cpu().numpy()}
    metrics = []
    for name, values in (distances | {"norm": norm}).items():
        metrics.append(Metric("correlation", _tensor(spearman(values, cost)), name, NO_ORDER))
        metrics.append(Metric("kendall", _tensor(kendall(values, cost)), name, NO_ORDER))
    for name, values in distances.items():
        partial = _tensor(partial_correlation(values, cost, norm))
        metrics.append(Metric("partial_correlation", partial, name, NORM_DECIDES))
    return metrics


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


def _path_metrics(paths: Mapping[str, Path]) -> list[Metric]:
    ratio = paths["subspace"].length / paths["straight"].length
    metrics = [Metric("barrier", barrier(path.energy), name, NO_PATH) for name, path in paths.items()]
    return [*metrics, Metric("path_length_ratio", ratio, reason=NO_PATH)]


def _displacements(rows: pa.Table, found: Displaced, names: Sequence[str]) -> pa.Table:
    """Rows of displacements (P, names, draws, radii)."""
    problem, name, draw, _ = (index.ravel() for index in np.indices(found.even.shape))
    flat = {key: value.cpu().numpy().ravel() for key, value in vars(found).items()}
    missing = np.isnan(flat["even"]) | np.isnan(flat["column"])
    table = rows.take(pa.array(problem))
    table = table.set_column(table.column_names.index("draw"), "draw", pa.array(draw, pa.int32()))
    columns = {
        "arm": pa.array(np.array(names)[name]),
        "radius": pa.array(flat["radius"]),
        "norm": pa.array(flat["norm"]),
        "energy_change": pa.array(flat["even"], from_pandas=True),
        "energy_odd": pa.array(flat["odd"], from_pandas=True),
        "column_distance": pa.array(flat["column"], from_pandas=True),
        "row_distance": pa.array(flat["row"], from_pandas=True),
        "swapped": pa.array(flat["swapped"], from_pandas=True),
        "reason": pa.array(np.where(missing, NO_GAP, None), pa.string()),
    }
    return _with(table, columns)


def _isotropic_rows(rows: pa.Table, found: Displaced) -> pa.Table:
    """Rows of displacements (P, perturbations)."""
    shaped = Displaced(**{name: value[:, None, :, None] for name, value in vars(found).items()})
    return _displacements(rows, shaped, (ISOTROPIC,))


def _path_rows(rows: pa.Table, paths: Mapping[str, Path]) -> pa.Table:
    parts = []
    for name, path in paths.items():
        energies = path.energy.cpu().numpy()
        problem, step = (index.ravel() for index in np.indices(energies.shape))
        missing = np.isnan(energies.ravel())
        columns = {
            "path": pa.array([name] * len(step)),
            "position": pa.array(step, pa.int32()),
            "energy_change": pa.array(energies.ravel(), from_pandas=True),
            "reason": pa.array(np.where(missing, NO_PATH, None), pa.string()),
        }
        parts.append(_with(rows.take(pa.array(problem)), columns))
    return pa.concat_tables(parts)


def _with(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
