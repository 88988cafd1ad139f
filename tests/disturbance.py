"""Runs of the workflow that are disturbed on purpose: killed, run twice at once, on a full disk."""

import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from project import MODEL, Project
from project import PROBLEMS as PROBLEM_SET

KINDS = ("Snakemake alone", "one of its jobs", "Snakemake and its jobs", "both, while a file is written")
PROBLEMS = f"results/problems/{PROBLEM_SET}.parquet"
POINTS = f"results/points/{MODEL}/trained/block-0.parquet"
GRADIENTS = f"results/gradients/{MODEL}/trained/block-0.parquet"
COMPETENCE = f"results/competence/{MODEL}.parquet"
DICTIONARY = f"results/sae/{MODEL}/trained/gradient/width-30/metrics.parquet"
# Six jobs: problems, points, gradients, competence, field, and autoencoders, whose training goes on when stopped.
WORKLOAD = (GRADIENTS, COMPETENCE, DICTIONARY)
SETTINGS = {"sae": {"fields": ["gradient"], "nulls": ["gaussian"]}}
PATIENCE = 300  # seconds that anything here may take


@dataclass(frozen=True)
class Trial:
    """One killed run and the run after it.

    Attributes:
        kind: what was killed, of `KINDS`; "nothing" where nothing was left to kill.
        moment: when, in seconds since the start of the killed run.
        rerun: seconds that the next run took.
        other_bytes: artifacts whose bytes differ from the undisturbed run's.
        complaints: what was lost or left behind.
    """

    kind: str
    moment: float
    rerun: float
    other_bytes: list[str]
    complaints: list[str]


@contextmanager
def started(project: Project, *arguments: str) -> Iterator[subprocess.Popen]:
    """Snakemake in a session of its own, of which nothing is left afterwards."""
    with (project.folder / "started.log").open("a") as output:
        run = subprocess.Popen(
            **project.process(*arguments), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield run
    finally:
        for process in of_session(run.pid):
            kill(process)
        run.wait()


def of_session(session: int) -> list[psutil.Process]:
    """Living processes of a session, the leader first."""
    return [process for process in psutil.process_iter() if is_alive_in(process, session)]


def is_alive_in(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def wait_until(condition: Callable[[], object], what: str, pause: float = 0.05) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE} s")
        time.sleep(pause)


def kill_as(kind: str, run: subprocess.Popen, project: Project, rng: np.random.Generator) -> str:
    """Send kill -9 as soon as there is something of this kind; says what was killed."""
    results = project.folder / "results"
    if kind == "one of its jobs":
        wait_until(lambda: over(run) or jobs_of(run), "a job starts")
    elif kind == "both, while a file is written":
        wait_until(lambda: over(run) or is_writing(results), "a file is written", 0)
    jobs = jobs_of(run)
    if over(run) or (kind == "one of its jobs" and not jobs):
        return "nothing"
    if kind == "one of its jobs":
        kill(jobs[rng.integers(len(jobs))])
    elif kind == "Snakemake alone":
        run.kill()
    else:
        os.killpg(run.pid, signal.SIGKILL)
    return kind


def is_writing(folder: Path) -> bool:
    """Whether there is a temporary file; folders may vanish while this looks."""
    return any(name.endswith(".tmp") for *_, names in os.walk(folder) for name in names)


def over(run: subprocess.Popen) -> bool:
    return run.poll() is not None


def jobs_of(run: subprocess.Popen) -> list[psutil.Process]:
    return [process for process in of_session(run.pid) if process.pid != run.pid]


def undisturbed_run(project: Project) -> tuple[float, dict[str, bytes]]:
    """Seconds that a run of `WORKLOAD` takes, and what it makes."""
    start = time.monotonic()
    project.snakemake(*WORKLOAD)
    return time.monotonic() - start, project.artifacts()


def killed_run(
    project: Project, undisturbed: dict[str, bytes], kind: str, moment: float, rng: np.random.Generator
) -> Trial:
    """Kill a run of `WORKLOAD` that starts from nothing, run it again, and compare what it made."""
    emptied(project)
    with started(project, *WORKLOAD) as run:
        start = time.monotonic()
        time.sleep(moment)
        killed = kill_as(kind, run, project, rng)
        moment = time.monotonic() - start
        run.wait(PATIENCE)
        wait_until(lambda: not of_session(run.pid), "orphaned jobs end")
    project.snakemake("--unlock", *WORKLOAD)
    start = time.monotonic()
    project.snakemake(*WORKLOAD)
    rerun = time.monotonic() - start
    found = project.artifacts()
    other = different(undisturbed, found)
    lost = [f"{name} is lost" for name in other if not same_values(found.get(name), undisturbed[name])]
    left = [f"{name} is left" for name in sorted(found.keys() - undisturbed.keys())]
    return Trial(killed, moment, rerun, other, lost + left)


def full_disk(project: Project, undisturbed: dict[str, bytes], rng: np.random.Generator) -> list[str]:
    """Let the disk run full at a random place of a file; complaints."""
    results = emptied(project).folder / "results"
    (size,) = map(len, of(undisturbed, POINTS).values())
    with small_disk(results, 1024):
        project.snakemake(PROBLEMS)
        ballast = fill(results, room=int(rng.integers(size - 1)))
        before = project.artifacts().keys()
        project.snakemake(POINTS, fails=True)
        left = sorted(project.artifacts().keys() - before)
        ballast.unlink()
        complaints = unlike(log_of(project, POINTS), f"{POINTS}: the disk is full")
        project.snakemake(POINTS)
        found = project.artifacts()
    left = [f"{name} is left" for name in left]
    return complaints + left + different(of(undisturbed, PROBLEMS, POINTS), found)


def damaged_inputs(project: Project, rng: np.random.Generator) -> list[str]:
    """Damage three inputs of one rule, each in its way, and make them again; complaints."""
    emptied(project).configure({"sampling": {"count": 6, "block": 2}, "points": {"kinds": ["q_sample"]}})
    points, gradients = ([path.replace("-0", f"-{i}") for i in range(3)] for path in (POINTS, GRADIENTS))
    project.snakemake(*points)
    undisturbed = project.artifacts()
    damages = [
        (lambda content: content[: rng.integers(len(content))], "not a whole Parquet file"),
        (
            lambda content: rewritten(content, lambda table: table.drop_columns(["t"])),
            "edited since it was written",
        ),
        (lambda content: rewritten(content, footer={"schema_version": 0}), "schema version found 0"),
    ]
    for path, (damage, _) in zip(points, damages, strict=True):
        file = project.folder / path
        file.write_bytes(damage(file.read_bytes()))
    project.snakemake("--keep-going", *gradients, fails=True)
    complaints = []
    for path, gradient, (_, message) in zip(points, gradients, damages, strict=True):
        complaints += unlike(log_of(project, gradient), path, message)
        (project.folder / path).unlink()
    project.snakemake(*gradients)
    return complaints + different(undisturbed, project.artifacts())


def two_runs(project: Project, undisturbed: dict[str, bytes]) -> list[str]:
    """Start a second run while one is going on; complaints."""
    locks = emptied(project).folder / ".snakemake/locks"
    with started(project, GRADIENTS) as first:
        wait_until(lambda: over(first) or any(locks.glob("*")), "the first run locks the folder")
        # Else it may be over before the second has read the workflow.
        os.killpg(first.pid, signal.SIGSTOP)
        refusal = project.snakemake(GRADIENTS, fails=True)
        os.killpg(first.pid, signal.SIGCONT)
        first.wait(PATIENCE)
    complaints = unlike(refusal, "Directory cannot be locked")
    complaints += [f"the first run ended with {first.returncode}"] if first.returncode else []
    return complaints + different(of(undisturbed, PROBLEMS, POINTS, GRADIENTS), project.artifacts())


def duplicates(project: Project, undisturbed: dict[str, bytes]) -> list[str]:
    """Run twice at once, past the lock, as jobs whose Snakemake was killed and those sent anew; complaints."""
    emptied(project)
    with started(project, "--nolock", GRADIENTS) as first, started(project, "--nolock", GRADIENTS) as second:
        first.wait(PATIENCE)
        second.wait(PATIENCE)
    found = project.artifacts()
    complaints = [f"{name} is damaged" for name in found if found[name] != undisturbed.get(name)]
    project.snakemake("--rerun-incomplete", GRADIENTS)
    return complaints + different(of(undisturbed, PROBLEMS, POINTS, GRADIENTS), project.artifacts())


def log_of(project: Project, path: str) -> str:
    """The log of the job that makes this file."""
    log = Path(path.replace("results", "logs", 1)).with_suffix(".log")
    return (project.folder / log).read_text()


def unlike(text: str, *parts: str) -> list[str]:
    """What such a message lacks, and a traceback where it has one."""
    missing = [f"no {part!r} in {text!r}" for part in parts if part not in text]
    return missing + ([f"a traceback: {text!r}"] if "Traceback" in text else [])


def of(artifacts: dict[str, bytes], *paths: str) -> dict[str, bytes]:
    """Those of the artifacts, by their paths in the project."""
    names = [path.removeprefix("results/") for path in paths]
    return {name: artifacts[name] for name in names}


def different(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Expected artifacts that are missing or have other bytes."""
    return [name for name, content in expected.items() if found.get(name) != content]


def same_values(found: bytes | None, expected: bytes) -> bool:
    """Whether both are Parquet of equal tables; any other file has no values but its bytes."""
    if found is None or not found.startswith(b"PAR1") or not expected.startswith(b"PAR1"):
        return found == expected
    return pq.read_table(io.BytesIO(found)).equals(pq.read_table(io.BytesIO(expected)))


def rewritten(content: bytes, edit: Callable = lambda table: table, footer: dict | None = None) -> bytes:
    """A table edited by hand: pyarrow alone, past our writer; the footer stays unless another is given."""
    table = pq.read_table(io.BytesIO(content))
    metadata = {**table.schema.metadata, **({b"iredinterp": json.dumps(footer)} if footer else {})}
    file = io.BytesIO()
    pq.write_table(edit(table).replace_schema_metadata(metadata), file)
    return file.getvalue()


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of this size at `folder`.

    Raises:
        PermissionError: only root may mount one, and not everywhere.
    """
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True)
    if result.returncode:
        raise PermissionError(f"no file system of {kilobytes} kB: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, room: int) -> Path:
    """Fill the disk of `folder` but for `room` bytes; deleting the returned file frees it again."""
    state = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - room))
    return ballast


def emptied(project: Project) -> Project:
    """The project as before its first run."""
    for name in ("results", "logs", ".snakemake"):
        shutil.rmtree(project.folder / name, ignore_errors=True)
    return project
