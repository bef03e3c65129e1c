"""`tagalong run`: a VM with a control socket, new, arriving by migration, or restored."""

from pathlib import Path
from typing import Any

import click

from tagalong.cli.message import announce
from tagalong.cli.options import access_option, machine_option, size
from tagalong.vmm.launch import RunOptions, run_vm

_EPILOG = """\b
Examples:
  tagalong run --guest churn --guest-args "tag-only=50" --vcpus 2 --control a.sock
  tagalong run --incoming tcp:0.0.0.0:4444 --control b.sock
  tagalong run --incoming tcp:0.0.0.0:4444 --tls-dir /etc/pki/tagalong --control b.sock
  tagalong run --incoming file:/srv/vm --control b.sock
  tagalong run --restore vm.core --control b.sock
  tagalong run --guest ./mine.elf --control a.sock --paused
"""


@click.command(epilog=_EPILOG)
@machine_option
@access_option
@click.option(
    "--ram", "ram_bytes", type=size, metavar="SIZE", help="Guest RAM, as in 64M (the default)."
)
@click.option("--vcpus", "vcpu_count", type=click.IntRange(min=1), help="Default: 1.")
@click.option(
    "--guest",
    metavar="NAME|PATH.elf",
    help="Guest program: churn, paged, retag, selftest, speed, or a file.",
)
@click.option("--guest-args", "guest_arguments", metavar='"K=V ..."', help="Its knobs.")
@click.option(
    "--seed", type=click.IntRange(min=0, max=(1 << 64) - 1), help="Same seed, same run. Default: 0."
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    required=True,
    help="QMP control socket to create.",
)
@click.option(
    "--incoming",
    metavar="URI",
    help="Wait for a migration on tcp:HOST:PORT (port 0: any) or unix:PATH, or take it from "
    "file:PATH, exec:COMMAND or fd:NUMBER.",
)
@click.option(
    "--tls-dir",
    "tls_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Take it over TLS only, with ca-cert.pem, server-cert.pem and server-key.pem.",
)
@click.option(
    "--tls-admit",
    "tls_admitted",
    multiple=True,
    metavar="NAME",
    help="Admit only a source whose certificate has this name; may be given again.",
)
@click.option(
    "--restore",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Go on from a snapshot. FILE is mapped: it must stay as it is while the VM runs.",
)
@click.option(
    "--allow-cpu-mismatch",
    is_flag=True,
    help="Take a VM whose CPU identifies itself differently, and list how.",
)
@click.option("--paused", is_flag=True, help="Do not start the guest; QMP's cont does.")
@click.option(
    "--max-ram",
    "max_ram_bytes",
    type=size,
    metavar="SIZE",
    default="64G",
    show_default=True,
    help="Refuse an arriving or restored VM with more RAM than this.",
)
@click.option(
    "--prealloc",
    is_flag=True,
    help="Make the memory (--ram) of an arriving VM ready while waiting (machine soft).",
)
@click.option(
    "--exit-with-parent",
    "parent_pid",
    type=int,
    metavar="PID",
    help="End when the parent process PID ends.",
)
@click.pass_context
def command(context: click.Context, /, **values: Any) -> None:
    """Run a VM until its guest powers off.

    The guest's console goes to standard output, messages to standard error. Once the VM
    has been migrated away, the process keeps its memory until it is told to quit.
    """
    context.exit(run_vm(RunOptions(**values), announce=announce))
