"""`tagalong dump`: writes a core for debuggers: of a VM, out of a snapshot, of a QEMU that runs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong import qemu
from tagalong.cli.options import access_change_option
from tagalong.cli.progress import save_bar
from tagalong.cli.request_options import max_downtime_option, space_options
from tagalong.cli.save_text import attached_report, save_report
from tagalong.cli.values import FILE
from tagalong.control.interrupt import run_interruptible
from tagalong.control.saving import convert_core, is_control_socket, save_vm, write_here
from tagalong.errors import UsageError
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SPACES, SaveKind, SaveRequest, is_compressed_name

_EPILOG = """\b
Examples:
  tagalong dump a.sock vm.core
  tagalong dump a.sock kernel.core --space kernel
  tagalong dump a.sock vm.core --live
  tagalong dump vm.core user.core --space user --vcpu 1
  tagalong dump --pid 4711 --qmp qemu.sock vm.core
  gdb-multiarch -ex 'set osabi GNU/Linux' -ex 'core kernel.core'
"""


@click.command(epilog=_EPILOG)
@click.argument("names", metavar="[CONTROL|FILE] OUT", type=FILE, nargs=-1, required=True)
@space_options
@click.option("--pid", type=click.IntRange(min=1), help="Dump the guest of the QEMU with this id.")
@click.option("--qmp", type=FILE, help="With --pid: the QMP socket of that QEMU.")
@click.option("--live", is_flag=True, help="Let the guest run; stop it as shortly as possible.")
@max_downtime_option(
    "max_downtime_ms", "With --live: stop the guest when the rest takes no longer than this."
)
@access_change_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    names: tuple[Path, ...],
    *,
    space: str,
    pid: int | None,
    qmp: Path | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Write a core of a running VM, or of the one in a snapshot, to OUT.

    With --space kernel or user the guest's own translation tables are walked, so that its
    own pointers, with their tags, work in the debugger. Such a core cannot be restored. The
    guest of CONTROL is paused meanwhile and then runs on. With --live it is paused at the end only;
    that of another VMM for its registers only, and the core says that its pages are of different
    moments.

    With --pid the guest is one of a QEMU that was not started by tagalong, with its RAM in a
    memfd (share=on). With --qmp it is paused meanwhile, and the core has registers.
    """
    *sources, out = names
    if len(sources) != (pid is None):
        wanted = "a control socket or a core, and OUT" if pid is None else "OUT alone"
        raise UsageError(f"{len(names)} names were given: give {wanted}")
    if qmp is not None and pid is None:
        raise UsageError("--qmp is the monitor of the QEMU that --pid names: give --pid")
    if is_compressed_name(out):
        raise UsageError(
            f"cannot write {out}: a dump is not compressed; write it under another name and "
            "compress that with zstd"
        )
    request = SaveRequest(path=out, kind=SaveKind.DUMP, space=SPACES[space], **wishes)
    if pid is not None:
        _dump_process(pid, qmp, request, as_json=as_json)
        return
    (source,) = sources
    is_vm = is_control_socket(source)
    if request.live and not is_vm:
        raise UsageError(f"--live is for a VM that runs, and {source} is a file")
    write = save_vm if is_vm else convert_core
    with save_bar() as show:
        result = run_interruptible(partial(write, source, request, show))
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else save_report(result))


def _dump_process(pid: int, qmp: Path | None, request: SaveRequest, *, as_json: bool) -> None:
    if request.access is not None:
        raise UsageError("access strategies are for the RAM of VMs of tagalong, not for --pid")
    if request.live:
        raise UsageError("--live: without --qmp the guest of --pid runs on in any case")
    done: list[qemu.Attached] = []

    def write(tell: Any, cancel: Any) -> SaveResult:
        options = request.options()
        done.append(
            qemu.dump_process(pid, request.path, options, monitor=qmp, progress=tell, cancel=cancel)
        )
        return SaveResult(done[0].report)

    with save_bar() as show:
        run_interruptible(partial(write_here, write, request, show))
    (attached,) = done
    click.echo(json.dumps(attached.to_json(), indent=2) if as_json else attached_report(attached))
