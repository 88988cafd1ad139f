"""The competence card: what a model is, and what it can do beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.ired.checkpoint import Checkpoint
from iredinterp.ired.competence import BASELINE_NAMES, MODEL, Competence, competence
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.pages import render_page

BATCH = 256
ENTRIES = ("all", "missing", "observed")


def score_model(model: EnergyMLP, spec: ProblemSpec, count: int, seed: int, name: str = "NAME") -> Competence:
    """Score a network by the official protocol: float32, the value its faithful sampler returns.

    Args:
        model: network; scored in float32.
        spec: the distribution to test on.
        count: fresh problems (the official evaluation takes 22 batches of 256).
        seed: of the problems and of the sampler's first states.
        name: of the model in the configuration.

    Raises:
        ConfigError: the network does not fit the problems.
    """
    spec.check_sizes(model.dim_x, model.dim_y, name)
    generator = torch.Generator().manual_seed(seed)
    model = model.to(torch.float32)

    def predict(x: Tensor) -> Tensor:
        init = torch.randn(len(x), model.dim_y, generator=generator)
        parts = zip(x.to(model.device, torch.float32).split(BATCH), init.split(BATCH), strict=True)
        return torch.cat([sample(model, part, init=first).final for part, first in parts]).cpu()

    return competence(predict, spec, count, seed)


def competence_table(name: str, checkpoint: Checkpoint, result: Competence) -> pa.Table:
    """One row per predictor and kind of entry, with the model's identity and the card's conclusion."""
    shared = {
        "model": name,
        "task": result.spec.task,
        "n": result.spec.n,
        "seed": checkpoint.record.get("seed"),
        "step": checkpoint.step,
        "weights": checkpoint.weights,
        "sha256": checkpoint.sha256,
        "problems": result.count,
        "deciding": result.deciding,
        "best_baseline": result.best_baseline,
        "shows_skill": result.shows_skill,
        "sentence": result.sentence(),
        "skill": result.skill,
        "skill_lower": result.skill_lower,
    }
    return pa.Table.from_pylist([shared | row for row in result.rows()])


@dataclass(frozen=True)
class Card:
    """What a competence table says.

    Attributes:
        identity: its columns that speak of the model: model, task, n, seed, step, weights, sha256, problems,
            deciding, shows_skill, sentence.
        entries: kinds of entries that errors are given for.
        rows: predictor, its name in words, and (mse, stderr) by kind of entry; the model first.
    """

    identity: Mapping
    entries: tuple[str, ...]
    rows: tuple[tuple[str, str, Mapping[str, tuple[float, float]]], ...]


def card(table: pa.Table) -> Card:
    """The card of a competence table, in whatever order its rows are."""
    rows = table.to_pylist()
    labels = {MODEL: "this model", **BASELINE_NAMES}
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        scores.setdefault(row["predictor"], {})[row["entries"]] = row["mse"], row["stderr"]
    present = [name for name in labels if name in scores]
    entries = [kind for kind in ENTRIES if kind in scores[MODEL]]
    return Card(rows[0], tuple(entries), tuple((name, labels[name], scores[name]) for name in present))


def render_card(
    name: str, checkpoint: Checkpoint, spec: ProblemSpec, result: Competence, path: str | Path
) -> None:
    """Write the card as a self-contained HTML page, atomically."""
    render_page(
        "card.html",
        path,
        name=name,
        checkpoint=checkpoint,
        spec={key: value for key, value in spec.to_dict().items() if value is not None},
        card=card(competence_table(name, checkpoint, result)),
    )
