"""Faults: runs that are killed at random moments, meet a full disk or damaged inputs, or run twice at once.

Every run works on a small copy of the project, and what it leaves is compared with an undisturbed run. The
result is written to docs/faults.md, anew after every trial.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from measure import device_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/faults.md"
PAGE_TEXT = """\
# Faults survived

Written by `make faults` (seed {seed}; two jobs at a time; {cpu}). The workload draws problems,
points and gradients, scores a model and trains sparse autoencoders: {artifacts} artifacts in {duration:.0f} s
undisturbed.

## Killed

`kill -9` at a moment drawn uniformly over the undisturbed run; where something must be there to be killed (a
job, a file being written), at the first one after it. Orphaned jobs are left to finish, then
`snakemake --unlock` and the same command again. Lost: an artifact that is missing or differs in value. Left:
a file that the undisturbed run does not have.

| killed | runs | at (s) | other bytes | lost or left | next run, median and longest (s) |
|---|---|---|---|---|---|
{kills}

Nothing: the run was over before.

## Other faults

| fault | times | as promised | promise |
|---|---|---|---|
{others}

## What went wrong

{complaints}
"""
PROMISES = {
    "two runs at once": "the second is refused, the first completes with the bytes of the undisturbed run",
    "duplicates at once": "two runs past the lock: what there is has the bytes of the undisturbed run, "
    "and the next run makes what is missing",
    "full disk": "the job's log says so and names the file; neither a part of it nor a temporary file is "
    "left; with space again, the next run makes it",
    "damaged inputs": "cut at a random byte, edited by hand, of an older schema: each job's log names file "
    "and remedy; deleted, they are made again with the same bytes",
}
sys.path.insert(0, str(ROOT / "tests"))

import disturbance  # noqa: E402
from project import Project  # noqa: E402


def main() -> None:
    """Run everything and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=20, help="kills, of runs that were not over before")
    arguments.add_argument("--others", type=int, default=3, help="of each other fault")
    arguments.add_argument("--seed", type=int, default=None, help="drawn anew by default")
    options = arguments.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4))
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project")
        project.configure(disturbance.SETTINGS)
        duration, undisturbed = disturbance.undisturbed_run(project)
        trials: list[disturbance.Trial] = []
        others: dict[str, list[list[str]]] = {}
        faults = {
            "two runs at once": lambda: disturbance.two_runs(project, undisturbed),
            "duplicates at once": lambda: disturbance.duplicates(project, undisturbed),
            "full disk": lambda: disturbance.full_disk(project, undisturbed, rng),
            "damaged inputs": lambda: disturbance.damaged_inputs(
                Project(Path(tempfile.mkdtemp(dir=folder)) / "project"), rng
            ),
        }
        for name, fault in islice(cycle(faults.items()), options.others * len(faults)):
            others.setdefault(name, []).append(fault())
            PAGE.write_text(page(seed, duration, len(undisturbed), trials, others))
        kinds = cycle(disturbance.KINDS)
        while sum(trial.kind != "nothing" for trial in trials) < options.trials:
            kind, moment = next(kinds), rng.uniform(0, duration)
            trials.append(disturbance.killed_run(project, undisturbed, kind, moment, rng))
            PAGE.write_text(page(seed, duration, len(undisturbed), trials, others))


def page(
    seed: int,
    duration: float,
    artifacts: int,
    trials: list[disturbance.Trial],
    others: dict[str, list[list[str]]],
) -> str:
    """Everything found so far."""
    kinds = dict.fromkeys(trial.kind for trial in trials)
    kills = [kill_row(kind, [trial for trial in trials if trial.kind == kind]) for kind in kinds]
    kept = {name: f"{len(found)} | {found.count([])}" for name, found in others.items()}
    found = [trial.complaints for trial in trials] + [each for found in others.values() for each in found]
    return PAGE_TEXT.format(
        seed=seed,
        cpu=device_name("cpu", "two threads"),
        artifacts=artifacts,
        duration=duration,
        kills="\n".join(kills),
        others="\n".join(f"| {name} | {counts} | {PROMISES[name]} |" for name, counts in kept.items()),
        complaints="\n".join(f"- {complaint}" for each in found for complaint in each) or "Nothing.",
    )


def kill_row(kind: str, trials: list[disturbance.Trial]) -> str:
    """The trials of one kind as a line of the table."""
    moments = ", ".join(f"{trial.moment:.0f}" for trial in sorted(trials, key=lambda trial: trial.moment))
    reruns = [trial.rerun for trial in trials]
    bytes_, complaints = (
        sum(len(getattr(t, name)) for t in trials) for name in ("other_bytes", "complaints")
    )
    times = f"{statistics.median(reruns):.0f}, {max(reruns):.0f}"
    return f"| {kind} | {len(trials)} | {moments} | {bytes_} | {complaints} | {times} |"


if __name__ == "__main__":
    main()
