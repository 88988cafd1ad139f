"""`iredinterp cluster`: the workflow on a SLURM cluster."""

from __future__ import annotations

import click

from iredinterp.cluster import laptop, login


class SnakemakeCommand(click.Command):
    """A command that takes targets of Snakemake, and after `--` its options, which become `ctx.obj`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.obj = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- OPTIONS OF SNAKEMAKE]"]


PLACE = {"metavar": "HOST:FOLDER"}
ssh_config = click.option("--ssh-config", metavar="FILE", help="Instead of ~/.ssh/config.")
targets = click.argument("targets", metavar="[TARGET]...", nargs=-1)
orphans_option = click.option(
    "--orphans",
    type=click.Choice(["wait", "cancel"]),
    default="wait",
    show_default=True,
    help="Jobs that a killed run left: wait, and what they finish counts, or cancel them.",
)


@click.group()
def cluster() -> None:
    """The workflow on a SLURM cluster, over ssh and rsync.

    HOST:FOLDER is the project's folder on a login node, HOST as in `ssh HOST`.
    """


@cluster.command(cls=SnakemakeCommand)
@click.argument("place", **PLACE)
@targets
@ssh_config
@click.option("--configfile", metavar="FILE", help="Merged over config/config.yaml.")
@orphans_option
@click.pass_obj
def submit(options, place, targets, ssh_config, configfile, orphans) -> None:
    """Push the committed project and its checkpoints, and start it there."""
    laptop.submit(laptop.Place.parse(place, ssh_config), list(targets), configfile, orphans, options)


@cluster.command()
@click.argument("place", required=False, **PLACE)
@ssh_config
def status(place, ssh_config) -> None:
    """How it fares; without HOST:FOLDER, in this folder."""
    if place:
        laptop.status(laptop.Place.parse(place, ssh_config))
    else:
        for line in login.status():
            print(line, flush=True)


@cluster.command()
@click.argument("place", **PLACE)
@ssh_config
def fetch(place, ssh_config) -> None:
    """Bring finished results here, and go on with what was interrupted."""
    print(f"{laptop.fetch(laptop.Place.parse(place, ssh_config))} finished files are here, in results/")


@cluster.command()
@click.option("--wait", is_flag=True, help="Until they have ended.")
@click.option("--cancel", is_flag=True, help="Cancel them, and wait for that.")
def orphans(wait, cancel) -> None:
    """On a login node: jobs of this folder that a killed run left."""
    if wait and cancel:
        raise click.UsageError("--cancel: not allowed with --wait")
    login.refuse_if_alive()
    if wait or cancel:
        login.settle("wait" if wait else "cancel")
        print("no job of this folder is left; next: snakemake --unlock, and submit again")
    else:
        print(f"{login.described(login.jobs())} of this folder; --wait or --cancel")


@cluster.command(cls=SnakemakeCommand)
@targets
@orphans_option
@click.pass_obj
def start(options, targets, orphans) -> None:
    """On a login node: what submit does there once all is pushed."""
    print(f"{login.start(targets, options, orphans)}; its log is {login.LOG}")


# Not listed: submit, status and fetch call these there.
@cluster.command(hidden=True)
def idle() -> None:
    """Fail if the last run is alive."""
    login.refuse_if_alive()


@cluster.command(hidden=True)
def finished() -> None:
    """Whole files in results/, each with a NUL behind it."""
    for path in login.finished():
        print(path, end="\0")


@cluster.command(cls=SnakemakeCommand, hidden=True)
@targets
@orphans_option
@click.option("--unlock", is_flag=True)
@click.pass_context
def run(ctx, targets, orphans, unlock) -> None:
    """What start detaches."""
    ctx.exit(login.run(targets, ctx.obj, orphans, unlock))
