"""The program: its commands, and how errors end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from iredinterp.cli.cluster import cluster
from iredinterp.cli.diff import diff
from iredinterp.cli.doctor import doctor
from iredinterp.cli.inspect import inspect
from iredinterp.cli.sae import sae
from iredinterp.cli.sample import sample
from iredinterp.cli.status import status
from iredinterp.cli.tables import tables
from iredinterp.errors import IredInterpError


class Failure(click.ClickException):
    """One of our errors, as the command line tells it; the exit status is 1."""

    def show(self, file=None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class Program(click.Group):
    """A group that tells our errors, and files that cannot be used, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IredInterpError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.filename is None:
                raise
            raise Failure(f"{error.filename}: {error.strerror}") from error


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="iredinterp")
def program() -> None:
    """What do the energy landscapes of an IRED checkpoint know?"""


for command in (cluster, diff, doctor, inspect, sae, sample, status, tables):
    program.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: its words; those of this process if None.

    Returns:
        The exit status: 0, or 1 after an error, of which one line is printed.

    Raises:
        SystemExit: the words are no command; the status is 2.
    """
    words = None if arguments is None else list(arguments)
    try:
        return program.main(words, prog_name="iredinterp", standalone_mode=False) or 0
    except click.NoSuchOption as error:
        error.message = f"unrecognized arguments: {error.option_name}"
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
