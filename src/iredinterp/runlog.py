"""The log of one job: what it did, what it warned of, and why it failed."""

import errno
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from iredinterp.errors import IredInterpError

Item = TypeVar("Item")
log = logging.getLogger(__name__)


@contextmanager
def run_log(path: str | Path, threads: int | None = None) -> Iterator[None]:
    """Send logging and warnings to a file while a job runs.

    Args:
        path: the log file; written anew, its folder is created.
        threads: how many CPU threads torch may use; its own default if None.

    Raises:
        SystemExit: the job raised one of our errors or the disk is full; the log and stderr say which.
        Exception: whatever else the job raised, once its traceback is in the log.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_is_news)
    with closing(handler), _root_logs_to(handler), warnings.catch_warnings():
        warnings.showwarning = _log_warning
        try:
            if threads is not None:
                _limit_threads(threads)
            yield
        except Exception as error:
            if not (message := _message(error)):
                log.exception("the job failed")
                raise
            log.error("%s", message)
            print(message, file=sys.stderr)
            raise SystemExit(1) from error


def progress(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Pass items on and show how far the work is: a bar on a terminal, else a log line per tenth.

    Args:
        iterable: what to work through.
        description: what is being done.
        total: number of items; `len(iterable)` where it has one. Without either only the end is logged.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        yield from tqdm(iterable, description, total)
        return
    done = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        if total and 10 * done // total > 10 * (done - 1) // total:
            log.info("%s: %d %% (%d of %d)", description, 100 * done // total, done, total)
    if not total:
        log.info("%s: %d done", description, done)


@contextmanager
def _root_logs_to(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def _limit_threads(threads: int) -> None:
    # A job that has not imported torch by now does not compute with it, and need not wait for it.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _message(error: Exception) -> str:
    """What to tell of an error that is not the code's fault; empty where it may be."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename}: the disk is full ({error.strerror}); free some space and run again"
    return str(error) if isinstance(error, IredInterpError) else ""


def _is_news(record: logging.LogRecord) -> bool:
    """FontTools tells at level INFO of every glyph that it puts into a PDF."""
    return record.levelno > logging.INFO or not record.name.startswith("fontTools")


def _log_warning(message, category, filename, lineno, file=None, line=None) -> None:
    log.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
