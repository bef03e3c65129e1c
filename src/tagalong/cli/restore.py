"""`tagalong restore`: continues a VM from a snapshot; short for `run --restore`."""

from pathlib import Path

import click

from tagalong.cli import run
from tagalong.cli.values import FILE

_EPILOG = """\b
Examples:
  tagalong restore vm.core --control b.sock
  tagalong restore vm.core --control b.sock --machine kvm --allow-cpu-mismatch
  tagalong restore vm.core.zst --control b.sock --paused
"""


@click.pass_context
def _restore(context: click.Context, /, file: Path, **values: object) -> None:
    """Continue the VM that was saved in FILE, until its guest powers off.

    FILE is mapped copy-on-write, so that the guest runs at once, whatever its size: FILE
    must stay as it is while the VM runs, and nothing that the guest does reaches it. A
    snapshot whose tags cannot be restored here is refused. Exit status: as of run.
    """
    options = run.run_options({"restore": file, **values})
    run.run_process(context, options)


command = click.Command(
    "restore",
    callback=_restore,
    help=_restore.__doc__,
    epilog=_EPILOG,
    params=[click.Argument(["file"], type=FILE), *run.COMMON, *run.NOT_NEW],
)
