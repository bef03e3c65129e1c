"""The command `tagalong`: finds the subcommand, and turns errors into a line and a status."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import cast

import click

from tagalong import __version__
from tagalong.cli.text import error_line
from tagalong.control.interrupt import Interrupted
from tagalong.errors import TagalongError

_COMMANDS = (
    "access", "check", "demo", "dump", "info", "lab", "migrate", "probe", "race", "restore", "run",
    "snapshot", "tags",
)  # fmt: skip

_INTERRUPTED = 128 + 2

_EPILOG = """\b
Examples:
  Migrate a guest between two processes and see that its tags came along:
    tagalong demo
\b
  Run a guest, wait for it elsewhere, move it there:
    tagalong run --guest churn --control a.sock
    tagalong run --incoming tcp:127.0.0.1:4444 --control b.sock
    tagalong migrate a.sock tcp:127.0.0.1:4444 --verify
\b
  Save a running guest with its tags, go on from there, look at it in a debugger:
    tagalong snapshot a.sock vm.core --live
    tagalong restore vm.core --control c.sock
    tagalong dump vm.core kernel.core --space kernel
\b
  Look into a snapshot, a dump, or a core that Linux wrote:
    tagalong info vm.core
    tagalong tags vm.core 0x40268000+4K
    tagalong check vm.core
\b
  Look around in a running VM with QEMU's own tool:
    qmp-shell a.sock
\b
Exit status: 0 done, 1 done and differences found, 2 wrong usage,
10 to 99 by kind of error, 128+N ended by signal N.
"""


class _Subcommands(click.Group):
    """Loads a subcommand's module only when it is used: a VM starts without the rest."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's name)
        return [*_COMMANDS]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 (click's name)
        cmd_name: str,
    ) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"tagalong.cli.{cmd_name}")
        return cast("click.Command", module.command)


@click.group(
    cls=_Subcommands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def tagalong() -> None:
    """Run, live-migrate, save and dump Arm MTE guests with their allocation tags."""


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: this process's) and return the status."""
    try:
        status = tagalong.main(
            args=None if arguments is None else list(arguments),
            prog_name="tagalong",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Interrupted as interruption:
        _say(f"tagalong: {interruption}", interruption)
        return interruption.exit_code
    except TagalongError as error:
        _say(error_line(error), error)
        return error.exit_code
    return status if isinstance(status, int) else 0


def _say(line: str, error: BaseException) -> None:
    """Print `line` and the notes that were added to `error` on its way up."""
    for text in (line, *getattr(error, "__notes__", ())):
        click.echo(text, err=True)


def _finish_output() -> None:
    """Flush what is left; a reader that has gone away does not change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python flushes once more on its way out, and would exit with 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main() -> None:
    """Be the process `tagalong`."""
    status = invoke()
    _finish_output()
    sys.exit(status)
