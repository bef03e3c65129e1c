"""`tagalong snapshot`: saves a VM to a file that can be restored."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.options import access_change_option
from tagalong.cli.progress import save_bar
from tagalong.cli.request_options import max_downtime_option
from tagalong.cli.save_text import save_report
from tagalong.cli.values import FILE
from tagalong.control.interrupt import run_interruptible
from tagalong.control.saving import save_vm
from tagalong.qapi.saving import SaveRequest, is_compressed_name

_EPILOG = """\b
Examples:
  tagalong snapshot a.sock vm.core
  tagalong snapshot a.sock vm.core --live --max-downtime 50
  tagalong snapshot a.sock vm.core.zst --zstd
  tagalong restore vm.core --control b.sock
"""


@click.command(epilog=_EPILOG)
@click.argument("control", type=FILE)
@click.argument("file", type=FILE)
@click.option("--live", is_flag=True, help="Let the guest run; stop it only at the end.")
@max_downtime_option(
    "max_downtime_ms", "With --live: stop the guest when the rest takes no longer than this."
)
@click.option(
    "--zstd",
    is_flag=True,
    help="Compress the file: smaller, but a restore copies it. A FILE.zst is always compressed.",
)
@access_change_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(control: Path, file: Path, *, zstd: bool, as_json: bool, **wishes: Any) -> None:
    """Save the VM with the control socket CONTROL, its memory and its tags, to FILE.

    The guest is paused meanwhile, or with --live only at the end, and then runs on. FILE is
    an ELF core that gdb and lldb open. It gets its name when it is complete, or never; Ctrl-C
    cancels.
    """
    request = SaveRequest(path=file, compress=zstd or is_compressed_name(file), **wishes)
    with save_bar() as show:
        result = run_interruptible(partial(save_vm, control, request, show))
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else save_report(result))
