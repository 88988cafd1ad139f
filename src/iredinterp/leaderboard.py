"""How well circuit methods find planted circuits, decoy by decoy, and what they cost.

A method sees a network and points; what it says of every unit is held against the truth here, by code that it
has no part in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.evidence.statistics import auroc
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.pages import render_page
from iredinterp.points import q_sample
from iredinterp.truth.planted import EVERY_DECOY, Planted, planted
from iredinterp.truth.planted.draft import LAYERS

# Called with network, x (B, d_x), y (B, d), t (B,) of one level and `generator=`; returns a score of every
# hidden unit, (3, h), larger where the circuit needs it more.
Method = Callable[..., Tensor]

EVERY = "every"
DECOYS = {"none": {}} | {name: {name: count} for name, count in EVERY_DECOY.items()} | {EVERY: EVERY_DECOY}
SCHEMA = pa.schema(
    {"family": pa.string(), "decoy": pa.string(), "method": pa.string(), "t": pa.int32()}
    | {"layer": pa.int32(), "metric": pa.string(), "value": pa.float64(), "reason": pa.string()}
)
COSTS = pa.schema(
    {"family": pa.string(), "decoy": pa.string(), "method": pa.string(), "seconds": pa.float64()}
)
ONE_KIND = "every unit of this layer is needed"


def leaderboard(
    methods: Mapping[str, Method],
    registered: str,
    family: str,
    spec: ProblemSpec,
    levels: Sequence[int],
    count: int,
    seed: int,
) -> tuple[pa.Table, pa.Table]:
    """Recovery of planted circuits with each kind of decoy, with none, and with all of them.

    Args:
        methods: by name.
        registered: the one whose error is the gate of the registered hypothesis.
        family: name of the problems.
        spec: their distribution, which sets the sizes of the networks and the points.
        levels: at which circuits are looked for.
        count: q_samples per level.
        seed: of the networks (that of the calibration with every decoy), the points and the methods.

    Returns:
        * Rows of family, decoy, method, t and layer (null for all three together) with the metric auroc, the
          chance that a needed unit scores above another one; and for the registered method, with every decoy
          and all layers together, recovery_error, 1 − auroc. Null with a reason where all units are needed.
        * Rows of family, decoy, method and seconds per level. The only numbers that vary from run to run.

    Raises:
        ConfigError: the registered method is not among them.
    """
    if registered not in methods:
        raise ConfigError(f"circuits.method: found {registered!r}; use one of {', '.join(methods)}")
    rows, costs = [], []
    for decoy, decoys in DECOYS.items():
        network = planted(spec.dim_x, spec.dim_y, seed, decoys=decoys, symmetric=spec.task == "inverse")
        for name, method in methods.items():
            here = {"family": family, "decoy": decoy, "method": name}
            seconds = []
            for t in levels:
                points = q_samples(network, spec, t, count, seed)
                start = time.perf_counter()
                scores = method(network.model, *points, generator=torch.Generator().manual_seed(seed))
                seconds.append(time.perf_counter() - start)
                rows += [here | row for row in recovery(scores, network, t)]
            costs.append(here | {"seconds": float(np.mean(seconds))})
    errors = [
        row | {"metric": "recovery_error", "value": None if row["value"] is None else 1 - row["value"]}
        for row in rows
        if (row["decoy"], row["method"], row["layer"]) == (EVERY, registered, None)
    ]
    return pa.Table.from_pylist(rows + errors, SCHEMA), pa.Table.from_pylist(costs, COSTS)


def recovery(scores: Tensor, network: Planted, t: int) -> Iterator[dict]:
    """The rows of one method at one level: per layer, and all layers together.

    Args:
        scores: (3, h).
        network: the planted one.
        t: level.

    Raises:
        ValueError: scores of another shape.
    """
    expected = (len(LAYERS), network.model.hidden)
    if tuple(scores.shape) != expected:
        raise ValueError(f"a method must score units by layer, {expected}; found {tuple(scores.shape)}")
    needed = torch.stack([network.truth.circuit(layer, t) for layer in LAYERS])
    for layer in (*LAYERS, None):
        rows = slice(None) if layer is None else slice(layer - 1, layer)
        found, wanted = scores[rows].double().cpu(), needed[rows]
        row = {"t": t, "layer": layer, "metric": "auroc"}
        if wanted.all():
            yield row | {"value": None, "reason": ONE_KIND}
        else:
            yield row | {"value": float(auroc(found[wanted].numpy(), found[~wanted].numpy()))}


def q_samples(
    network: Planted, spec: ProblemSpec, t: int, count: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Noised right answers of fresh problems at one level: x (B, d_x), y (B, d) and t (B,)."""
    generator = torch.Generator().manual_seed(seed)
    problems = draw_problems(spec, count, generator)
    noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
    y = q_sample(problems.y_star, t, noise, network.model.schedule)
    return problems.x, y, torch.full((count,), t)


@dataclass(frozen=True)
class Board:
    """The leaderboard of one family of shapes.

    Attributes:
        family: its name.
        rows: method, mean AUROC over levels by decoy (None where every unit is needed) and seconds per level;
            the best method with every decoy first.
    """

    family: str
    rows: tuple[tuple[str, Mapping[str, float | None], float], ...]


def boards(recovered: pa.Table, costs: pa.Table) -> list[Board]:
    """Leaderboards of all hidden layers together.

    Args:
        recovered: from `leaderboard`, of any number of families.
        costs: likewise.
    """
    frame, seconds = recovered.to_pandas(), costs.to_pandas()
    frame = frame[(frame["metric"] == "auroc") & frame["layer"].isna()]
    found = []
    for family, mine in frame.groupby("family"):
        means = mine.groupby(["method", "decoy"])["value"].mean().unstack()[list(DECOYS)]
        spent = seconds[seconds["family"] == family].groupby("method")["seconds"].mean()
        means = means.sort_values([EVERY, "none"], ascending=False, kind="stable")
        values = means.astype(object).where(means.notna(), None)
        rows = ((name, values.loc[name].to_dict(), float(spent[name])) for name in values.index)
        found.append(Board(str(family), tuple(rows)))
    return found


def render_leaderboard(recovered: pa.Table, costs: pa.Table, path: str | Path) -> None:
    """Write the leaderboard as a self-contained HTML page, atomically.

    Args:
        recovered: from `leaderboard`, of any number of families.
        costs: likewise.
        path: file to write.
    """
    render_page("leaderboard.html", path, boards=boards(recovered, costs))
