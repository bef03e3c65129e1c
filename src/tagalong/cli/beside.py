"""`tagalong beside`: runs another VMM, and carries its guest's tags."""

from pathlib import Path

import click

from tagalong.beside.incoming import AwaitedTags
from tagalong.beside.process import BesideOptions, run_beside
from tagalong.cli.message import announce
from tagalong.cli.output import queued_messages
from tagalong.cli.values import FILE
from tagalong.errors import UsageError
from tagalong.migrate import TlsCredentials, parse_address

_EPILOG = """\b
Examples:
  tagalong beside --control a.sock -- qemu-system-aarch64 -M virt -accel kvm ...
  tagalong beside --control b.sock --incoming tcp:[::]:4455 -- \\
      qemu-system-aarch64 ... -incoming tcp:[::]:4444
  tagalong migrate a.sock tcp:192.0.2.7:4455 --vmm-uri tcp:192.0.2.7:4444
"""


@click.command(epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@click.option("--control", type=FILE, required=True, help="QMP control socket to create.")
@click.option(
    "--incoming",
    metavar="URI",
    help="Wait for tags on tcp:HOST:PORT or unix:PATH; the guest is held until they are there.",
)
@click.option(
    "--tls-dir",
    "tls_folder",
    type=FILE,
    metavar="FOLDER",
    help="Take them over TLS only, with ca-cert.pem, server-cert.pem and server-key.pem.",
)
@click.option(
    "--tls-admit",
    "tls_admitted",
    multiple=True,
    metavar="NAME",
    help="Admit only a source whose certificate has this name; may be given again.",
)
@click.argument("vmm", metavar="-- VMM...", nargs=-1, required=True)
@click.pass_context
def command(
    context: click.Context,
    vmm: tuple[str, ...],
    control: Path,
    incoming: str | None,
    tls_folder: Path | None,
    tls_admitted: tuple[str, ...],
) -> None:
    """Run the VMM command VMM, such as QEMU, and carry its guest's tags.

    The guest gets tags (MTE) without the VMM knowing, and they move, are checked and arrive beside
    the VMM's own migration. The VMM is started as it is, under a small library. Exits with its
    status.
    """
    if incoming is None and (tls_folder is not None or tls_admitted):
        raise UsageError("--tls-dir and --tls-admit need --incoming: they are about who may send")
    if tls_admitted and tls_folder is None:
        raise UsageError("--tls-admit needs --tls-dir: it names certificates; give both")
    awaited = None
    if incoming is not None:
        parse_address(incoming)
        tls = TlsCredentials(tls_folder, admitted=tls_admitted) if tls_folder is not None else None
        awaited = AwaitedTags(incoming, tls)
    with queued_messages():
        status = run_beside(BesideOptions(vmm, control, awaited), announce)
    context.exit(status)
