"""`tagalong beside`: runs another VMM, and carries its guest's tags; and a demo of that."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from tagalong.beside.incoming import AwaitedTags
from tagalong.beside.process import BesideOptions, attach, run_beside
from tagalong.cli.beside_text import beside_demo_report
from tagalong.cli.message import announce
from tagalong.cli.output import queued_messages
from tagalong.cli.progress import migration_bar
from tagalong.cli.request_options import max_downtime_option
from tagalong.cli.values import FILE
from tagalong.control.interrupt import run_interruptible
from tagalong.errors import UsageError
from tagalong.migrate import TlsCredentials, parse_address
from tagalong.studies.beside import (
    BesideDemoObserver,
    BesideDemoOptions,
    QemuGuest,
    run_beside_demo,
)

_EPILOG = """\b
Examples:
  tagalong lab run --with-vmm --ram 3G -- tagalong beside demo
  tagalong beside --control a.sock -- qemu-system-aarch64 -accel kvm ...
  tagalong beside --control b --incoming unix:b.in -- ./vm -incoming defer
  tagalong migrate a.sock tcp:192.0.2.7:4455 --vmm-uri tcp:192.0.2.7:4444
"""


_DEMO_EPILOG = """\b
Examples:
  tagalong lab run --with-vmm --ram 3G -- tagalong beside demo
  tagalong lab run --with-vmm --ram 3G -- tagalong beside demo --drop-tags
\b
Exit status: 0 if the guest ran on at the last destination with no granule
wrong, 1 if not.
"""

# Where the lab has them (tagalong lab run --with-vmm).
_LAB_VMM = Path("/opt/vmm")


_ATTACH_EPILOG = """\b
Examples:
  tagalong beside attach --control a.sock 4711
"""

_F = TypeVar("_F", bound=Callable[..., Any])


def _options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Combine several of click's option decorators; --help lists them in this order."""

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_OPTIONS = _options(
    click.option("--control", type=FILE, required=True, help="QMP control socket to create."),
    click.option(
        "--incoming",
        metavar="URI",
        help="Wait for tags on tcp:HOST:PORT or unix:PATH; the guest is held until they are there.",
    ),
    click.option(
        "--tls-dir",
        "tls_folder",
        type=FILE,
        metavar="FOLDER",
        help="Take them over TLS only, with ca-cert.pem, server-cert.pem and server-key.pem.",
    ),
    click.option(
        "--tls-admit",
        "tls_admitted",
        multiple=True,
        metavar="NAME",
        help="Admit only a source whose certificate has this name; may be given again.",
    ),
)


class _RunsByDefault(click.Group):
    """A group in which `run` need not be said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word `run` before anything but a subcommand or a request for help."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunsByDefault, epilog=_EPILOG)
def command() -> None:
    """Run another VMM, such as QEMU, and carry its guest's tags.

    tagalong beside --control PATH [OPTIONS] -- VMM... is short for beside run.
    """


@command.command(context_settings={"allow_interspersed_args": False}, epilog=_EPILOG)
@_OPTIONS
@click.argument("vmm", metavar="-- VMM...", nargs=-1, required=True)
@click.pass_context
def run(
    context: click.Context,
    vmm: tuple[str, ...],
    control: Path,
    incoming: str | None,
    tls_folder: Path | None,
    tls_admitted: tuple[str, ...],
) -> None:
    """Run the command VMM, and carry its guest's tags.

    The guest gets tags (MTE) without the VMM knowing, and they move, are checked and arrive beside
    the VMM's own migration. The VMM is started as it is, under a small library. Exits with its
    status.
    """
    options = BesideOptions(control, _awaited(incoming, tls_folder, tls_admitted))
    with queued_messages():
        status = run_beside(vmm, options, announce)
    context.exit(status)


@command.command("attach", epilog=_ATTACH_EPILOG)
@_OPTIONS
@click.argument("pid", type=int)
@click.pass_context
def attach_to(
    context: click.Context,
    pid: int,
    control: Path,
    incoming: str | None,
    tls_folder: Path | None,
    tls_admitted: tuple[str, ...],
) -> None:
    """Be the process beside a VMM that runs: the one before has ended.

    PID is the VMM's, which tagalong beside has started with the same --control.
    """
    options = BesideOptions(control, _awaited(incoming, tls_folder, tls_admitted))
    with queued_messages():
        status = attach(pid, options, announce)
    context.exit(status)


def _awaited(
    incoming: str | None, tls_folder: Path | None, tls_admitted: tuple[str, ...]
) -> AwaitedTags | None:
    if incoming is None and (tls_folder is not None or tls_admitted):
        raise UsageError("--tls-dir and --tls-admit need --incoming: they are about who may send")
    if tls_admitted and tls_folder is None:
        raise UsageError("--tls-admit needs --tls-dir: it names certificates; give both")
    if incoming is None:
        return None
    parse_address(incoming)
    tls = TlsCredentials(tls_folder, admitted=tls_admitted) if tls_folder is not None else None
    return AwaitedTags(incoming, tls)


@command.command(epilog=_DEMO_EPILOG)
@click.option(
    "--vmm",
    "qemu",
    type=FILE,
    default=_LAB_VMM / "qemu",
    show_default=True,
    help="A qemu-system-aarch64 of any make.",
)
@click.option(
    "--kernel",
    type=FILE,
    default=_LAB_VMM / "Image",
    show_default=True,
    help="An arm64 Linux with MTE.",
)
@click.option(
    "--initrd",
    type=FILE,
    default=_LAB_VMM / "initrd",
    show_default=True,
    help="Its root, in which tagkeeper runs.",
)
@click.option("--ram", default="128M", show_default=True, metavar="SIZE", help="As QEMU's -m.")
@click.option("--vcpus", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--knobs", default="mib=8 rate=500", show_default=True, help="For tagkeeper.")
@click.option(
    "--migrations",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many, one after the other, each to a new QEMU.",
)
@max_downtime_option("max_downtime_ms")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away: the guest must notice.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def demo(
    context: click.Context,
    /,
    *,
    as_json: bool,
    migrations: int,
    max_downtime_ms: int,
    drop_tags: bool,
    **guest: Any,
) -> None:
    """Migrate a Linux guest of an unmodified QEMU with its tags, and ask it how it is.

    Needs /dev/kvm with MTE on arm64: the lab has it. In the guest, the process tagkeeper tags
    memory, checks all of it for ever and changes tags all the time.
    """
    options = BesideDemoOptions(QemuGuest(**guest), migrations, drop_tags, max_downtime_ms)
    with migration_bar() as show:
        observer = BesideDemoObserver(announce, show)
        report = run_interruptible(partial(run_beside_demo, options, observer))
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else beside_demo_report(report))
    context.exit(0 if report.succeeded else 1)
