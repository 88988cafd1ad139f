"""A real SLURM of three nodes on this machine: installed if need be, started, shared between test workers, stopped."""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from debian import INSTALLATION, lacking

TEMPLATES = Path(__file__).parent
LAB = Path(tempfile.gettempdir()) / "iredinterp-slurm"
LOCK = LAB.with_suffix(".lock")
SYSTEM = Path("/etc/slurm")
CONFIGURATION = ("slurm.conf", "gres.conf")
NODES = ("cpu0", "gpu0", "gpu1")
GPUS = ("gpu0-0", "gpu0-1", "gpu0-2", "gpu0-3", "gpu1-0", "gpu1-1")
DAEMONS = ("slurmctld", *(f"slurmd-{node}" for node in NODES), "munged")
PORTS = (16817, 16820, 16821, 16822)
CLIENTS = ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo")
PACKAGES = dict.fromkeys(CLIENTS, "slurm-client")
PACKAGES |= {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd"}
START = 60  # seconds


class NoLabError(Exception):
    """Why there can be no scheduler on this machine."""


@contextlib.contextmanager
def shared_lab() -> Iterator[Path]:
    """The running scheduler's folder; the first user starts it and the last one stops it.

    Users are processes: every worker of a test run, and other test runs on the same machine.

    Raises:
        NoLabError: no scheduler can be had here; the message says what is missing.
    """
    if os.geteuid() != 0:
        raise NoLabError("needs root: /etc/slurm has to point at the test configuration")
    if "SLURM_CONF" in os.environ:
        raise NoLabError("found SLURM_CONF set; the tests do not touch a machine that belongs to a cluster")
    with LOCK.open("w") as lock:
        wait_until(lambda: joined(lock), "the scheduler is up", 2 * INSTALLATION + START)
        try:
            yield LAB
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop()


def joined(lock: TextIO) -> bool:
    """Whether the scheduler is up and this process one of its users; without any, it is started anew."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        install()
        stop()
        start()
    fcntl.flock(lock, fcntl.LOCK_SH)
    return running()


def install() -> None:
    if reason := lacking(PACKAGES):
        raise NoLabError(reason)


def start() -> None:
    """Daemons on a fresh state. Clients and jobs find the configuration in /etc/slurm alone, so it is linked there."""
    for name in CONFIGURATION:
        path = SYSTEM / name
        if (path.is_symlink() or path.exists()) and not is_ours(path):
            raise NoLabError(
                f"found another {path}; the tests do not touch a machine that belongs to a cluster"
            )
    if taken := [port for port in PORTS if is_taken(port)]:
        raise NoLabError(f"found ports {taken} taken")
    shutil.rmtree(LAB, ignore_errors=True)
    for name in ("etc", "run", "state", "log", "dev", *(f"spool/{node}" for node in NODES)):
        (LAB / name).mkdir(parents=True, mode=0o755)
    for name in GPUS:
        (LAB / "dev" / name).symlink_to("/dev/null")
    SYSTEM.mkdir(exist_ok=True)
    for name in CONFIGURATION:
        (LAB / "etc" / name).write_text((TEMPLATES / name).read_text().replace("@LAB@", str(LAB)))
        (SYSTEM / name).unlink(missing_ok=True)
        (SYSTEM / name).symlink_to(LAB / "etc" / name)
    key = LAB / "etc/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munged.seed"}
    options = [f"--{option}={LAB}/run/{name}" for option, name in files.items()]
    daemon("munged", f"--key-file={key}", f"--log-file={LAB}/log/munged.log", *options)
    daemon("slurmctld")
    for node in NODES:
        daemon("slurmd", "-N", node)
    try:
        wait_until(running, "its nodes are idle", START)
    except TimeoutError:
        print(logs())
        stop()
        raise


def daemon(*command: str) -> None:
    """It forks; a pipe that it inherits would never close."""
    subprocess.run(command, check=True, timeout=START, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def stop() -> None:
    """Jobs first, then daemons by their pid files, also those that a killed test run left behind."""
    if running():
        subprocess.run(["scancel", "--user=root"], timeout=START)
        wait_until(lambda: not client("squeue", "--noheader"), "no job is left", START)
    for name in DAEMONS:
        path = LAB / f"run/{name}.pid"
        if not path.exists():
            continue
        pid, command = int(path.read_text()), name.partition("-")[0]
        if is_alive(pid, command):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda pid=pid, command=command: not is_alive(pid, command), f"{name} has ended", START)
        path.unlink(missing_ok=True)
    for name in CONFIGURATION:
        if is_ours(SYSTEM / name):
            (SYSTEM / name).unlink()


def running() -> bool:
    states = client("sinfo", "--noheader", "--Node", "--format=%T").split()
    return len(states) == len(NODES) and set(states) <= {"idle", "mixed", "allocated", "completing"}


def client(*command: str) -> str:
    """What a command of the scheduler prints; nothing while there is none, or one that is not ours."""
    if not is_ours(SYSTEM / "slurm.conf"):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except subprocess.TimeoutExpired:
        return ""


def logs(lines: int = 40) -> str:
    """The ends of the daemons' logs."""
    parts = []
    for path in sorted((LAB / "log").glob("slurm*.log")):
        parts.append(f"--- {path.name}")
        parts.extend(path.read_text(errors="replace").splitlines()[-lines:])
    return "\n".join(parts)


def wait_until(condition, what: str, timeout: float, pause: float = 0.2) -> None:
    """Raises TimeoutError, saying what did not come about."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s in vain until {what}")
        time.sleep(pause)


def is_ours(path: Path) -> bool:
    return path.is_symlink() and path.resolve() == (LAB / "etc" / path.name).resolve()


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid: int, command: str) -> bool:
    """Whether the process is there and is this command; a zombie that nobody has reaped yet is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    name, _, rest = status.rpartition(")")
    return name.endswith(f"({command}") and rest.split()[0] != "Z"
