"""`tagalong demo`: one guest, two processes, one migration, and what the guest says of it."""

import json
from functools import partial
from typing import Any

import click

from tagalong.cli.demo_text import demo_report
from tagalong.cli.message import announce
from tagalong.cli.options import access_option, machine_option, max_downtime_option
from tagalong.cli.progress import migration_bar
from tagalong.cli.values import RAM_SIZE
from tagalong.control.interrupt import run_interruptible
from tagalong.studies.demo import DemoObserver, DemoOptions, run_demo

_EPILOG = """\b
Examples:
  tagalong demo
  tagalong demo --ram 256M --vcpus 2 --json
  tagalong demo --drop-tags     # the control experiment: fails, as it should
\b
Exit status: 0 if the guest ran on without a failure and the digests of both
sides were equal, 1 if not.
"""


@click.command(epilog=_EPILOG)
@click.option("--ram", "ram_bytes", type=RAM_SIZE, metavar="SIZE", default="64M", show_default=True)
@machine_option
@access_option
@click.option("--vcpus", "vcpu_count", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--guest-args", "guest_arguments", metavar='"K=V ..."', default="", help="For churn.")
@max_downtime_option("max_downtime_ms")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away: the guest must notice.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(context: click.Context, /, *, as_json: bool, **values: Any) -> None:
    """Migrate a guest that depends on its tags between two processes, and ask it how it is.

    The guest `churn` allocates, tags, writes, verifies and frees memory all the time, provokes
    tag faults, and reports the first thing that is not as it should be.
    """
    with migration_bar() as show:
        observer = DemoObserver(step=announce, progress=show)
        report = run_interruptible(partial(run_demo, DemoOptions(**values), observer))
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else demo_report(report))
    context.exit(0 if report.succeeded else 1)
