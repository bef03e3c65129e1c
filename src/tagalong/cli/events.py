"""`tagalong events`: a VM's events as they happen."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import follow_events
from tagalong.qapi.events import VmEvent

_EPILOG = """\b
Examples:
  tagalong events a.sock
  tagalong events a.sock --until SHUTDOWN
  tagalong events a.sock --json | jq -r .event
\b
Exit status: 0 when the VM's process ends, or at the event that --until names;
1 if the process ended without that event.
"""


@click.command(epilog=_EPILOG)
@control_argument
@click.option("--until", metavar="NAME", help="End after the first event of this name.")
@json_option("Print each event as a line of JSON.")
@click.pass_context
def command(context: click.Context, control: Path, *, until: str | None, as_json: bool) -> None:
    """Print the events of the VM with the control socket CONTROL, a line each.

    STOP, RESUME, SHUTDOWN, MIGRATION, MIGRATION_PASS, DUMP_COMPLETED: docs/guide/control.md.
    """

    def show(event: VmEvent) -> None:
        click.echo(json.dumps(event.to_json()) if as_json else event.to_line())

    seen = run_interruptible(partial(follow_events, control, show, until))
    context.exit(0 if seen or until is None else 1)
