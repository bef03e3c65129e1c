"""`tagalong migrate`: moves a running VM through its control socket."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.options import access_change_option, max_downtime_option, size
from tagalong.cli.progress import migration_bar
from tagalong.cli.text import migration_report
from tagalong.control.interrupt import run_interruptible
from tagalong.control.migration import migrate_vm
from tagalong.migrate import MAX_CHANNELS, MAX_RECONNECT_S, parse_compression
from tagalong.vmm.record import MigrationRequest
from tagalong.vmm.settings import MigrationSettings

_DEFAULTS = MigrationSettings()

_EPILOG = """\b
Examples:
  tagalong migrate a.sock tcp:192.0.2.7:4444
  tagalong migrate a.sock unix:/run/b.in --verify --max-downtime 50
  tagalong migrate a.sock tcp:host.example:4444 --tls-dir /etc/pki/tagalong
  tagalong migrate a.sock tcp:192.0.2.7:4444 --max-bandwidth 100M --auto-converge
  tagalong migrate a.sock file:/srv/vm
  tagalong migrate a.sock tcp:192.0.2.7:4444 --json | jq .downtime_ms
"""


@click.command(epilog=_EPILOG)
@click.argument("control", type=click.Path(path_type=Path))
@click.argument("uri")
@max_downtime_option("downtime_limit")
@access_change_option
@click.option(
    "--max-bandwidth",
    type=size,
    default=None,
    metavar="SIZE",
    help="Send no more than this in a second while the guest runs, as in 100M. Default: no limit.",
)
@click.option(
    "--switchover-bandwidth",
    "avail_switchover_bandwidth",
    type=size,
    default=None,
    metavar="SIZE",
    help="Count on this much in a second for the last pages. Default: what was measured.",
)
@click.option(
    "--max-rounds",
    "x_max_rounds",
    type=click.IntRange(min=1),
    default=_DEFAULTS.x_max_rounds,
    show_default=True,
    help="Give up when the guest is still too fast after so many rounds.",
)
@click.option(
    "--channels",
    type=click.IntRange(1, MAX_CHANNELS),
    default=1,
    show_default=True,
    help="Connections to spread the pages over.",
)
@click.option(
    "--compress",
    default="none",
    show_default=True,
    metavar="HOW",
    help="Compress data: none, zstd, zstd:LEVEL, or auto, where it makes them arrive sooner.",
)
@click.option(
    "--reconnect",
    "x_reconnect",
    type=click.IntRange(0, MAX_RECONNECT_S),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="Try so long to come back and go on when a connection breaks.",
)
@click.option(
    "--auto-converge", is_flag=True, help="Slow the guest down in steps if it is too fast."
)
@click.option(
    "--tls-dir",
    "tls_creds",
    type=click.Path(file_okay=False, resolve_path=True),
    metavar="FOLDER",
    help="Speak TLS, with ca-cert.pem, client-cert.pem and client-key.pem.",
)
@click.option(
    "--tls-hostname",
    metavar="NAME",
    help="The name that the destination must prove. Default: the host in URI.",
)
@click.option("--verify", is_flag=True, help="Compare digests of all memory and tags first.")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away, to see what that does.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(uri: str, control: Path, *, as_json: bool, **wishes: Any) -> None:
    """Migrate the VM with the control socket CONTROL to URI while it runs.

    A destination has to wait at URI (tcp:HOST:PORT or unix:PATH): tagalong run --incoming.
    With file:PATH or exec:COMMAND the VM is kept there until somebody loads it. Ctrl-C cancels
    the migration and the VM goes on where it is.
    """
    request = MigrationRequest(
        uri, verify=wishes.pop("verify"), drop_tags=wishes.pop("drop_tags"),
        access=wishes.pop("access"), settings=_settings(wishes),
    )  # fmt: skip
    with migration_bar() as show:
        report = run_interruptible(partial(migrate_vm, control, request, show))
    click.echo(json.dumps(report, indent=2) if as_json else migration_report(report, uri))


def _settings(wishes: dict[str, Any]) -> MigrationSettings:
    """Return the settings that the options name; what was not said stays as it is."""
    channels, compression = wishes.pop("channels"), parse_compression(wishes.pop("compress"))
    given = {name: value for name, value in wishes.items() if value is not None}
    return MigrationSettings(
        **given,
        multifd=channels > 1,
        multifd_channels=channels,
        multifd_compression=compression.mode.value,
        multifd_zstd_level=compression.level,
    )
