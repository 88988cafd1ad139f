"""The login node's side: start Snakemake, know how it fares, settle the jobs of one that was killed.

Everything here happens in the current folder, which is the project's.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from iredinterp.errors import ClusterError
from iredinterp.files import atomic_file

RECORD = Path("logs/cluster.json")
LOG = Path("logs/cluster.log")
PROFILE = "profiles/slurm"
PREFIX = "iredinterp"  # slurm-jobname-prefix of that profile
INCOMPLETE = ".snakemake/incomplete"
# What tells of a failure in the log, with the line after a colon, and where to read more.
FAILURE = re.compile(
    r"^\s*(?:\S*(?:Error|Exception)\b(?:.*:\n.*|.*)|log: .*\(check log.*|error: .*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """The record of the last run of Snakemake that was started in this folder.

    Attributes:
        by: who started it, user@host; elsewhere, or for others, its processes cannot be seen.
        options: of Snakemake.
        targets: likewise.
        processes: pid and start of the one that looks after it and then, once it runs, of Snakemake.
        status: of Snakemake at its end; None while it runs, and for ever if both were killed.
    """

    by: str
    options: list[str]
    targets: list[str]
    processes: list[list[int]]
    status: int | None = None

    @classmethod
    def last(cls) -> Run | None:
        """The run on record, if there was one."""
        try:
            return cls(**json.loads(RECORD.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ClusterError(f"{RECORD}: damaged ({error}); if no Snakemake runs here, delete it") from None

    def save(self) -> Run:
        with atomic_file(RECORD) as file:
            file.write(json.dumps(asdict(self)).encode())
        return self

    @property
    def alive(self) -> bool:
        """Whether it goes on.

        Raises:
            ClusterError: it cannot be told here, since another user or another login node started it.
        """
        if self.status is None and self.by != whoami():
            raise ClusterError(
                f"the last run was started by {self.by}, and {whoami()} cannot see whether it goes on; ask "
                f"there, or if it is gone for good, delete {RECORD} and run snakemake --unlock"
            )
        return self.status is None and any(started_at(pid) == start >= 0 for pid, start in self.processes)

    @property
    def killed(self) -> bool:
        """Whether, no longer alive, it had no chance to unlock the folder."""
        return len(self.processes) < 2 or self.status is None or self.status < 0

    def __str__(self) -> str:
        name = f"run of {shlex.join(self.targets) or 'all'}"
        if self.alive:
            waiting = "" if len(self.processes) > 1 else ", not yet submitting"
            return f"{name}: alive{waiting} (process {self.processes[-1][0]} of {self.by})"
        if len(self.processes) < 2:
            return f"{name}: stopped before Snakemake began; submit again to go on"
        if self.killed:
            return f"{name}: was killed; submit again to go on"
        return f"{name}: ended with status {self.status}"


@dataclass(frozen=True)
class Job:
    """A job of this folder, as the scheduler knows it."""

    id: str
    state: str


def start(targets: Sequence[str], options: Sequence[str], orphans: str) -> Run:
    """Snakemake on the cluster, detached from this connection.

    Args:
        targets: of Snakemake.
        options: of Snakemake, beside the profile.
        orphans: `wait` for the jobs that a killed run left behind, or `cancel` them.

    Raises:
        ClusterError: the last run is still alive.
    """
    check_words(os.getcwd(), [*targets, *options])
    with starting_alone():
        last = refuse_if_alive()
        unlock = ["--unlock"] if last and last.killed else []
        command = [*here(), "run", "--orphans", orphans, *unlock, *targets, "--", *options]
        with LOG.open("wb") as log:
            process = subprocess.Popen(
                command,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        run = Run(whoami(), list(options), list(targets), [identity(process.pid)]).save()
        # Nothing happens that is not on record.
        try:
            process.stdin.write(b"recorded\n")
            process.stdin.close()
        except BrokenPipeError:
            raise ClusterError(f"it did not start; {LOG}: {log_text()[-300:].strip()}") from None
    return run


def run(targets: Sequence[str], options: Sequence[str], orphans: str, unlock: bool) -> int:
    """What `start` detaches: orphans first, then Snakemake.

    Returns:
        Snakemake's status.
    """
    if not sys.stdin.readline():
        raise ClusterError("whoever started this was gone before it was on record; submit again")
    settle(orphans)
    if unlock and subprocess.run(snakemake([], [*options, "--unlock"]), stdin=subprocess.DEVNULL).returncode:
        raise ClusterError("the lock of the killed run could not be removed, see above")
    process = subprocess.Popen(snakemake(targets, options), stdin=subprocess.DEVNULL)
    record = Run.last()
    record = replace(record, processes=[*record.processes, identity(process.pid)]).save()
    return replace(record, status=process.wait()).save().status


def refuse_if_alive() -> Run | None:
    """The last run, which has ended.

    Raises:
        ClusterError: it has not.
    """
    last = Run.last()
    if last and last.alive:
        raise ClusterError(
            f"{last}; wait for its end, or stop it and its jobs with: kill -INT {last.processes[-1][0]}"
        )
    return last


def settle(how: str, pause: float = 5) -> None:
    """Return when no job of this folder is left.

    Args:
        how: `wait` until they end by themselves, or `cancel` them, and wait until they are gone.
        pause: seconds between two questions to the scheduler.

    Raises:
        ClusterError: the scheduler does not answer.
    """
    left = jobs()
    if left and how == "cancel":
        scheduler("scancel", *(job.id for job in left))
    known = []
    while left:
        if left != known:
            print(f"waiting for {described(left)} of an earlier run", flush=True)
        known = left
        time.sleep(pause)
        left = jobs()


def jobs(*selection: str) -> list[Job]:
    """The user's jobs that Snakemake submitted from this folder.

    Args:
        selection: options of squeue; without any, jobs that have not ended.
    """
    folder_here = os.path.realpath(".")
    found = []
    records = scheduler("squeue", "--me", "--noheader", "--format", "%i|%T|%j|%Z", *selection)
    for record in records.splitlines():
        # The folder comes last, for it may hold anything.
        job, state, name, folder = record.split("|", 3)
        if name.startswith(PREFIX) and os.path.realpath(folder) == folder_here:
            found.append(Job(job, state))
    return found


def described(found: Sequence[Job]) -> str:
    """Such as "3 jobs (2 pending, 1 running)"."""
    if not found:
        return "no job"
    states = ", ".join(f"{n} {state.lower()}" for state, n in Counter(job.state for job in found).items())
    return f"{len(found)} {'job' if len(found) == 1 else 'jobs'} ({states})"


def status() -> Iterator[str]:
    """Lines that say how the last run fares, what is still to do, and what failed."""
    last = Run.last()
    options = last.options if last else []
    try:
        yield str(last) if last else "nothing was submitted to this folder yet"
    except ClusterError as error:
        yield str(error)
    targets = [[name] for name in experiments()]
    if last and last.targets not in targets:
        targets.insert(0, last.targets)
    with ThreadPoolExecutor() as pool:
        for target, answer in zip(targets, pool.map(lambda each: to_do(each, options), targets), strict=True):
            yield f"  {shlex.join(target) or 'all'}: {answer}"
    yield f"scheduler: {described(jobs('--states=all'))}"
    if failed := failures(log_text()):
        yield f"what failed last, of {LOG}:"
        yield from (f"  {failure}" for failure in failed[-8:])


def failures(text: str) -> list[str]:
    """A line for everything in an output of Snakemake that tells of a failure."""
    return [" ".join(found.split())[:200] for found in FAILURE.findall(text)]


def experiments() -> list[str]:
    """The workflow's targets exp001, exp003, ..."""
    files = [Path("workflow/Snakefile"), *Path("workflow").glob("rules/*.smk")]
    text = "".join(path.read_text() for path in files if path.exists())
    return sorted(re.findall(r"^rule (exp\d+):", text, re.MULTILINE))


def to_do(targets: Sequence[str], options: Sequence[str]) -> str:
    """What a dry run says of some targets: `done`, or how many jobs there are to do."""
    command = snakemake(targets, [*options, "--dry-run", "--nolock"])
    answer = subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    output = answer.stdout + answer.stderr
    if answer.returncode:
        return f"unknown, since the dry run failed: {[*failures(output), output[-200:]][0]}"
    # The table is printed before the jobs and after them.
    counts = re.findall(r"^(\w+) +(\d+)$", output.rpartition("Job stats:")[2], re.MULTILINE)
    count = sum(int(count) for rule, count in counts if rule != "total" and rule not in targets)
    return f"{count} {'job' if count == 1 else 'jobs'} to do" if counts else "done"


def finished() -> list[str]:
    """Whole files in results/, relative to it: of no job that runs or was killed, and not temporary."""
    marks = {os.path.join(folder, name) for folder, _, names in os.walk(INCOMPLETE) for name in names}
    return sorted(
        os.path.relpath(path, "results")
        for folder, _, names in os.walk("results")
        for path in (Path(folder, name) for name in names if not name.startswith("."))
        if not any(mark(str(output)) in marks for output in (path, *path.parents))
    )


def mark(output: str) -> str:
    """Where Snakemake notes that a file or folder is being made.

    Source:
        snakemake/persistence/file.py, `_record_path`: base64, cut into folders where too long for a name.
    """
    name = urlsafe_b64encode(output.encode()).decode()
    size = os.pathconf(".", "PC_NAME_MAX") - 1
    *folders, last = [name[i : i + size] for i in range(0, len(name), size)]
    return os.path.join(INCOMPLETE, *(f"@{part}" for part in folders), last)


def snakemake(targets: Sequence[str], options: Sequence[str]) -> list[str]:
    profile = ["--workflow-profile", PROFILE]
    return [sys.executable, "-m", "snakemake", *profile, *options, "--", *targets]


def here() -> list[str]:
    return [sys.executable, "-m", "iredinterp", "cluster"]


def environment() -> dict[str, str]:
    """That of an activated .venv, with this folder's own code."""
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.environ | {"PATH": path, "PYTHONPATH": os.path.abspath("src"), "PYTHONUNBUFFERED": "1"}


def check_words(folder: str, words: Sequence[str]) -> None:
    """Refuse what would be run, or broken, on its way to a job.

    Snakemake writes the command of a job as a line of shell, with the folder unquoted and other words as
    Python writes them, and the plugin for SLURM puts that between double quotes in another one.

    Args:
        folder: of the project on the cluster.
        words: targets and options of Snakemake.

    Raises:
        ClusterError: names the folder or the word.

    Source:
        snakemake-interface-executor-plugins 9.4.0, `format_job_exec`; snakemake-executor-plugin-slurm 2.8.0,
        `run_job`.
    """
    if shlex.quote(folder) != folder:
        raise ClusterError(
            f"{folder!r}: the shell of a job would split, run or change this; use a folder with nothing but "
            "letters, digits and _ @ % + = : , . / - in its path"
        )
    for word in words:
        if set(word) & set("$`\\\n") or set(word) >= {"'", '"'}:
            raise ClusterError(
                f"{word!r}: the shell of a job would run or change this; write it without $, `, \\, line "
                "breaks, and quotes of both kinds"
            )


def scheduler(*command: str) -> str:
    """What a command of the scheduler prints.

    Raises:
        ClusterError: it fails, or there is no scheduler.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise ClusterError(f"{command[0]}: not found; is this a login node of a SLURM cluster?") from None
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"{command[0]}: {error.stderr.strip()}") from None


@contextlib.contextmanager
def starting_alone() -> Iterator[None]:
    """Two that start at the same time take turns, where the file system has locks."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def identity(pid: int) -> list[int]:
    """A process, told from a later one of the same pid."""
    return [pid, started_at(pid)]


def started_at(pid: int) -> int:
    """When a process began, in clock ticks after boot, or -1 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] == "Z" else int(fields[19])


def whoami() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def log_text() -> str:
    return LOG.read_text(errors="replace") if LOG.exists() else ""
