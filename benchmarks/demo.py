"""How long the demo takes on a fresh clone, a second run after it, and which chain of jobs it waits for.

Everything committed is cloned and `snakemake all report` run there, as `make demo` does once the packages are
installed. Times are from Snakemake's own records; the result is written to benchmarks/RESULTS.md and drawn in
docs/demo-timeline.png.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from matplotlib.patches import Patch
from measure import device_name, write_results

from iredinterp.figures import panel_grid, save_figure, style

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs/demo-timeline.png"
TARGETS = ("all", "report")
COLOURED = 11
LISTED = 15
SHOWN = "![When every job of the demo ran](../docs/demo-timeline.png)"


@dataclass
class Job:
    """A job that ran.

    Attributes:
        rule: of the job.
        start: seconds since the first job began.
        end: likewise.
        outputs: files that it made.
        inputs: files that it read.
    """

    rule: str
    start: float
    end: float
    outputs: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """How long it took, with the start of its process."""
        return self.end - self.start


def main() -> None:
    """Run the demo twice, write the results page and draw the figure."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cores", type=int, default=2)
    arguments.add_argument("--drawn", type=Path, help="a folder where it ran, to be drawn without running it")
    options = arguments.parse_args()
    if options.drawn:
        draw(jobs_of(options.drawn))
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "iredinterp"
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        first, used = run(folder, options.cores)
        second, _ = run(folder, options.cores)
        jobs = jobs_of(folder)
    draw(jobs)
    command = f"snakemake --cores {options.cores} {' '.join(TARGETS)}"
    introduction = (
        f"Written by `python benchmarks/demo.py`: `{command}` on a fresh clone, {len(jobs)} jobs. First run "
        f"{first / 60:.1f} minutes ({used:.0f} CPU seconds), second run {second:.1f} s."
    )
    device = device_name("cpu", f"{options.cores} jobs at once")
    write_results("Demo", device, [introduction, by_rule(jobs), chain(jobs), SHOWN])


def run(folder: Path, cores: int) -> tuple[float, float]:
    """Wall and CPU seconds of the demo in a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *TARGETS]
    start, before = time.perf_counter(), _children()
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stdout + run.stderr)
    return time.perf_counter() - start, _children() - before


def jobs_of(folder: Path) -> list[Job]:
    """The jobs whose outputs lie in a folder, by when they began."""
    jobs: dict[tuple[str, ...], Job] = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text())
            key = (record["rule"], *record["log"])
            job = jobs.setdefault(key, Job(record["rule"], record["starttime"], record["endtime"]))
            job.inputs |= set(record["input"])
            job.outputs.add(output_of(path, folder / ".snakemake/metadata"))
    first = min(job.start for job in jobs.values())
    for job in jobs.values():
        job.start, job.end = job.start - first, job.end - first
    return sorted(jobs.values(), key=lambda job: job.start)


def output_of(record: Path, metadata: Path) -> str:
    """The file that a record is about; Snakemake names the record after it, long names in folders."""
    name = "".join(part.removeprefix("@") for part in record.relative_to(metadata).parts)
    return base64.b64decode(name).decode()


def critical_path(jobs: Sequence[Job]) -> list[Job]:
    """The chain of jobs, each waiting for an output of the one before, that takes longest."""
    maker = {output: job for job in jobs for output in job.outputs}
    best: dict[int, tuple[float, list[Job]]] = {}
    for job in sorted(jobs, key=lambda job: job.end):
        before = [best[id(maker[path])] for path in job.inputs if path in maker]
        length, chain = max(before, key=lambda found: found[0], default=(0.0, []))
        best[id(job)] = (length + job.seconds, [*chain, job])
    return max(best.values(), key=lambda found: found[0])[1]


def by_rule(jobs: Sequence[Job]) -> str:
    """A table of the rules that took longest, all their jobs together."""
    seconds = defaultdict(list)
    for job in jobs:
        seconds[job.rule].append(job.seconds)
    ordered = sorted(seconds.items(), key=lambda entry: -sum(entry[1]))
    total = sum(map(sum, seconds.values()))
    lines = ["| rule | jobs | seconds, all jobs | share |", "|---|---|---|---|"]
    lines += [f"| {rule} | {len(s)} | {sum(s):.0f} | {sum(s) / total:.0%} |" for rule, s in ordered[:LISTED]]
    rest = [value for _, values in ordered[LISTED:] for value in values]
    lines.append(f"| the rest | {len(rest)} | {sum(rest):.0f} | {sum(rest) / total:.0%} |")
    return "\n".join(lines)


def chain(jobs: Sequence[Job]) -> str:
    """The critical path in words."""
    path = critical_path(jobs)
    steps = " → ".join(f"{job.rule} {job.seconds:.0f} s" for job in path)
    seconds = sum(job.seconds for job in path)
    return (
        f"The longest chain of jobs that wait for each other takes {seconds:.0f} s of the "
        f"{jobs_end(jobs):.0f} s: {steps}. With more cores the demo could not take less."
    )


def jobs_end(jobs: Sequence[Job]) -> float:
    """When the last job ended, in seconds."""
    return max(job.end for job in jobs)


def lanes(jobs: Sequence[Job]) -> list[int]:
    """For every job the first lane that is free when it begins."""
    ends: list[float] = []
    found = []
    for job in jobs:
        lane = next((lane for lane, end in enumerate(ends) if end <= job.start), len(ends))
        ends[lane : lane + 1] = [job.end]
        found.append(lane)
    return found


@style()
def draw(jobs: Sequence[Job]) -> None:
    """Draw when every job ran, with the critical path outlined, and what the rules took together."""
    on_path = set(map(id, critical_path(jobs)))
    seconds = defaultdict(float)
    for job in jobs:
        seconds[job.rule] += job.seconds
    ranked = sorted(seconds, key=seconds.__getitem__, reverse=True)
    palette = mpl.colormaps["tab20"]
    colour = {rule: palette(place) if place < COLOURED else "0.8" for place, rule in enumerate(ranked)}
    figure, axes = panel_grid(2, 1, 8, 2.2, gridspec_kw={"height_ratios": [1, 1.2]})
    when, total = axes[:, 0]
    for job, lane in zip(jobs, lanes(jobs), strict=True):
        critical = id(job) in on_path
        edge = {"edgecolor": "black", "linewidth": 1.2, "zorder": 2} if critical else {"linewidth": 0}
        when.barh(lane, job.seconds, 0.8, job.start, color=colour[job.rule], **edge)
    when.set(xlabel="seconds since the first job began", ylabel="job at a time", yticks=[])
    when.set_title("Every job; outlined: the longest chain of jobs that wait for one another", loc="left")
    shown = ranked[:COLOURED]
    total.bar(shown, [seconds[rule] for rule in shown], color=[colour[rule] for rule in shown])
    total.set(ylabel="seconds, all jobs")
    total.tick_params(axis="x", rotation=30)
    when.legend([Patch(color="0.8")], ["all other rules"], loc="upper right", bbox_to_anchor=(1, 1.25))
    save_figure(figure, FIGURE)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
