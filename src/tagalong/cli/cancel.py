"""`tagalong cancel`: cancels a migration, a snapshot or a dump."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.vm_command import control_argument, json_option
from tagalong.control.interrupt import run_interruptible
from tagalong.control.vm_control import cancel_work

_EPILOG = """\b
Examples:
  tagalong cancel a.sock
"""


@click.command(epilog=_EPILOG)
@control_argument
@json_option()
def command(control: Path, *, as_json: bool) -> None:
    """Cancel what the VM with the control socket CONTROL is busy with.

    That is a migration, a snapshot or a dump. The guest runs on as before; it is an error if
    there is nothing to cancel, or if it is too late.
    """
    cancelled = run_interruptible(partial(cancel_work, control))
    click.echo(
        json.dumps({"cancelled": cancelled})
        if as_json
        else f"Cancelled {cancelled}. The VM is as it was."
    )
