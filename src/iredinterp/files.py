"""Writing files whole or not at all."""

import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` whole or not at all.

    Args:
        path: destination; its parent folders are created. A file already there survives any failure.

    Raises:
        OSError: the file cannot be written; names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        _remove_if_abandoned(leftover)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            # Some network file systems have no locks; there, what a killed writer leaves is left to the user.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _remove_if_abandoned(temporary: Path) -> None:
    """Remove what a killed writer left behind; one that still runs, here or on another node, holds a lock."""
    with suppress(OSError), temporary.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()
