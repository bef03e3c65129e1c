"""`tagalong convert`: makes a core of a file that QEMU saved a guest to."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.progress import save_bar
from tagalong.cli.request_options import space_options
from tagalong.cli.save_text import converted_report
from tagalong.cli.values import FILE, OFFSET
from tagalong.control.interrupt import run_interruptible
from tagalong.control.saving import write_here
from tagalong.errors import UsageError
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SPACES, SaveKind, SaveRequest, is_compressed_name
from tagalong.qemu import Converted, QemuFile, convert

_EPILOG = """\b
Examples:
  tagalong convert vm.qemu vm.core
  tagalong convert vm.qemu kernel.core --space kernel
  tagalong tags vm.core 0x40268000+4K
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.argument("out", type=FILE)
@space_options
@click.option("--zstd", is_flag=True, help="Compress OUT. An OUT.zst is always compressed.")
@click.option(
    "--offset", type=OFFSET, default=0, help="Where in FILE QEMU's stream begins; default: 0."
)
@click.option("--ram-block", "block", help="The name of QEMU's block with the guest's RAM.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    file: Path, out: Path, *, offset: int, block: str | None, as_json: bool, **wishes: Any
) -> None:
    """Write a core of the guest that QEMU saved to FILE, with its tags, to OUT.

    FILE is what `migrate file:FILE` wrote, with mapped-ram or without, of the machine `virt`. The
    tags are in it if QEMU emulated them (TCG, mte=on); of a KVM guest the core has none. OUT is
    for debuggers and cannot be restored.
    """
    space, zstd = SPACES[wishes.pop("space")], wishes.pop("zstd")
    request = SaveRequest(
        path=out,
        kind=SaveKind.DUMP,
        space=space,
        compress=zstd or is_compressed_name(out),
        **wishes,
    )
    if out.exists() and file.exists() and out.samefile(file):
        raise UsageError(f"{file} cannot be converted onto itself")
    done: list[Converted] = []

    def write(tell: Any, cancel: Any) -> SaveResult:
        options = request.options()
        done.append(
            convert(QemuFile(file, offset, block), out, options, progress=tell, cancel=cancel)
        )
        return SaveResult(done[0].report)

    with save_bar() as show:
        run_interruptible(partial(write_here, write, request, show))
    (converted,) = done
    click.echo(
        json.dumps(converted.to_json(), indent=2) if as_json else converted_report(converted)
    )
