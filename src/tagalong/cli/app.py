"""The command `tagalong`: finds the subcommand, and turns errors into a line and a status."""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import click

from tagalong import __version__
from tagalong._lazy import loading, module_when_used
from tagalong.cli.failure import error_line, failure_json, wants_json
from tagalong.cli.output import ONLY_REPORT_LOST, REPORT_LOST, ReportStream, guarded_streams
from tagalong.control.interrupted import Interrupted
from tagalong.errors import HostError, OutputError, TagalongError

if TYPE_CHECKING:
    import difflib
else:
    difflib = module_when_used("difflib")

_SECTIONS = {
    "Run and move VMs": {
        "run": "Run a VM.",
        "restore": "Run a VM from a snapshot.",
        "migrate": "Move a running VM.",
        "beside": "Run another VMM, and carry its guest's tags.",
    },
    "Control a VM": {
        "status": "Show what a VM is doing.",
        "stop": "Pause a VM.",
        "cont": "Let a paused VM run.",
        "cancel": "Cancel a migration, a snapshot or a dump.",
        "events": "Print a VM's events as they happen.",
        "quit": "End a VM's process.",
    },
    "Save VMs and look at what was saved": {
        "snapshot": "Save a VM to a file, with its tags.",
        "dump": "Write a core for debuggers, of a VM or a snapshot.",
        "convert": "Make a core of a file that QEMU saved a guest to.",
        "info": "Show what is in a core.",
        "tags": "Print allocation tags of a core.",
        "scan": "Explain many crashes, and group what is alike.",
        "map": "Draw the tags of a core.",
        "diff": "Say where two cores differ, in data and tags.",
        "check": "Say what gdb, lldb and drgn show of a core.",
        "explain": "Say what happened, from a crash with tags.",
    },
    "Try things": {
        "demo": "Migrate a guest between two processes and ask it how it is.",
        "access": "Compare the ways for a VMM to touch tagged memory.",
        "race": "Explore what a VMM reads while the guest changes tags.",
        "guest": "Get a Linux guest to try things with.",
        "probe": "Say what this host can do.",
        "lab": "Run commands on an emulated Arm host with KVM and MTE.",
        "help": "Show the help of a command.",
    },
}
_COMMANDS = tuple(name for section in _SECTIONS.values() for name in section)

# They act first and report then. The others have done nothing, or nothing that stays.
_ACTING = frozenset({"migrate", "stop", "cont", "cancel", "quit", "snapshot", "dump", "convert"})

_INTERRUPTED = 128 + 2

_EPILOG = """\b
Examples:
  Migrate a guest between two processes and see that its tags came along:
    tagalong demo
\b
  Run a guest, wait for it elsewhere, move it there; each VM is a process:
    tagalong run --guest churn --control a.sock > a.console &
    tagalong run --incoming tcp:127.0.0.1:4444 --control b.sock > b.console &
    tagalong migrate a.sock tcp:127.0.0.1:4444 --verify
    tagalong status b.sock
\b
  Save a running guest with its tags, continue from there, dump it:
    tagalong snapshot b.sock vm.core --live
    tagalong restore vm.core --control c.sock > c.console &
    tagalong dump vm.core user.core --space user
\b
  Look into a snapshot, a dump, or a core that Linux wrote:
    tagalong info vm.core
    tagalong tags vm.core 0x40268000+4K
    tagalong check vm.core
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
        with loading():
            module = importlib.import_module(f"tagalong.cli.{cmd_name}")
        return cast("click.Command", module.command)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 (click's name)
        formatter: click.HelpFormatter,
    ) -> None:
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([*commands.items()], col_max=10)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            ctx.fail(unknown_command(name))
        return super().resolve_command(ctx, args)


def unknown_command(name: str) -> str:
    """Return what to say about a command that does not exist."""
    close = difflib.get_close_matches(name, _COMMANDS, n=2)
    if close:
        return f"no command is named {name!r}; did you mean {' or '.join(close)}?"
    return f"no command is named {name!r}; there are {', '.join(_COMMANDS)}"


@click.group(
    cls=_Subcommands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def tagalong() -> None:
    """Run, live-migrate, save and dump Arm MTE guests with their allocation tags."""


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: this process's) and return the status."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if isinstance(sys.stdout, ReportStream):
        sys.stdout.loss = ONLY_REPORT_LOST if _acts(given) else REPORT_LOST
    try:
        status = tagalong.main(args=given, prog_name="tagalong", standalone_mode=False)
    except click.ClickException as error:
        _say_usage(error)
        return _failed(error, given)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Interrupted as interruption:
        _say(f"tagalong: {interruption}", interruption)
        return _failed(interruption, given)
    except TagalongError as error:
        _say(error_line(error), error)
        return _failed(error, given)
    except MemoryError:
        # A traceback would end with status 1, which to a script means differences.
        lack = HostError("the host has too little memory for this")
        _say(error_line(lack), lack)
        return _failed(lack, given)
    return status if isinstance(status, int) else 0


def _acts(arguments: Sequence[str]) -> bool:
    """Return whether a command line changes a VM or a file, and then reports that it has."""
    return bool({*arguments[:1]} & _ACTING) and not {"-h", "--help"} & {*arguments}


def _say_usage(error: click.ClickException) -> None:
    """Print how the command is used, and what is wrong with how it was."""
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(context.get_usage(), err=True)
    click.echo(f"tagalong: error: {error.format_message()}", err=True)
    if context is not None:
        click.echo(f"Try '{context.command_path} --help' for help.", err=True)


def _say(line: str, error: BaseException) -> None:
    """Print `line` and the notes that were added to `error` on its way up."""
    for text in (line, *getattr(error, "__notes__", ())):
        click.echo(text, err=True)


def _failed(
    error: click.ClickException | Interrupted | TagalongError, arguments: Sequence[str]
) -> int:
    """Print the failure for a script that asked for JSON; return the exit status."""
    if wants_json(arguments):
        # If standard output is what failed, the message is on standard error all the same.
        with contextlib.suppress(OutputError):
            click.echo(failure_json(error))
    return error.exit_code


def main() -> None:
    """Be the process `tagalong`."""
    # numpy would start a thread per core for linear algebra, which no command does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with guarded_streams():
        status = invoke()
    sys.exit(status)
