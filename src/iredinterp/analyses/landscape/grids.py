"""Slices around right answers as tables, and where a run of the sampler goes in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.landscape.names import FAMILIES
from iredinterp.analyses.landscape.planes import REASONS, planes
from iredinterp.analyses.landscape.slices import (
    Plane,
    principal_plane,
    slice_energies,
    slice_grid,
    states_at,
)
from iredinterp.analyses.landscape.study import Study
from iredinterp.energy import Energy
from iredinterp.points import normal_draws, point_keys


def first_run(study: Study, t: int) -> Tensor:
    """States of the first run of each problem at a level, (N, P, d)."""
    return states_at(study.runs, study.energy.schedule, t)[:, :: study.settings.runs]


def explained_variance(study: Study) -> Tensor:
    """Share of the motion of that run in its two components, (LP, 2)."""
    return torch.cat([principal_plane(first_run(study, t))[1] for t in study.settings.levels])


def slice_tables(
    study: Study, keys, task: str, reference: Tensor, rank: int, oracle: Energy | None
) -> tuple[pa.Table, pa.Table]:
    """`grid` and `tracks`, see `iredinterp.analyses.landscape.landscape_tables`.

    Args:
        study: searched landscapes.
        keys: values of `iredinterp.points.MODEL_KEYS`.
        task: of the problems.
        reference: matrices on the manifold of answers, (P, n, m).
        rank: of that manifold.
        oracle: for its contours, if there is one.
    """
    settings = study.settings
    wanted = int((study.positions < settings.slices * settings.every).sum())
    # One problem at least, so that a table without rows has its columns.
    chosen = slice(0, max(wanted, 1))
    axis = slice_grid(settings.extent, settings.size)
    noise = normal_draws(settings.seed, "isotropic", study.ids[chosen], 2, study.energy.dim_y)
    noise = noise.transpose(0, 1).to(study.answers)
    grids, tracks = [], []
    for index, t in enumerate(settings.levels):
        rows = slice(index * len(study.ids), index * len(study.ids) + chosen.stop)
        x, centre, sigma = study.x[rows], study.answers[rows], study.energy.schedule.sigma[t]
        states = first_run(study, t)[:, chosen]
        hessian = study.energy.hessian(x, centre, t)
        towards = _towards_runner_up(study)[rows]
        row_keys = point_keys(keys, study.ids[chosen], t, float(sigma), "perturbed", [0] * len(x))
        found = planes(task, reference[chosen], rank, hessian, towards, states, noise)
        for family, where in found.items():
            energies = [
                slice_energies(landscape, x, centre, t, where, axis, settings.chunk)
                for landscape in (study.energy, oracle)
                if landscape is not None
            ]
            grids.append(_grid_rows(row_keys, family, axis, energies))
            tracks.append(_track_rows(row_keys, family, (states - centre) / sigma, where))
    tables = pa.concat_tables(grids), pa.concat_tables(tracks)
    return tables if wanted else tuple(table.slice(0, 0) for table in tables)


def _towards_runner_up(study: Study) -> Tensor:
    rows = torch.arange(len(study.t), device=study.t.device)
    there, here = (study.found.y[rows, which] for which in (study.runner_up, study.nearest))
    return (there - here).where((study.runner_up >= 0).unsqueeze(1), torch.nan)


def _grid_rows(keys: pa.Table, family: str, axis: Tensor, energies: list[Tensor]) -> pa.Table:
    values = [part.cpu().numpy() for part in energies]
    problem, alpha, beta = (part.ravel() for part in np.indices(values[0].shape))
    axis, undefined = axis.cpu().numpy(), np.isnan(values[0].ravel())
    oracle = values[1].ravel() if len(values) > 1 else np.full(len(problem), np.nan)
    columns = {
        "alpha": pa.array(axis[alpha]),
        "beta": pa.array(axis[beta]),
        "dE": pa.array(values[0].ravel(), from_pandas=True),
        "dE_oracle": pa.array(oracle, from_pandas=True),
    }
    return _named(keys, problem, family, columns, undefined)


def _track_rows(keys: pa.Table, family: str, displacement: Tensor, where: Plane) -> pa.Table:
    inside = where.coordinates(displacement)
    total, part = displacement.square().sum(-1), inside.square().sum(-1)
    off = (total - part).clamp(min=0).sqrt().cpu().numpy()
    inside = inside.cpu().numpy()
    step, problem = (part.ravel() for part in np.indices(off.shape))
    columns = {
        "move": pa.array(step, pa.int32()),
        "alpha": pa.array(inside[..., 0].ravel(), from_pandas=True),
        "beta": pa.array(inside[..., 1].ravel(), from_pandas=True),
        "off": pa.array(off.ravel(), from_pandas=True),
    }
    return _named(keys, problem, family, columns, np.isnan(off.ravel()))


def _named(
    keys: pa.Table, problem: np.ndarray, family: str, columns: dict[str, pa.Array], undefined: np.ndarray
) -> pa.Table:
    table = keys.take(pa.array(problem))
    names = dict(zip(("u_kind", "v_kind"), FAMILIES[family], strict=True))
    columns = {name: pa.array([value] * len(problem)) for name, value in names.items()} | columns
    columns["reason"] = pa.array(np.where(undefined, REASONS[family], None), pa.string())
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
