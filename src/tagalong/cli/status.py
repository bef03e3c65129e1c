"""`tagalong status`: what a VM is doing."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.status_text import status_report
from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import vm_status

_EPILOG = """\b
Examples:
  tagalong status a.sock
  tagalong status a.sock --json | jq -r .status
"""


@click.command(epilog=_EPILOG)
@control_argument
@json_option()
def command(control: Path, *, as_json: bool) -> None:
    """Show what the VM with the control socket CONTROL is doing.

    That is its run state, by QMP's name, and its last migration and snapshot or dump.
    """
    status = run_interruptible(partial(vm_status, control))
    click.echo(json.dumps(status.to_json(), indent=2) if as_json else status_report(status))
