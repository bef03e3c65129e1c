"""`tagalong lab`: an emulated Arm host with KVM and MTE, and commands inside it."""

import json
import os
import shlex
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, TypeVar

import click

from tagalong.cli.lab_setup import setup_bars, setup_report
from tagalong.cli.values import FILE, SIZE
from tagalong.control.interrupted import Interrupted
from tagalong.errors import OutputError
from tagalong.lab import (
    DEFAULT_KERNEL,
    KERNELS,
    EmulatorOptions,
    Lab,
    LabRequest,
    Streams,
    Terminal,
    default_folder,
    forget,
    set_up,
)
from tagalong.lab import run as run_in_lab
from tagalong.lab import shell as shell_in_lab

_EPILOG = """\b
Examples:
  tagalong lab setup
  tagalong lab run -- uname -a
  tagalong lab run --kernel 6.1 --timeout 60 -- python3 -m pytest tests/access
  tagalong lab shell
"""

_RUN_EPILOG = """\b
Examples:
  tagalong lab run -- tagalong run --guest selftest --control /tmp/c
  tagalong lab run --kernel 7.3 --smp 4 -- sh -c 'dmesg | grep -i kvm'
\b
Exit status: that of COMMAND, or 60 to 64 if the lab itself failed: 62 if the
machine was lost, 63 if the time was up. In these cases COMMAND has neither
passed nor failed.
"""

_RUN_TIMEOUT_S = 600.0
_SHELL_TIMEOUT_S = 12 * 3600.0

_F = TypeVar("_F", bound=Callable[..., Any])


def _options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Combine several of click's option decorators; --help lists them in this order."""

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_LAB_OPTIONS = _options(
    click.option("--kernel", metavar="VERSION|IMAGE", default=DEFAULT_KERNEL, show_default=True,
                 envvar="TAGALONG_LAB_KERNEL",
                 help=f"Linux {', '.join(KERNELS)} from Debian, or your own arm64 image."),
    click.option("--dir", "folder", type=FILE, envvar="TAGALONG_LAB_DIR",
                 help="The lab's folder. Default: in the user's cache."),
    click.option("--qemu", metavar="PROGRAM", envvar="TAGALONG_LAB_QEMU",
                 help="Your own qemu-system-aarch64, 8.0 or newer."),
    click.option("--rootfs", type=FILE, envvar="TAGALONG_LAB_ROOTFS",
                 help="Your own root file system: a folder or a tar archive with Python and "
                      "busybox for arm64."),
    click.option("--mirror", metavar="URI", envvar="TAGALONG_LAB_MIRROR",
                 help="A Debian mirror. Default: the mirror of this system's apt."),
    click.option("--with-guest", is_flag=True,
                 help="With the Linux guest of `tagalong guest fetch`, in /opt/guest."),
    click.option("--with-vmm", is_flag=True,
                 help="With QEMU for arm64 and a Linux guest inside, in /opt/vmm."),
)  # fmt: skip


def _machine_options(timeout_s: float) -> Callable[[_F], _F]:
    return _options(
        click.option("--ram", "ram_bytes", type=SIZE, metavar="SIZE", default="2G",
                     show_default=True, help="Memory of the emulated host."),
        click.option("--smp", "cpu_count", type=click.IntRange(min=1), default=2,
                     show_default=True, help="CPUs of the emulated host."),
        click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True),
                     metavar="SECONDS", default=timeout_s, show_default=True,
                     help="End the machine after this time."),
    )  # fmt: skip


@click.group(epilog=_EPILOG)
def command() -> None:
    """Run commands on an emulated Arm host with KVM and MTE.

    The host boots in seconds on any machine, from pieces that `setup` fetches without root.
    Each run starts from scratch, with the code of the current checkout.
    """


@command.command()
@_LAB_OPTIONS
@click.option(
    "--update",
    is_flag=True,
    help="Fetch all packages and kernels again, in their current versions.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the versions of the lab's pieces as JSON."
)
def setup(*, update: bool, as_json: bool, **values: Any) -> None:
    """Fetch, build and check the missing pieces of the lab."""
    request = _request(**values)
    if update:
        forget(request.folder)
    facts = _set_up(request).facts
    click.echo(json.dumps(facts, indent=2) if as_json else setup_report(facts))


@command.command(epilog=_RUN_EPILOG, context_settings={"allow_interspersed_args": False})
@_LAB_OPTIONS
@_machine_options(_RUN_TIMEOUT_S)
@click.option(
    "-i",
    "--stdin",
    "takes_input",
    is_flag=True,
    help="Pass on standard input. Default: COMMAND has empty input.",
)
@click.argument("arguments", metavar="-- COMMAND...", nargs=-1, required=True)
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    arguments: tuple[str, ...],
    takes_input: bool,
    **values: Any,
) -> None:
    """Boot, run COMMAND in the checkout's folder, and pass on its output and exit status.

    Sets the lab up first if a piece is missing.
    """
    options = _take_machine_options(values)
    lab = _set_up(_request(**values))
    with _signals("the machine was killed"), _exit_141_if_the_reader_leaves():
        streams = _streams(takes_input=takes_input)
        status = run_in_lab(lab.system, f"exec {shlex.join(arguments)}\n", options, streams)
    context.exit(status)


@command.command()
@_LAB_OPTIONS
@_machine_options(_SHELL_TIMEOUT_S)
@click.pass_context
def shell(context: click.Context, /, **values: Any) -> None:
    """Boot and open a shell inside.

    Ctrl-D or `exit` powers the machine off; Ctrl-] kills it at once. If standard input is
    not a terminal, it is run as a script, without a prompt.
    """
    options = _take_machine_options(values)
    lab = _set_up(_request(**values))
    with _signals("the machine was killed"), _exit_141_if_the_reader_leaves():
        if not sys.stdin.isatty():
            status = run_in_lab(lab.system, "exec sh", options, _streams(takes_input=True))
        else:
            with _raw_terminal() as terminal:
                status = shell_in_lab(lab.system, options, terminal)
    context.exit(status)


def _request(*, folder: Path | None, **values: Any) -> LabRequest:
    return LabRequest(folder=folder or default_folder(), **values)


def _take_machine_options(values: dict[str, Any]) -> EmulatorOptions:
    names = ("ram_bytes", "cpu_count", "timeout_s")
    return EmulatorOptions(**{name: values.pop(name) for name in names})


def _set_up(request: LabRequest) -> Lab:
    with _signals("complete pieces stay in the cache"), setup_bars() as observer:
        return set_up(request, observer)


def _streams(*, takes_input: bool) -> Streams:
    return Streams(
        _writer(sys.stdout.buffer),
        _writer(sys.stderr.buffer),
        sys.stdin.fileno() if takes_input else None,
    )


def _writer(stream: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write what the machine prints: {error.strerror}") from error

    return write


@contextmanager
def _signals(outcome: str) -> Iterator[None]:
    """Raise Interrupted at SIGTERM and SIGHUP, with the words `outcome`."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number, outcome)

    before = {number: signal.signal(number, interrupt) for number in
              (signal.SIGTERM, signal.SIGHUP)}  # fmt: skip
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _exit_141_if_the_reader_leaves() -> Iterator[None]:
    """End as a shell expects of a command whose output has lost its reader (SIGPIPE).

    The output here is that of a command that may run for ever, so without a reader the machine
    is killed; a report (cli.output) is just dropped.
    """
    try:
        yield
    except BrokenPipeError:
        raise click.exceptions.Exit(128 + signal.SIGPIPE) from None


@contextmanager
def _raw_terminal() -> Iterator[Terminal]:
    """Yield the terminal in raw mode: every key goes to the guest, Ctrl-C included."""
    descriptor = sys.stdin.fileno()
    columns, lines = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "dumb")
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield Terminal(descriptor, _writer(sys.stdout.buffer), columns, lines, kind)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
