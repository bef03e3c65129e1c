"""`tagalong stop`: pauses a VM."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import stop_vm

_EPILOG = """\b
Examples:
  tagalong stop a.sock
"""


@click.command(epilog=_EPILOG)
@control_argument
@json_option()
def command(control: Path, *, as_json: bool) -> None:
    """Pause the guest of the VM with the control socket CONTROL.

    It stops between two instructions, with its clock; `tagalong cont` lets it run again.
    """
    state = run_interruptible(partial(stop_vm, control))
    click.echo(json.dumps({"status": state}) if as_json else f"The VM is {state}.")
