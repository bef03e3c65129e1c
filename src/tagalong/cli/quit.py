"""`tagalong quit`: ends a VM's process."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import quit_vm

_EPILOG = """\b
Examples:
  tagalong quit a.sock
"""


@click.command(epilog=_EPILOG)
@control_argument
@json_option()
def command(control: Path, *, as_json: bool) -> None:
    """End the process of the VM with the control socket CONTROL.

    What the guest has not saved is lost. A VM that has moved elsewhere loses nothing: the
    process holds the copy that it left.
    """
    run_interruptible(partial(quit_vm, control))
    click.echo(json.dumps({"status": "ended"}) if as_json else "The process has ended.")
