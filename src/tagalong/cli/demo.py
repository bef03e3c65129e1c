"""`tagalong demo`: one guest, two processes, one migration, and what the guest says of it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.demo_text import demo_report
from tagalong.cli.guest import fetch_guest
from tagalong.cli.message import announce
from tagalong.cli.options import access_option, machine_option
from tagalong.cli.progress import migration_bar
from tagalong.cli.request_options import max_downtime_option
from tagalong.cli.values import FILE, RAM_SIZE
from tagalong.control.interrupt import run_interruptible
from tagalong.errors import UsageError
from tagalong.studies.demo import (
    DemoGuest,
    DemoObserver,
    DemoOptions,
    churn_guest,
    linux_guest,
    run_demo,
)

_EPILOG = """\b
Examples:
  tagalong demo
  tagalong demo --ram 256M --vcpus 2 --json
  tagalong demo --guest linux
  tagalong demo --drop-tags     # the control experiment: fails, as it should
\b
Exit status: 0 if the guest ran on without a failure and the digests of both
sides were equal, 1 if not.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--guest",
    "guest_name",
    type=click.Choice(["churn", "linux"]),
    default="churn",
    show_default=True,
    help="What is migrated: a program of ours, or Debian's kernel with one.",
)
@click.option(
    "--kernel", type=FILE, metavar="FILE", help="The Linux guest's kernel. Default: fetched."
)
@click.option("--initrd", type=FILE, metavar="FILE", help="Its root, as `guest fetch` makes it.")
@click.option(
    "--ram",
    "ram_bytes",
    type=RAM_SIZE,
    metavar="SIZE",
    help="Guest RAM. Default: 64M; 256M for linux.",
)
@machine_option
@access_option
@click.option("--vcpus", "vcpu_count", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--guest-args",
    "guest_arguments",
    metavar='"K=V ..."',
    default="",
    help="Knobs of churn, or of tagkeeper in Linux.",
)
@max_downtime_option("max_downtime_ms")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away: the guest must notice.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    as_json: bool,
    guest_name: str,
    kernel: Path | None,
    initrd: Path | None,
    guest_arguments: str,
    **values: Any,
) -> None:
    """Migrate a guest that depends on its tags between two processes, and ask it how it is.

    The guest `churn` allocates, tags, writes, verifies and frees memory all the time, provokes
    tag faults, and reports the first thing that is not as it should be. In the guest `linux`,
    Debian's kernel, the program `tagkeeper` does so; it is fetched once (`tagalong guest fetch`).
    """
    if guest_name == "linux":
        guest = _linux(kernel, initrd, guest_arguments, values["vcpu_count"])
    elif kernel is not None or initrd is not None:
        raise UsageError("--kernel and --initrd are for --guest linux; leave them out")
    else:
        guest = churn_guest(guest_arguments, values["vcpu_count"])
    with migration_bar() as show:
        observer = DemoObserver(step=announce, progress=show)
        report = run_interruptible(partial(run_demo, DemoOptions(guest, **values), observer))
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else demo_report(report))
    context.exit(0 if report.succeeded else 1)


def _linux(kernel: Path | None, initrd: Path | None, arguments: str, vcpu_count: int) -> DemoGuest:
    if (kernel is None) != (initrd is None):
        raise UsageError("--kernel and --initrd belong together; give both, or none")
    if kernel is None or initrd is None:
        fetched = fetch_guest()
        kernel, initrd = fetched.kernel, fetched.initrd
    return linux_guest(kernel, initrd, arguments, vcpu_count)
