"""The command line: `iredinterp cluster ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from iredinterp.cluster import laptop, login
from iredinterp.errors import IredInterpError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, or 1 after an error, of which one line is printed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows -- is Snakemake's.
    end = words.index("--") if "--" in words else len(words)
    chosen, rest = parser().parse_known_args(words[:end])
    chosen.options = words[end + 1 :]
    # argparse takes positional arguments in one stretch; targets may come after an option, too.
    if "targets" in chosen and not any(word.startswith("-") for word in rest):
        chosen.targets += rest
    elif rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return chosen.command(chosen) or 0
    except IredInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(
        prog="iredinterp", description="What do the energy landscapes of an IRED checkpoint know?"
    )
    rooms = program.add_subparsers(required=True, metavar="cluster")
    cluster = rooms.add_parser("cluster", help="the workflow on a SLURM cluster, over ssh and rsync")
    commands = cluster.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, help: str | None = None) -> argparse.ArgumentParser:
        # Without help it is not listed: submit, status and fetch call it there.
        listed = {"help": help} if help else {}
        added = commands.add_parser(name, description=help, allow_abbrev=False, **listed)
        added.set_defaults(command=run)
        return added

    def place(added: argparse.ArgumentParser, **how) -> None:
        added.add_argument("place", metavar="HOST:FOLDER", help="the project's folder on a login node", **how)
        added.add_argument("--ssh-config", metavar="FILE", help="instead of ~/.ssh/config")

    def snakemake(added: argparse.ArgumentParser) -> None:
        added.add_argument("targets", metavar="TARGET", nargs="*", help="of Snakemake; its options after --")
        added.add_argument(
            "--orphans",
            choices=("wait", "cancel"),
            default="wait",
            help="jobs that a killed run left: wait, and what they finish counts (default), or cancel them",
        )

    submit = command("submit", _submit, "push the committed project and its checkpoints, and start it there")
    place(submit)
    submit.add_argument("--configfile", metavar="FILE", help="merged over config/config.yaml")
    snakemake(submit)
    place(command("status", _status, "how it fares; without HOST:FOLDER, in this folder"), nargs="?")
    place(command("fetch", _fetch, "bring finished results here, and go on with what was interrupted"))
    orphans = command("orphans", _orphans, "on a login node: jobs of this folder that a killed run left")
    how = orphans.add_mutually_exclusive_group()
    how.add_argument("--wait", dest="how", action="store_const", const="wait", help="until they have ended")
    how.add_argument("--cancel", dest="how", action="store_const", const="cancel", help="and wait for that")
    snakemake(command("start", _start, "on a login node: what submit does there once all is pushed"))
    command("idle", lambda chosen: login.refuse_if_alive() and None)
    command("finished", _finished)
    run = command("run", _run)
    snakemake(run)
    run.add_argument("--unlock", action="store_true")
    return program


def _place(chosen: argparse.Namespace) -> laptop.Place:
    return laptop.Place.parse(chosen.place, chosen.ssh_config)


def _submit(chosen: argparse.Namespace) -> None:
    laptop.submit(_place(chosen), chosen.targets, chosen.configfile, chosen.orphans, chosen.options)


def _status(chosen: argparse.Namespace) -> None:
    if chosen.place:
        laptop.status(_place(chosen))
    else:
        for line in login.status():
            print(line, flush=True)


def _fetch(chosen: argparse.Namespace) -> None:
    print(f"{laptop.fetch(_place(chosen))} finished files are here, in results/")


def _orphans(chosen: argparse.Namespace) -> None:
    login.refuse_if_alive()
    if chosen.how:
        login.settle(chosen.how)
        print("no job of this folder is left; next: snakemake --unlock, and submit again")
    else:
        print(f"{login.described(login.jobs())} of this folder; --wait or --cancel")


def _start(chosen: argparse.Namespace) -> None:
    print(f"{login.start(chosen.targets, chosen.options, chosen.orphans)}; its log is {login.LOG}")


def _run(chosen: argparse.Namespace) -> int:
    return login.run(chosen.targets, chosen.options, chosen.orphans, chosen.unlock)


def _finished(chosen: argparse.Namespace) -> None:
    for path in login.finished():
        print(path, end="\0")


if __name__ == "__main__":
    sys.exit(main())
