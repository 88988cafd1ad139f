"""`iredinterp doctor`: whether this installation and this machine are sound."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import click

OK, NOTE, FAILED = "ok", "note", "FAILED"
LEAST_FREE = 1e9
SETUP = "make setup, or pip install -r requirements.lock"
# Of those with a known reason, what it is.
REASONS = {
    "numpy": "geomstats 2.8.0 and NumPy 2.5 do not go together",
    "torch": "results are compared and Hessians tuned on this version",
    "geomstats": "the bridge replaces parts of this version",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        state: `OK`, `NOTE` for what is no fault but worth knowing, or `FAILED`.
        name: of what was looked at.
        found: a version or a number.
        remedy: what to do, unless all is well.
    """

    state: str
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:<6}  {self.name:<22} {self.found}" + (f"; {self.remedy}" if self.remedy else "")


@click.command()
@click.pass_context
def doctor(ctx) -> None:
    """Packages, machine, and a second of arithmetic.

    Versions and known-bad combinations, GPU and driver, threads, disk, and calculations with known answers.

    The exit status is 1 if anything FAILED.
    """
    failed = 0
    for finding in (*packages(), *machine(), *arithmetic()):
        click.echo(str(finding))
        failed += finding.state == FAILED
    click.echo(f"{failed} FAILED" if failed else "all is well")
    ctx.exit(1 if failed else 0)


def packages() -> Iterator[Finding]:
    """Installed versions against those that this package requires."""
    from packaging.requirements import Requirement

    right = platform.python_version().startswith("3.11.")
    yield Finding(OK if right else FAILED, "python", platform.python_version(), "" if right else "use 3.11")
    try:
        needed = [Requirement(text) for text in requires("iredinterp") or []]
    except PackageNotFoundError:
        yield Finding(FAILED, "iredinterp", "is not installed, only on the path", "pip install --editable .")
        return
    for requirement in needed:
        extra = next((name for name in ("workflow", "reference") if _is_of(requirement, name)), None)
        if requirement.marker is None or extra:
            yield package(requirement.name, requirement.specifier, extra)


def package(name: str, specifier, extra: str | None = None) -> Finding:
    """Whether a package is there in a version that will do.

    Args:
        name: as on PyPI.
        specifier: `packaging.specifiers.SpecifierSet` of the versions that will do.
        extra: of this package that needs it; without one it is always needed.
    """
    try:
        found = version(name)
    except PackageNotFoundError:
        if extra:
            remedy = f"only `iredinterp[{extra}]` needs it: pip install {name}{specifier}"
            return Finding(NOTE, name, "is not installed", remedy)
        return Finding(FAILED, name, "is not installed", SETUP)
    if specifier.contains(found, prereleases=True):
        return Finding(OK, name, found)
    reason = f" ({REASONS[name]})" if name in REASONS else ""
    return Finding(FAILED, name, f"{found}, needed {specifier}{reason}", SETUP)


def machine() -> Iterator[Finding]:
    """GPU, driver, threads and disk."""
    yield gpu()
    yield from threads()
    free = shutil.disk_usage(".").free
    enough = free >= LEAST_FREE
    found = f"{free / 1e9:,.1f} GB free in this folder"
    yield Finding(OK if enough else FAILED, "disk", found, "" if enough else "free at least 1 GB")


def gpu() -> Finding:
    """What torch sees, beside what the driver sees."""
    import torch

    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        driver = "; ".join(answer.stdout.splitlines()) if answer.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        driver = ""
    if torch.cuda.is_available():
        return Finding(OK, "GPU", f"{torch.cuda.get_device_name()}, driver {driver or 'unknown'}")
    if driver:
        found = f"{driver}, but torch {torch.__version__} (CUDA: {torch.version.cuda}) sees none"
        return Finding(NOTE, "GPU", found, "see whether the driver is recent enough; the CPU will be used")
    return Finding(OK, "GPU", "none; the CPU will be used")


def threads() -> Iterator[Finding]:
    """Threads of OpenMP, torch and every BLAS that is loaded."""
    import numpy
    import torch
    from threadpoolctl import threadpool_info

    numpy.linalg.eigvalsh(numpy.eye(2))
    given = os.environ.get("OMP_NUM_THREADS")
    advice = "" if given == "1" else "jobs are the parallelism: export OMP_NUM_THREADS=1"
    yield Finding(OK if given == "1" else NOTE, "OMP_NUM_THREADS", given or "not set", advice)
    pools = {f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info()}
    yield Finding(OK, "threads", f"torch {torch.get_num_threads()}, {', '.join(sorted(pools))}")


def arithmetic() -> Iterator[Finding]:
    """Every self-test with its number."""
    from iredinterp.cli.selftests import SELFTESTS

    for name, test in SELFTESTS.items():
        yield judged(name, *test)


def judged(name: str, test: Callable[[], float], tolerance: float, meaning: str) -> Finding:
    """Whether a self-test's error is within its tolerance.

    Args:
        name: of what it tests.
        test: returns its error.
        tolerance: largest that is allowed.
        meaning: of the number.
    """
    remedy = f"reinstall ({SETUP}), then run make test and report what fails"
    start = time.perf_counter()
    try:
        error = float(test())
    except Exception as fault:  # whatever is broken in an installation, the other findings matter
        return Finding(FAILED, name, f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}", remedy)
    took = time.perf_counter() - start
    found = f"{meaning} {error:.1e}, allowed {tolerance:.0e} ({took:.2f} s)"
    return Finding(OK, name, found) if error <= tolerance else Finding(FAILED, name, found, remedy)


def _is_of(requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
