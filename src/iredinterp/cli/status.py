"""`iredinterp status`: how far the experiments of this folder are, by Snakemake's own records."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from iredinterp.cli.changes import changed_params
from iredinterp.cluster import login
from iredinterp.errors import ConfigError

OTHERS = ("planted", "verdicts")
LOGS = Path(".snakemake/log")
LOCKS = Path(".snakemake/locks")
BENCHMARKS = Path("logs/benchmarks")
# Worst first.
STATES = ("failed", "stale", "missing", "done")
ERROR = re.compile(r"^Error in rule \w+:\n((?: {4}.*\n)+)", re.MULTILINE)
UPSTREAM = "something that it is made from will be made anew"


@dataclass(frozen=True)
class File:
    """An output of the workflow.

    Attributes:
        path: relative to the project's folder.
        rule: that makes it.
        state: one of `STATES`.
        reason: why it is to be made again, or the log of the job that failed; else empty.
    """

    path: str
    rule: str
    state: str
    reason: str = ""


@click.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--configfile", multiple=True, type=click.Path(), help="Merged over config/config.yaml.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object, file by file.")
def status(targets, configfile, as_json) -> None:
    """Which experiments are done, stale, missing or failed.

    Of each TARGET, by default exp001 … exp010, planted and verdicts: its files by folder, what is still to be
    made by rule, upstream first, the log of what failed, and what the jobs of its rules took; at the end,
    which params changed. They hold a digest of the code that a job uses, so an edit of the library shows
    there too. Nothing is run. The workflow is read once per target, which takes some seconds each.
    """
    if not Path("workflow/Snakefile").is_file():
        raise ConfigError("no workflow/Snakefile here; run this in the project's folder")
    locked = LOCKS.is_dir() and any(LOCKS.iterdir())
    if locked and not as_json:
        click.echo("this folder is locked: a Snakemake runs here, or was killed (then: snakemake --unlock)")
    names = list(targets) or [*login.experiments(), *OTHERS]
    failures = failed_outputs()
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        dry_run = pool.submit(snakemake, ["--dry-run"], names, configfile)
        for name, answer in zip(names, pool.map(lambda name: summary(name, configfile), names), strict=True):
            if isinstance(answer, str):
                lines = [f"{name}: unknown, for Snakemake says: {answer}"]
                found[name] = {"state": "unknown", "reason": answer}
            else:
                order = rules_in_order(dry_run.result().stdout)
                files = in_order([judged(row, failures) for row in answer], order)
                lines = described(name, files)
                found[name] = {"state": state_of(files), "files": [asdict(file) for file in files]}
            if not as_json:
                click.echo("\n".join(lines))
    changed = changed_params(dry_run.result().stdout)
    if as_json:
        answer = {"locked": locked, "targets": found, "changed": changed}
        click.echo(json.dumps(answer, indent=1, ensure_ascii=False))
    elif changed:
        click.echo("\n    ".join(["params that changed:", *changed]))


def summary(target: str, configfiles: Sequence[str]) -> list[dict[str, str]] | str:
    """Snakemake's records of every file that a target needs; or why there are none."""
    answer = snakemake(["--summary"], [target], configfiles)
    if answer.returncode:
        said = answer.stdout + answer.stderr
        return [*login.failures(said), " ".join(said[-200:].split())][0]
    header, *rows = [line.split("\t") for line in answer.stdout.splitlines() if "\t" in line]
    return [dict(zip(header, row, strict=True)) for row in rows]


def rules_in_order(dry_run: str) -> list[str]:
    """The rules that are to run, upstream first, as a dry run counts them."""
    return re.findall(r"^(\w+) +\d+$", dry_run.rpartition("Job stats:")[2], re.MULTILINE)


def snakemake(
    mode: Sequence[str], targets: Sequence[str], configfiles: Sequence[str]
) -> subprocess.CompletedProcess:
    """Snakemake's answer to a question that runs nothing and takes no lock."""
    configured = ["--configfile", *configfiles] if configfiles else []
    command = [sys.executable, "-m", "snakemake", "--nolock", *mode, *configured, "--", *targets]
    return subprocess.run(
        command, env=login.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def failed_outputs() -> dict[str, str]:
    """The log of the job, by the output that it failed to make when last tried."""
    failed = {}
    for path in sorted(LOGS.glob("*.snakemake.log")):
        for block in ERROR.findall(path.read_text(errors="replace")):
            told = dict(re.findall(r"^ {4}(output|log): (.*)$", block, re.MULTILINE))
            log = told.get("log", "no log").removesuffix(" (check log file(s) for error details)")
            # A job begins its log anew; one that is younger than this failure is of a later try.
            if not Path(log).exists() or Path(log).stat().st_mtime <= path.stat().st_mtime:
                failed |= dict.fromkeys(told.get("output", "").split(", "), log)
    return failed


def judged(row: dict[str, str], failures: dict[str, str]) -> File:
    """The state of a file, from a row of the summary and the failures on record."""
    path, rule = row["output_file"], row["rule"]
    if row["plan"] == "no update":
        return File(path, rule, "done")
    if row["status"] != "missing":
        return File(path, rule, "stale", UPSTREAM if row["status"] == "ok" else row["status"])
    if path in failures:
        return File(path, rule, "failed", failures[path])
    return File(path, rule, "missing")


def in_order(files: Sequence[File], rules: Sequence[str]) -> list[File]:
    """Files by the place of their rule among those that are to run; what is done comes last."""
    place = {rule: number for number, rule in enumerate(rules)}
    return sorted(files, key=lambda file: place.get(file.rule, len(place)))


def state_of(files: Sequence[File]) -> str:
    """The state of a target: that of its worst file."""
    return min((file.state for file in files), key=STATES.index, default="done")


def described(name: str, files: Sequence[File]) -> Iterator[str]:
    """Lines about a target and its files, in the order in which they are to be made."""
    counts = Counter(file.state for file in files)
    state = state_of(files)
    yield f"{name}: {state}" + (f", {counts['done']} of {len(files)} files done" if state != "done" else "")
    folders = Counter("/".join(file.path.split("/")[:2]) for file in files)
    yield f"    files      {', '.join(f'{folder} ({count})' for folder, count in sorted(folders.items()))}"
    for each in STATES[:-1]:
        grouped = Counter((file.rule, file.reason) for file in files if file.state == each)
        for (rule, reason), count in grouped.items():
            plural = "file" if count == 1 else "files"
            yield f"    {each:<10} {rule}, {count} {plural}" + (f": {reason}" if reason else "")
    waiting = dict.fromkeys(file.rule for file in files if file.state != "done")
    if waiting:
        yield f"    waits for  {', '.join(waiting)}"
    if measured := resources({file.rule for file in files}):
        yield f"    measured   {measured}"


def resources(rules: set[str]) -> str:
    """What the jobs of some rules took when they last ran, for whichever target; empty if none ever did."""
    paths = [path for rule in rules for path in (BENCHMARKS / rule).rglob("*.jsonl")]
    paths += [path for rule in rules if (path := BENCHMARKS / f"{rule}.jsonl").is_file()]
    records = [json.loads(lines[-1]) for path in paths if (lines := path.read_text().splitlines())]
    if not records:
        return ""
    minutes = sum(record["s"] for record in records) / 60
    known = [record["max_rss"] for record in records if isinstance(record["max_rss"], int | float)]
    memory = f", at most {max(known):,.0f} MB" if known else ""
    return f"{len(records)} jobs of these rules, {minutes:.1f} minutes in all{memory}"
