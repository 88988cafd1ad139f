"""A small study that every part of the report is made from, written by the library's own writers."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from iredinterp.cards import competence_table, render_card
from iredinterp.evidence.calibration import SCHEMA as CALIBRATION
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.page import render_verdicts
from iredinterp.evidence.verdicts import SAMPLE_KEYS, contrast_table, judge, verdict_table
from iredinterp.figures import save_figure
from iredinterp.ired.checkpoint import Checkpoint
from iredinterp.ired.competence import Competence, Score
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.leaderboard import COSTS, DECOYS, render_leaderboard
from iredinterp.leaderboard import SCHEMA as RECOVERED
from iredinterp.provenance import provenance
from iredinterp.scorecard import SCHEMA as SCORES
from iredinterp.scorecard import render_scorecard
from iredinterp.tables import Metric, tidy, write_table

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "workflow/report/pages.yaml"
HYPOTHESES = ROOT / "config/hypotheses.yaml"
REGISTRATION = replace(read_hypotheses(HYPOTHESES), draws=200)
MODELS = ("inverse-n2-of-a-rather-long-name-seed0", "inverse-n2-seed1")
FAMILY = "inverse-n2"
SPEC = ProblemSpec("inverse", 2)
CONDITIONS = ("trained", "random_init", "oracle")
PANEL = (4.0, 3.0)  # inches
PROBLEMS, LEVELS = 5, 10


def fresh() -> int:
    """A seed for fixtures that several tests share; pytest prints it with the first failing test."""
    seed = secrets.randbelow(2**31)
    print(f"seed = {seed}")
    return seed


class Study:
    """The files of a small study in a folder.

    Args:
        folder: to write to.
        seed: of all numbers.
        models: their names.
    """

    def __init__(self, folder: Path, seed: int, models: Sequence[str] = MODELS):
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.models = models
        self.origin = provenance({"count": PROBLEMS}, seed=0, code={"scripts.sample": "0" * 12})
        self.results = {
            "exp001": self.figures("hessian", "trained") + self.metrics(),
            "exp007": self.course(),
        }
        self.verdicts, self.contrasts = self.judged()
        self.cards = [self.card(model) for model in models]
        self.calibration = self.calibrated()
        self.recovered, self.costs = self.leaderboard()
        self.scorecard = self.scored()

    def inputs(self) -> dict:
        """Arguments of `write_report`, but for the path."""
        return {
            "pages": PAGES,
            "results": self.results,
            "verdicts": self.verdicts,
            "contrasts": self.contrasts,
            "hypotheses": HYPOTHESES,
            "cards": self.cards,
            "config": {"select": list(self.models), "sampling": {"count": PROBLEMS}},
            "calibrations": [self.calibration],
            "recovered": [self.recovered],
            "costs": [self.costs],
            "scorecard": [self.scorecard],
        }

    def write(self, name: str, table: pa.Table) -> Path:
        path = self.folder / f"{name}.parquet"
        write_table(table, path, self.origin)
        return path

    def figures(
        self, analysis: str, *condition: str, names: Sequence[str] = ("spectra", "summary")
    ) -> list[Path]:
        paths = []
        for model in self.models:
            for name in names:
                stem = Path(self.folder, analysis, model, *condition, "figures", name)
                paths += [stem.with_suffix(kind) for kind in (".svg", ".pdf", ".png")]
                draw(paths[-3:], self.rng.standard_normal(9))
        return paths

    def course(self) -> list[Path]:
        stem = self.folder / f"implicit_bias/courses/{FAMILY}/figures/modes"
        draw([stem.with_suffix(".svg")], np.arange(4.0))
        graph = self.folder / "implicit_bias/graph.graphml"
        graph.write_text("<graphml/>")
        return [stem.with_suffix(".svg"), graph]

    def metrics(self) -> list[Path]:
        paths = []
        for model in self.models:
            for condition in CONDITIONS:
                t, problem = np.indices((LEVELS, PROBLEMS)).reshape(2, -1)
                keys = pa.table(
                    {
                        "model": [model] * t.size,
                        "condition": [condition] * t.size,
                        "problem_id": problem,
                        "t": t,
                    }
                    | {"point_kind": ["q_sample"] * t.size, "converged": pa.nulls(t.size, pa.bool_())}
                )
                size = torch.tensor(np.exp(8 * self.rng.standard_normal(t.size)))
                signed = torch.tensor(self.rng.standard_normal(t.size))
                signed[torch.tensor(problem) == 0] = torch.nan
                nothing = torch.full((t.size,), torch.nan, dtype=torch.float64)
                found = [
                    Metric("condition_number", size),
                    Metric("alignment_excess", signed, "column/low", "no gap"),
                    Metric("oracle_distance", nothing, reason="nobody knows <the> optimum"),
                ]
                name = f"hessian/{model}/{condition}/blocks/0/metrics"
                paths.append(self.write(name, tidy(keys, found)))
        return paths

    def judged(self) -> tuple[Path, Path]:
        frames = []
        for hypothesis in (entry for entry in REGISTRATION.hypotheses if "inverse" in entry.tasks):
            for condition in hypothesis.conditions:
                shift = self.rng.normal(0, 4 * hypothesis.sesoi) if condition != "trained" else 0
                values = shift + hypothesis.sesoi * self.rng.standard_normal((8, PROBLEMS))
                seed, problem = np.indices(values.shape).reshape(2, -1)
                keys = dict(zip(SAMPLE_KEYS, (hypothesis.id, "inverse", FAMILY, condition), strict=False))
                frame = pd.DataFrame({"seed": seed, "problem_id": problem, "value": values.ravel()})
                frames.append(frame.assign(**keys))
        gates = {(entry.gate.method, FAMILY): 1e-9 for entry in REGISTRATION.hypotheses}
        self.found = judge(REGISTRATION, pd.concat(frames), gates)
        return (
            self.write("verdicts", verdict_table(self.found, REGISTRATION, "snakemake verdicts")),
            self.write("contrasts", contrast_table(self.found)),
        )

    def card(self, model: str) -> Path:
        mse = dict(zip(("model", "zero", "linear"), self.rng.uniform(0.01, 1, 3), strict=True))
        scores = tuple(Score(name, "all", value, value / 50) for name, value in mse.items())
        result = Competence(SPEC, 100, scores, "all", "linear", 2.0, 1.5, True)
        network = EnergyMLP.random(4, 4, 8, torch.Generator().manual_seed(0))
        checkpoint = Checkpoint(network, "ema", 2400, "ab" * 32, {"seed": 0})
        render_card(model, checkpoint, SPEC, result, self.folder / f"competence/{model}.html")
        return self.write(f"competence/{model}", competence_table(model, checkpoint, result))

    def calibrated(self) -> Path:
        rows = [
            {"method": "hessian", "metric": "spectrum_error", "t": t, "value": 1e-15 * t} for t in range(3)
        ]
        rows.append({"method": "hessian", "metric": "log_slope_error", "value": 0.06, "planted": 1.07})
        rows.append({"method": "tangent", "metric": "log_ratio_error", "reason": "nothing planted"})
        return self.write(f"planted/{FAMILY}/calibration", pa.Table.from_pylist(rows, CALIBRATION))

    def leaderboard(self) -> tuple[Path, Path]:
        methods = ("exact zero", "random zero")
        here = [{"family": FAMILY, "decoy": decoy, "method": name} for decoy in DECOYS for name in methods]
        rows = [row | {"t": 1, "metric": "auroc", "value": float(self.rng.uniform())} for row in here]
        recovered = pa.Table.from_pylist(rows, RECOVERED)
        costs = pa.Table.from_pylist([row | {"seconds": 0.5} for row in here], COSTS)
        render_leaderboard(recovered, costs, self.folder / "leaderboard.html")
        return self.write("circuits", recovered), self.write("circuit_costs", costs)

    def scored(self) -> Path:
        row = {"method": "spectrum_progression", "family": FAMILY, "measure": "power_at_2s", "value": 0.5}
        over = {"measure": "false_positives", "value": 0.2, "nominal": 0.05, "replicates": 200}
        table = pa.Table.from_pylist([row | {"low": 0.4, "high": 0.6}, row | over], SCORES)
        render_scorecard(table, 7, self.folder / "scorecard.html")
        return self.write("scorecard", table)

    def single_pages(self) -> list[Path]:
        """Pages of their own, beside the report."""
        render_verdicts(self.found, REGISTRATION, "snakemake verdicts", self.folder / "verdicts.html")
        card = self.folder / f"competence/{self.models[0]}.html"
        return [card, *(self.folder / f"{name}.html" for name in ("verdicts", "scorecard", "leaderboard"))]


def draw(paths: Sequence[Path], values: np.ndarray) -> None:
    """A curve, once per path."""
    figure, ax = plt.subplots(figsize=PANEL)
    ax.plot(values)
    save_figure(figure, *paths)


class Document(HTMLParser):
    """What a page holds: ids, links, images, and tables as rows of (text, sorting value)."""

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[Mapping[str, str]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.label, self.row, self.cell, self.text = "", None, None, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        held = dict(attributes)
        self.ids += [held["id"]] if "id" in held else []
        self.links += [held["href"]] if tag == "a" else []
        self.images += [held] if tag == "img" else []
        if held.get("role") == "region":
            self.label = held["aria-label"]
            self.tables[self.label] = []
        elif tag == "tr":
            self.tables[self.label].append([])
        elif tag in ("td", "th"):
            self.cell, self.text = held.get("data-value"), []

    def handle_data(self, data):
        self.text.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self.label][-1].append((" ".join("".join(self.text).split()), self.cell))
