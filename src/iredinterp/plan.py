"""How many jobs a study has, and how many hours they take."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

HEADINGS = ("rule", "jobs", "GPUs", "measured", "minutes each", "hours", "hours at most")


@dataclass(frozen=True)
class Job:
    """What the workflow asks for one job.

    Args:
        rule: its rule.
        gpus: GPUs it asks for.
        limit: minutes after which the scheduler ends it.
        measured: minutes it took when it last ran, or None if it never did.
    """

    rule: str
    gpus: int
    limit: float
    measured: float | None


class JobListing(logging.Handler):
    """Collects the jobs that a dry run announces, as log records with `rule_name` and `resources`.

    Args:
        folder: where the paths of benchmark files begin.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        self.jobs: list[Job] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a job; what asks for no time only collects files and is left out."""
        resources = dict(getattr(record, "resources", {}).items())
        if "runtime" in resources:
            measured = record.benchmark and measured_minutes(self.folder / record.benchmark)
            job = Job(record.rule_name, resources.get("gpu", 0), resources["runtime"], measured)
            self.jobs.append(job)


def measured_minutes(path: str | Path) -> float | None:
    """Wall time of the last run in a benchmark file.

    Args:
        path: JSON lines with the key `s`, in seconds.

    Returns:
        Minutes, or None where there is no such file yet.
    """
    path = Path(path)
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1])["s"] / 60 if lines else None


def plan_page(jobs: Sequence[Job]) -> str:
    """The plan of a study: a Markdown table with a row per rule, and its totals in a sentence.

    Args:
        jobs: all jobs of the study.

    Returns:
        Text. `measured` says how many jobs ran before, `minutes each` is their mean, and `hours` takes that
        mean for every job of the rule; `hours at most` is what the time limits allow.
    """
    rules = (
        pd.DataFrame(jobs)
        .groupby("rule")
        .agg(
            jobs=("rule", "size"),
            gpus=("gpus", "max"),
            measured=("measured", "count"),
            minutes=("measured", "mean"),
            at_most=("limit", "sum"),
        )
        .assign(
            hours=lambda rules: rules["minutes"] * rules["jobs"] / 60,
            at_most=lambda rules: rules["at_most"] / 60,
        )
        .sort_values(["gpus", "at_most"], ascending=False)
    )
    rows = [
        (
            rule.Index,
            f"{rule.jobs:,}",
            str(rule.gpus or ""),
            f"{rule.measured:,}",
            f"{rule.minutes:.2g}" if rule.measured else "",
            f"{rule.hours:,.1f}" if rule.measured else "",
            f"{rule.at_most:,.0f}",
        )
        for rule in rules.itertuples()
    ]
    table = [HEADINGS, ("---",) + ("---:",) * (len(HEADINGS) - 1), *rows]
    lines = [f"| {' | '.join(row)} |" for row in table]
    kinds = {"with a GPU": rules[rules["gpus"] > 0], "without": rules[rules["gpus"] == 0]}
    totals = "; ".join(_total(kind, group) for kind, group in kinds.items())
    return "\n".join([*lines, "", f"{rules['jobs'].sum():,} jobs. {totals}.", ""])


def _total(kind: str, rules: pd.DataFrame) -> str:
    jobs, at_most, known = rules["jobs"].sum(), rules["at_most"], rules["measured"] > 0
    if not known.any():
        return f"{jobs:,} {kind}: {at_most.sum():,.0f} hours at most"
    hours = f"{jobs:,} {kind}: {rules['hours'].sum():,.1f} hours by what was measured"
    if not known.all():
        hours += f", {at_most[~known].sum():,.0f} at most for rules never run"
    return f"{hours}, {at_most.sum():,.0f} at most in all"
