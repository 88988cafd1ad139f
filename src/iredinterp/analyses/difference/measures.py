"""Two landscapes as tables: their gradients, their spectra, their minima and what lies between those."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from iredinterp.analyses.difference.fields import field_metrics
from iredinterp.analyses.difference.landscapes import Pair, Side, shared_starts
from iredinterp.analyses.difference.settings import Settings
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.points import normal_draws, point_keys, q_sample
from iredinterp.ranges import require_levels
from iredinterp.tables import tensor_column, tidy

# What tables say of the network that the model is compared with, by the name it has for the model itself.
OTHER_KEYS = {"model": "other", "seed": "other_seed", "step": "other_step", "weights": "other_weights"}


def difference_tables(
    energy: Energy,
    other: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    other_keys: Mapping[str, object],
    settings: Settings,
    oracle: Energy | None = None,
) -> dict[str, pa.Table]:
    """How two landscapes differ, at the same q_samples and from the same starts.

    Args:
        energy: of the model, A; float64.
        other: of the network compared with it, B; the same levels and sizes.
        problems: the first `settings.count` are looked at.
        keys: values of `iredinterp.points.MODEL_KEYS` of the model.
        other_keys: those of the other.
        settings: how they are compared.
        oracle: the Bayes-optimal energy of both, if there is one.

    Returns:
        Tables by name, with the keys of the model, `other`, `other_seed`, `other_step`, `other_weights`,
        problem_id, t, sigma, point_kind, draw and converged. Of what is signed, A minus B.

        `metrics`, long and tidy, null with a reason where undefined. At q_samples, F standing for the Hessian
        H or the gradient g:

        * scaled, components "model", "other" and "oracle", by index: σ_tλ, ascending. scaled_difference, by
          index: of the two sorted spectra.
        * hessian_difference, gradient_difference: ‖F_A − F_B‖ over the "mean" of ‖F_A‖ and ‖F_B‖, or over
          that of the "oracle", ‖F*‖. hessian_cosine, gradient_cosine: ⟨F_A, F_B⟩/(‖F_A‖‖F_B‖).
        * hessian_error, gradient_error, components "model" and "other": ‖F − F*‖/‖F*‖. hessian_error_cosine,
          gradient_error_cosine: of F_A − F* with F_B − F*: 0 for unrelated errors, 1 for the same ones up to
          a factor.
        * eigenspace_overlap, components "low" and "high": ‖VᵀW‖_F²/m of the eigenspaces of the m smallest or
          largest eigenvalues; eigenspace_overlap_chance: m/d. principal_angle, by index, in radians.

        At minima, one value per problem and level, components "model" and "other" where each has its own.
        The right minimum of a network is the one nearest √ᾱ_t y*; distances are in units of σ_t√d, energies
        in nats, ΔE/σ_t:

        * minima_count; minima_shared, matched within `settings.reach`; minima_alone; shared_share: twice the
          shared over all; match_distance: mean over matches. unconverged_rate: of the searches.
        * right_distance: between the right minima of the two; right_shared: 1 if they are matched, else 0.
        * depth_difference: of the energies of matched minima above each network's right one, mean over all
          matches without a right one.
        * barrier: how far E rises from the right minimum and the lowest other, the higher of them, along the
          minimum-energy path between them; barrier_difference. barrier_across: rise of the E of one network
          along the path of the other, above the higher of its own values at the ends.

        `matches`, one row per minimum of either network: match, its number in the landscape; in_model,
        in_other; distance of the two; and of each of them dE above the right minimum, answer_distance and
        whether it is the right one, for the other with the prefix other_; null where a network lacks it.

    Raises:
        ConfigError: the networks differ in levels or sizes, there is no such level, or there are not d − 1
            ≥ vectors ≥ 1 of these.
    """
    _check(energy, other, settings)
    levels, schedule = list(settings.levels), energy.schedule
    problems = problems.slice(0, settings.count)
    ids = problems["problem_id"].to_pylist()
    x, y_star = (
        tensor_column(problems, name).flatten(1).to(energy.device, energy.dtype) for name in ("x", "y_star")
    )
    noise = normal_draws(settings.seed, "q_sample", ids, 1, energy.dim_y)[:, 0].to(y_star)
    y = torch.cat([q_sample(y_star, t, noise, schedule) for t in levels])
    many, t = x.repeat(len(levels), 1), torch.tensor(levels, device=x.device).repeat_interleave(len(ids))
    fields = field_metrics(
        energy, other, many, y, t, vectors=settings.vectors, chunk=settings.chunk, oracle=oracle
    )
    answers = schedule.sqrt_alphas_cumprod[t].unsqueeze(1) * y_star.repeat(len(levels), 1)
    starts = shared_starts(y_star, ids, levels, schedule, settings.starts, settings.seed)
    pair = Pair(*(Side.of(each, many, t, answers, starts, settings) for each in (energy, other)))
    places = {
        kind: _named(
            pa.concat_tables(
                point_keys(keys, ids, level, float(schedule.sigma[level]), kind, [0] * len(ids))
                for level in levels
            ),
            other_keys,
        )
        for kind in ("q_sample", "minimum")
    }
    metrics = [tidy(places["q_sample"], fields), tidy(places["minimum"], pair.metrics())]
    return {"metrics": pa.concat_tables(metrics), "matches": _matches(pair, places["minimum"])}


def _check(energy: Energy, other: Energy, settings: Settings) -> None:
    for name in ("dim_x", "dim_y"):
        if getattr(energy, name) != getattr(other, name):
            raise ConfigError(
                f"difference: {name}: found {getattr(energy, name)} and {getattr(other, name)}; compare "
                "networks for the same problems"
            )
    sigmas = [each.schedule.sigma.double().cpu() for each in (energy, other)]
    if sigmas[0].shape != sigmas[1].shape or not torch.allclose(*sigmas):
        raise ConfigError(
            "difference: the two networks have different noise levels; compare those of one schedule"
        )
    require_levels("difference.landscapes", settings.levels, energy.schedule.levels)
    if settings.vectors >= energy.dim_y:
        raise ConfigError(
            f"difference.landscapes.vectors: found {settings.vectors}, allowed 1 … d − 1 = "
            f"{energy.dim_y - 1}; an eigenspace has to leave directions out"
        )


def _named(table: pa.Table, other_keys: Mapping[str, object]) -> pa.Table:
    """Key columns of the other network behind those of the model."""
    place = table.column_names.index("problem_id")
    for name, column in OTHER_KEYS.items():
        values = pa.array([other_keys.get(name)] * len(table), table.schema.field(name).type)
        table = table.add_column(place, column, values)
        place += 1
    return table


def _matches(pair: Pair, keys: pa.Table) -> pa.Table:
    """One row per minimum of either network, matched ones first."""
    distinct = [side.found.distinct.cpu().clone() for side in (pair.model, pair.other)]
    row, own, others = pair.matches.T
    for alone, start in zip(distinct, (own, others), strict=True):
        alone[row, start] = False
    lonely = [alone.nonzero() for alone in distinct]
    nothing = [torch.full((len(rows),), -1) for rows in lonely]
    rows = torch.cat([row, lonely[0][:, 0], lonely[1][:, 0]])
    starts = (torch.cat([own, lonely[0][:, 1], nothing[1]]), torch.cat([others, nothing[0], lonely[1][:, 1]]))
    number = pd.Series(rows.numpy()).groupby(rows.numpy()).cumcount().to_numpy()
    distance = torch.full((len(rows),), torch.nan, dtype=torch.float64)
    distance[: len(row)] = pair.distance
    columns = {
        "match": pa.array(number, pa.int32()),
        "in_model": pa.array((starts[0] >= 0).numpy()),
        "in_other": pa.array((starts[1] >= 0).numpy()),
        "distance": _nullable(distance),
    }
    for prefix, side, start in zip(("", "other_"), (pair.model, pair.other), starts, strict=True):
        missing = (start < 0).numpy()
        away = (side.found.y[rows, start] - side.answers[rows]).double().norm(dim=1).cpu()
        columns |= {
            f"{prefix}dE": _nullable(side.depth[rows, start].double(), missing),
            f"{prefix}answer_distance": _nullable(away / pair.unit.cpu()[rows], missing),
            f"{prefix}right": pa.array((start == side.right.cpu()[rows]).numpy(), mask=missing),
        }
    table = keys.take(pa.array(rows.numpy()))
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _nullable(values: torch.Tensor, missing: np.ndarray | None = None) -> pa.Array:
    return pa.array(values.cpu().numpy(), mask=missing, from_pandas=True)
