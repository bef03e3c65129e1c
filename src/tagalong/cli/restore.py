"""`tagalong restore`: goes on with a VM from a snapshot; short for `run --restore`."""

from pathlib import Path

import click

from tagalong.cli import run

_EPILOG = """\b
Examples:
  tagalong restore vm.core --control b.sock
  tagalong restore vm.core --control b.sock --machine kvm --allow-cpu-mismatch
  tagalong restore vm.core.zst --control b.sock --paused
"""

_NOT_OF_A_SNAPSHOT = {"guest", "guest_arguments", "seed", "incoming", "restore"}


def _options() -> list[click.Parameter]:
    """Return the options of `run` that mean something for a snapshot."""
    return [each for each in run.command.params if each.name not in _NOT_OF_A_SNAPSHOT]


@click.pass_context
def _restore(context: click.Context, /, file: Path, **values: object) -> None:
    """Go on with the VM that was saved in FILE, until its guest powers off.

    FILE is mapped copy-on-write, so that the guest runs at once, whatever its size: FILE
    must stay as it is while the VM runs, and what the guest does never reaches it. A
    snapshot whose tags cannot be restored here is refused.
    """
    context.invoke(run.command, restore=file, **values)


command = click.Command(
    "restore",
    callback=_restore,
    help=_restore.__doc__,
    epilog=_EPILOG,
    params=[click.Argument(["file"], type=click.Path(path_type=Path)), *_options()],
)
