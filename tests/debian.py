"""Programs that tests need, from Debian's packages: installed where they are missing and this may be done."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

LOCK = Path(tempfile.gettempdir()) / "iredinterp-packages.lock"
INSTALLATION = 300  # seconds
# Daemons live where not every PATH leads.
os.environ["PATH"] += ":/usr/sbin:/sbin"


def lacking(packages: Mapping[str, str]) -> str:
    """Why a program is missing for good, or nothing; one process installs at a time, the others wait for it.

    Args:
        packages: the package of each program.
    """
    if not (reason := _missing(packages)):
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"{reason}, or run as root where apt-get can"
    with FileLock(LOCK):
        return _installed(packages) if _missing(packages) else ""


def _missing(packages: Mapping[str, str]) -> str:
    wanted = [program for program in packages if not shutil.which(program)]
    return f"lacks {', '.join(wanted)}; install {', '.join(_names(packages))}" if wanted else ""


def _names(packages: Mapping[str, str]) -> list[str]:
    return sorted({name for program, name in packages.items() if not shutil.which(program)})


def _installed(packages: Mapping[str, str]) -> str:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *_names(packages)]):
        run = subprocess.run(
            ["apt-get", *arguments], env=environment, capture_output=True, text=True, timeout=INSTALLATION
        )
    return f"{_missing(packages)}, which apt-get could not: {run.stderr}" if run.returncode else ""
