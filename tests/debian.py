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
    with FileLock(LOCK):
        wanted = {program: name for program, name in packages.items() if not shutil.which(program)}
        if not wanted:
            return ""
        lacks = f"lacks {', '.join(wanted)}"
        names = sorted(set(wanted.values()))
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            return f"{lacks}; install {', '.join(names)}, or run as root where apt-get can"
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *names]):
            run = subprocess.run(
                ["apt-get", *arguments], env=environment, capture_output=True, text=True, timeout=INSTALLATION
            )
        return (
            f"{lacks}, and apt-get install {' '.join(names)} failed: {run.stderr}" if run.returncode else ""
        )
