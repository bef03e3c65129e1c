"""`tagalong cont`: lets a paused VM run."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import continue_vm

_EPILOG = """\b
Examples:
  tagalong cont a.sock
"""


@click.command(epilog=_EPILOG)
@control_argument
@json_option()
def command(control: Path, *, as_json: bool) -> None:
    """Let the guest of the VM with the control socket CONTROL run."""
    state = run_interruptible(partial(continue_vm, control))
    click.echo(json.dumps({"status": state}) if as_json else f"The VM is {state}.")
