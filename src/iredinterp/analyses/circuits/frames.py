"""From the tables of EXP-009 to what its figures draw."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from iredinterp.errors import TableError
from iredinterp.tables import tensor_column

RANDOM = "random"


def curves_frame(metrics: pa.Table, method: str) -> pd.DataFrame:
    """Faithfulness by size at the levels where methods were compared, for `drawing.figure_curves`.

    Args:
        metrics: of all conditions.
        method: what ranked the registered circuits, which comes first.
    """
    frame = _rows(metrics, "faithfulness", "random_faithfulness")
    is_random = frame["metric"] == "random_faithfulness"
    frame["method"] = frame["component"].mask(is_random, RANDOM)
    frame["sample"] = frame["problem_id"].mask(is_random, frame["index"])
    methods = frame[~is_random].groupby("t")["method"].nunique()
    frame = frame[frame["t"].isin(methods[methods == methods.max()].index)]
    return frame.sort_values("method", key=lambda names: names != method, kind="stable")


def scores_frame(nodes: pa.Table, method: str) -> pd.DataFrame:
    """Score and gain of every unit at every level, for `drawing.figure_levels`.

    Args:
        nodes: of one network.
        method: whose scores.
    """
    frame = nodes.to_pandas()
    keys = ["t", "layer", "unit"]
    score = frame[(frame["metric"] == "score") & (frame["component"] == method)].set_index(keys)["value"]
    gain = frame[frame["metric"] == "gain"].set_index(keys)["value"]
    return pd.DataFrame({"score": score, "gain": gain}).reset_index()


def scores_at(nodes: pa.Table, method: str, t: int) -> torch.Tensor:
    """The scores of a method at one level, (3, h).

    Args:
        nodes: of one network.
        method: whose scores.
        t: level.
    """
    frame = scores_frame(nodes, method)
    table = frame[frame["t"] == t].pivot(index="layer", columns="unit", values="score")
    return torch.tensor(table.to_numpy())


def overlaps_frame(metrics: pa.Table) -> pd.DataFrame:
    """Jaccard indices of every two levels, both ways round and 1 with themselves, for `figure_levels`.

    Args:
        metrics: of one network.
    """
    names = {"jaccard": "value", "jaccard_low": "low", "jaccard_high": "high"}
    frame = _rows(metrics, *names).pivot(index=["t", "t2"], columns="metric", values="value")
    frame = frame.rename(columns=names).reset_index()
    other_way = frame.rename(columns={"t": "t2", "t2": "t"})
    levels = pd.unique(frame[["t", "t2"]].to_numpy().ravel())
    same = pd.DataFrame({"t": levels, "t2": levels, "value": 1.0, "low": 1.0, "high": 1.0})
    return pd.concat([frame, other_way, same], ignore_index=True)


def accuracy_frame(metrics: pa.Table) -> pd.DataFrame:
    """Interchange accuracies, for `drawing.figure_interchange`.

    Args:
        metrics: of one network.
    """
    frame = _rows(metrics, "interchange_accuracy")
    frame[["method", "layer"]] = frame["component"].str.extract(r"(\w+) layer (\d)")
    return frame.assign(layer=frame["layer"].astype(int), sample=0, source="source held")


def chosen_circuit(circuits: pa.Table, method: str, t: int) -> torch.Tensor:
    """The circuit of a method at a level, bool (3, h).

    Raises:
        TableError: there is none.
    """
    for column, value in (("method", method), ("t", t), ("chosen", True)):
        circuits = circuits.filter(pc.equal(circuits[column], value))
    if not circuits.num_rows:
        raise TableError(f"circuits: there is no circuit of {method} at level {t}; run the search there")
    return tensor_column(circuits, "units")[0].bool()


def _rows(metrics: pa.Table, *names: str) -> pd.DataFrame:
    rows = metrics.filter(pc.is_in(metrics["metric"], pa.array(names)))
    return rows.filter(pc.is_valid(rows["value"])).to_pandas()
