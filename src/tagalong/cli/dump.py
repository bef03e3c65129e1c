"""`tagalong dump`: writes a core for debuggers, of a VM or out of a snapshot."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.options import access_change_option, space_options
from tagalong.cli.progress import save_bar
from tagalong.cli.save_text import save_report
from tagalong.cli.values import FILE
from tagalong.control.interrupt import run_interruptible
from tagalong.control.saving import convert_core, is_control_socket, save_vm
from tagalong.errors import UsageError
from tagalong.qapi.saving import SPACES, SaveKind, SaveRequest, is_compressed_name

_EPILOG = """\b
Examples:
  tagalong dump a.sock vm.core
  tagalong dump a.sock kernel.core --space kernel
  tagalong dump vm.core user.core --space user --vcpu 1
  gdb-multiarch -ex 'set osabi GNU/Linux' -ex 'core kernel.core'
"""


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="CONTROL|FILE", type=FILE)
@click.argument("out", type=FILE)
@space_options
@access_change_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(source: Path, out: Path, *, space: str, as_json: bool, **wishes: Any) -> None:
    """Write a core of a running VM, or of the one in a snapshot, to OUT.

    With --space kernel or user the guest's own translation tables are walked, so that its
    own pointers, with their tags, work in the debugger. Such a core cannot be restored. The
    guest of CONTROL is paused meanwhile and then runs on.
    """
    if is_compressed_name(out):
        raise UsageError(
            f"cannot write {out}: a dump is not compressed; write it under another name and "
            "compress that with zstd"
        )
    request = SaveRequest(path=out, kind=SaveKind.DUMP, space=SPACES[space], **wishes)
    write = save_vm if is_control_socket(source) else convert_core
    with save_bar() as show:
        result = run_interruptible(partial(write, source, request, show))
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else save_report(result))
