"""The laptop's side: push the project to a login node, start it, ask after it, fetch what is finished.

Local commands are lists of arguments. What ssh hands to the shell of the other side is a fixed script; folder
and arguments are its quoted positional parameters.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from iredinterp.cluster.login import check_words
from iredinterp.errors import ClusterError

CONFIGFILE = "config/config.yaml"
SBATCH = ("SBATCH_ACCOUNT", "SBATCH_QOS")  # of the laptop's environment, passed on
THERE = (".venv/bin/python", "-m", "iredinterp", "cluster")

# Before the first push there is no code that could be asked.
WHERE_SET_UP = """
    mkdir -p -- "$1" && cd -- "$1" && shift || exit
    [ ! -x .venv/bin/python ] || [ ! -e src/iredinterp/cluster ] || exec env PYTHONPATH=src "$@"
"""
# A linked .venv is its owner's business. make does nothing where the locked packages are installed.
SET_UP_FIRST = """
    cd -- "$1" && shift || exit
    [ -L .venv ] || make --silent setup || exit
    exec env PYTHONPATH=src "$@"
"""
SET_UP_BEFORE = """
    cd -- "$1" && shift || exit
    [ -x .venv/bin/python ] || { echo "nothing was submitted to $PWD yet" >&2; exit 1; }
    exec env PYTHONPATH=src "$@"
"""


@dataclass(frozen=True)
class Place:
    """A folder on another machine.

    Attributes:
        host: as ssh takes it, user@name or an alias of the ssh configuration.
        folder: absolute, or relative to the home there, then beginning with `./`.
        ssh: the command, with options.
    """

    host: str
    folder: str
    ssh: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, ssh_config: str | None = None) -> Place:
        """HOST:FOLDER.

        Raises:
            ClusterError: it is not of that form, or the host could be taken for an option.
        """
        host, _, folder = text.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", host):
            raise ClusterError(
                f"{text!r}: found the host {host!r}; write HOST:FOLDER, the host as in `ssh HOST`, of "
                "letters, digits, _ . @ and -, and not beginning with one of the last three"
            )
        folder = folder.removeprefix("~/")
        if folder in ("", "~") or not folder.isprintable():
            raise ClusterError(f"{text!r}: found the folder {folder!r}; write HOST:FOLDER, a folder for this")
        if not folder.startswith("/"):
            folder = f"./{folder}"
        options = ("-F", ssh_config) if ssh_config else ()
        return cls(host, folder, ("ssh", *options, "-o", "ServerAliveInterval=15"))

    def run(self, script: str, *arguments: str, show: bool = False) -> str:
        """What a script prints there.

        Args:
            script: for sh, with the folder as its first parameter.
            arguments: its other parameters.
            show: print it here as it comes, instead of returning it.

        Raises:
            ClusterError: there is no connection, or the script fails; with the host and what was said there.
        """
        command = shlex.join(["sh", "-c", script, "sh", self.folder, *arguments])
        return self._checked([*self.ssh, "--", self.host, command], show=show)

    def push(self, root: Path, files: Iterable[str]) -> None:
        """Copy files of a folder here to the folder there."""
        self._rsync(files, f"{root}/", f"{self.host}:{self.folder}/")

    def pull(self, root: Path, files: Iterable[str]) -> None:
        """Copy files of results/ there to results/ in a folder here; either may be a link to another disk."""
        self._rsync(files, f"{self.host}:{self.folder}/results/", f"{root}/results/")

    def _rsync(self, files: Iterable[str], source: str, destination: str) -> None:
        options = [
            *("--protect-args", "--rsh", shlex.join(self.ssh)),
            # A folder that is a link to another disk stays one.
            *("--times", "--perms", "--copy-links", "--no-implied-dirs", "--ignore-missing-args"),
            *("--compress", "--partial-dir=.rsync-partial", "--files-from=-", "--from0"),
        ]
        show = sys.stdout.isatty()
        if show:
            options.append("--info=progress2")
        self._checked(["rsync", *options, "--", source, destination], "\0".join(files), show)

    def _checked(self, command: Sequence[str], text: str = "", show: bool = False) -> str:
        try:
            answer = subprocess.run(
                command,
                input=text,
                stdout=None if show else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError:
            raise ClusterError(f"{command[0]}: not found; install it") from None
        said = answer.stderr.strip()
        if answer.returncode:
            said = said.removeprefix("error: ") or f"{command[0]} ended with status {answer.returncode}"
            raise ClusterError(f"{self.host}: {said}")
        if said:
            print(said, file=sys.stderr)
        return answer.stdout or ""


def submit(
    place: Place, targets: Sequence[str], configfile: str | None, orphans: str, options: Sequence[str]
) -> None:
    """Push what is committed and the checkpoints, and start Snakemake there.

    Args:
        place: the project's folder on a login node; made if need be.
        targets: of Snakemake.
        configfile: merged over config/config.yaml.
        orphans: `wait` for jobs that a killed run left behind, or `cancel` them.
        options: of Snakemake.

    Raises:
        ClusterError: something here is not committed, a run is alive there, or there is no connection.
    """
    options = [*(["--configfile", configfile] if configfile else []), *options]
    check_words(place.folder, [*targets, *options])
    root = repository()
    files = committed(root)
    place.run(WHERE_SET_UP, *THERE, "idle")
    place.push(root, dict.fromkeys([*files, *untracked(root, configfile)]))
    passed = [f"{name}={os.environ[name]}" for name in SBATCH if name in os.environ]
    command = [*THERE, "start", "--orphans", orphans, *targets, "--", *options]
    place.run(SET_UP_FIRST, *passed, *command, show=True)


def status(place: Place) -> None:
    """Print how the run there fares."""
    place.run(SET_UP_BEFORE, *THERE, "status", show=True)


def fetch(place: Place) -> int:
    """Bring the finished artifacts here; what was interrupted goes on where it stopped.

    Returns:
        How many are finished.
    """
    files = place.run(SET_UP_BEFORE, *THERE, "finished").split("\0")[:-1]
    if files:
        place.pull(repository(), files)
    return len(files)


def repository() -> Path:
    """The project's folder here."""
    root = Path(git(Path(), "rev-parse", "--show-toplevel").removesuffix("\n"))
    if not (root / "workflow/Snakefile").is_file():
        raise ClusterError(f"{root}: no workflow/Snakefile; run this in the project's folder")
    return root


def committed(root: Path) -> list[str]:
    """The files of HEAD, which are those of the folder; results are not pushed, even if one is committed.

    Raises:
        ClusterError: names the tracked files that were changed since.
    """
    changed = git(root, "diff", "--name-only", "-z", "HEAD", "--").split("\0")[:-1]
    if changed:
        raise ClusterError(
            f"not committed: {', '.join(changed)}; commit, so that what runs on the cluster can be had again"
        )
    return [name for name in git(root, "ls-files", "-z").split("\0")[:-1] if not name.startswith("results/")]


def untracked(root: Path, configfile: str | None) -> Iterator[str]:
    """What a run needs beside the committed files: its configuration, and what checkpoints it names.

    A path that leads out of the folder means the cluster's own file system, and nothing is pushed there.

    Raises:
        ClusterError: names the configuration that cannot be read.
    """
    config = {}
    for name in filter(None, (CONFIGFILE, configfile)):
        try:
            config = merged(config, yaml.safe_load((root / name).read_text()))
            paths = [name, *checkpoints(config)]
        except (OSError, yaml.YAMLError) as error:
            raise ClusterError(f"{name}: {error}") from None
        except (AttributeError, TypeError):
            raise ClusterError(f"{name}: not as config/README.md describes the configuration") from None
    for path in map(os.path.normpath, paths):
        outside = os.path.isabs(path) or path.split(os.sep)[0] in ("..", "results")
        if not outside and (root / path).is_file():
            yield path


def checkpoints(config: Mapping) -> list[str]:
    """The paths under `models`, one per training seed."""
    return [
        entry[key].replace("{seed}", str(seed))
        for entry in config["models"].values()
        for key in ("checkpoint", "permuted")
        if entry.get(key)
        for seed in entry.get("seeds") or [None]
    ]


def merged(config: Mapping, other: Mapping) -> dict:
    """One configuration over another, as Snakemake merges them."""
    both = {
        key: merged(config[key], value) if isinstance(config.get(key), Mapping) else value
        for key, value in other.items()
        if isinstance(value, Mapping)
    }
    return {**config, **other, **both}


def git(folder: Path, *arguments: str) -> str:
    try:
        run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise ClusterError("git: not found; install it") from None
    if run.returncode:
        raise ClusterError(f"git: {run.stderr.strip()}")
    return run.stdout
