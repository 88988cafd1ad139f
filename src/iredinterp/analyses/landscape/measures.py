"""EXP-002 as tables: minima, what lies between them, slices, and the sampler's way through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch

from iredinterp.analyses.landscape.grids import explained_variance, slice_tables
from iredinterp.analyses.landscape.settings import Settings
from iredinterp.analyses.landscape.study import START_KINDS, Study
from iredinterp.energy import Energy
from iredinterp.minima import wilson_interval
from iredinterp.points import reference_matrices, reference_rank
from iredinterp.tables import Metric, tensor_array, tidy

NO_MINIMUM = "no search ended in a minimum"
NO_START = "no search from such a start ended in a minimum"
ONE_MINIMUM = "fewer than two minima were found"
NO_SADDLE = f"no saddle of index 1 next to the highest image of the path, or {ONE_MINIMUM}"
NO_PLANE = "the sampler moves along a line or not at all"


def landscape_tables(
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    settings: Settings,
    oracle: Energy | None = None,
    block: slice = slice(None),
) -> dict[str, pa.Table]:
    """Minima, barriers and slices of the landscapes E(x, ·, t).

    Args:
        energy: the landscape, float64.
        problems: all problems.
        keys: values of `iredinterp.points.MODEL_KEYS`.
        settings: how they are looked at.
        oracle: the Bayes-optimal energy, for the width of the posterior and for contours, if there is one.
        block: which of the problems.

    Returns:
        Tables by name, all with the keys, problem_id, t, sigma, point_kind, draw and converged. Energies in
        the first three are in nats, ΔE/σ_t: the Bayes-optimal E is −σ_t ln p_t(y|x).

        `metrics`, long and tidy, null with a reason where undefined:

        * minima_count. unconverged_rate: share of searches that ended elsewhere. spurious_rate: share of the
          distinct minima that are spurious, see `Settings`. outside_box: share with an entry beyond ±2√ᾱ_t,
          where the sampler clamps. answer_distance: of the minimum nearest √ᾱ_t y* from it, in units of the
          width that defines spurious ones.
        * basin_fraction, components "q_sample" and "sampler": of the searches from such starts that found a
          minimum, the share that found one that is not spurious; basin_low, basin_high: its 95 % Wilson
          interval.
        * barrier: how far E rises above the higher of two minima, the one nearest the answer and the lowest
          of all others; components "straight", "string" (images of the minimum-energy path, an upper bound
          up to their spacing) and "saddle" (verified, of index 1). path_length_ratio: length of that path
          over the distance of its ends.
        * explained_variance (point_kind "trajectory"), index 0 and 1: share of the sampler's motion at the
          level in the two components that the slice `pc1`, `pc2` shows.

        `minima`, one row per distinct minimum: dE from the one nearest the answer, distance (as above),
        spurious, outside (entries beyond the box), gradient_norm, smallest (σ_tλ), starts that found it,
        their fraction with low and high (Wilson), nearest, and the tensor y (d).

        `paths`: method, image, position (share of the length), dE from the end nearest the answer,
        perpendicular (‖∇E‖ across the path).

        `grid`, slices around √ᾱ_t y*: u_kind, v_kind, alpha, beta (units of σ_t), dE and dE_oracle (not in
        nats), reason.

        `tracks`: states of a sampler run at the level in the same coordinates, with move, their number in
        order, and off, their distance from the plane in units of σ_t.

    Raises:
        ConfigError: no such level or rank, or no problem is left to look at.
    """
    study = Study.of(energy, problems, keys, oracle, block, settings)
    reference = reference_matrices(problems)[study.positions].to(study.answers.device)
    rank = reference_rank([keys.get("rank")], settings.rank)
    grid, tracks = slice_tables(study, keys, keys["task"], reference, rank, oracle)
    metrics = [*_minimum_metrics(study), *_basin_metrics(study), *_barrier_metrics(study)]
    moves = Metric("explained_variance", explained_variance(study), reason=NO_PLANE)
    place = study.keys.column_names.index("point_kind")
    on_the_way = pa.array(["trajectory"] * len(study.keys))
    run_keys = study.keys.set_column(place, "point_kind", on_the_way)
    return {
        "metrics": pa.concat_tables([tidy(study.keys, metrics), tidy(run_keys, [moves])]),
        "minima": _minima(study),
        "paths": _paths(study),
        "grid": grid,
        "tracks": tracks,
    }


def _minimum_metrics(study: Study) -> Iterator[Metric]:
    distinct = study.found.distinct
    count = distinct.sum(1).double()
    yield Metric("minima_count", count)
    yield Metric("unconverged_rate", (~study.found.converged).double().mean(1))
    for name, which in (("spurious_rate", study.spurious), ("outside_box", study.outside > 0)):
        share = (distinct & which).sum(1) / count.where(count > 0, torch.nan)
        yield Metric(name, share, reason=NO_MINIMUM)
    distance = study.distance.where(distinct, torch.inf).amin(1)
    yield Metric("answer_distance", distance.where(count > 0, torch.nan), reason=NO_MINIMUM)


def _basin_metrics(study: Study) -> Iterator[Metric]:
    right = study.found.converged & ~study.spurious
    parts = (part.split(list(study.kinds), dim=1) for part in (right, study.found.converged))
    for kind, hit, reached in zip(START_KINDS, *parts, strict=True):
        hits, trials = hit.sum(1), reached.sum(1)
        low, high = wilson_interval(hits, trials)
        for name, value in (("fraction", hits / trials), ("low", low), ("high", high)):
            yield Metric(f"basin_{name}", value.where(trials > 0, torch.nan), kind, NO_START)


def _barrier_metrics(study: Study) -> Iterator[Metric]:
    nothing = study.everywhere(study.sigma.new_full((len(study.paired),), torch.nan))
    values = dict.fromkeys(("straight", "string", "saddle", "ratio"), nothing)
    if study.bands:
        straight, band, top = study.bands
        higher = torch.maximum(band.energies[:, 0], band.energies[:, -1])
        climbed = (top.energy - higher).where(top.verified, torch.nan)
        rises = {"straight": straight.barrier, "string": band.barrier, "saddle": climbed}
        values = {name: study.everywhere(rise) / study.sigma for name, rise in rises.items()}
        values["ratio"] = study.everywhere(band.length_ratio)
    for name in ("straight", "string", "saddle"):
        reason = NO_SADDLE if name == "saddle" else ONE_MINIMUM
        yield Metric("barrier", values[name], name, reason)
    yield Metric("path_length_ratio", values["ratio"], reason=ONE_MINIMUM)


def _minima(study: Study) -> pa.Table:
    row, start = (index.cpu() for index in study.found.distinct.nonzero(as_tuple=True))
    everyone = torch.ones(study.found.converged.shape[1], dtype=torch.bool, device=study.t.device)
    starts, reached = study.found.members(everyone), study.found.converged.sum(1, keepdim=True)
    low, high = wilson_interval(starts, reached)
    lowest = study.found.energy.gather(1, study.nearest.unsqueeze(1))
    sigma = study.sigma.unsqueeze(1)
    index = torch.arange(study.found.converged.shape[1], device=study.t.device)
    columns = {
        "dE": (study.found.energy - lowest) / sigma,
        "distance": study.distance,
        "spurious": study.spurious,
        "outside": study.outside,
        "gradient_norm": study.found.gradient_norm,
        "smallest": sigma * study.found.smallest_eigenvalue,
        "starts": starts,
        "fraction": starts / reached,
        "low": low,
        "high": high,
        "nearest": index == study.nearest.unsqueeze(1),
    }
    table = study.keys.take(pa.array(row.numpy()))
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values.cpu().numpy()[row, start]))
    return table.append_column("y", tensor_array(study.found.y.double().cpu()[row, start]))


def _paths(study: Study) -> pa.Table:
    bands = study.bands[:2] if study.bands else ()
    parts = [_band_rows(study, name, band) for name, band in zip(("straight", "string"), bands, strict=False)]
    return pa.concat_tables([_path_schema(study).empty_table(), *parts])


def _band_rows(study: Study, method: str, band) -> pa.Table:
    pair, image = (index.ravel() for index in np.indices(band.energies.shape))
    sigma = study.sigma[study.paired].unsqueeze(1)
    walked = torch.nn.functional.pad(band.images.diff(dim=1).norm(dim=-1).cumsum(1), (1, 0))
    values = {
        "position": walked / walked[:, -1:],
        "dE": (band.energies - band.energies[:, :1]) / sigma,
        "perpendicular": band.perpendicular,
    }
    columns = study.keys.take(pa.array(study.paired.cpu().numpy()[pair])).columns
    columns += [pa.array([method] * len(pair)), pa.array(image, pa.int32())]
    columns += [pa.array(value.double().cpu().numpy().ravel()) for value in values.values()]
    return pa.Table.from_arrays(columns, schema=_path_schema(study))


def _path_schema(study: Study) -> pa.Schema:
    added = [("method", pa.string()), ("image", pa.int32())]
    added += [(name, pa.float64()) for name in ("position", "dE", "perpendicular")]
    return pa.schema([*study.keys.schema, *(pa.field(*pair) for pair in added)])
