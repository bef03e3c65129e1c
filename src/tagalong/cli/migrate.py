"""`tagalong migrate`: moves a running VM through its control socket."""

import json
from functools import partial
from pathlib import Path

import click

from tagalong.cli.options import access_change_option
from tagalong.cli.progress import migration_bar
from tagalong.cli.text import migration_report
from tagalong.vmm.commands import DEFAULT_MAX_DOWNTIME_MS, MAX_DOWNTIME_LIMIT_MS
from tagalong.vmm.interrupt import run_interruptible
from tagalong.vmm.record import MigrationRequest
from tagalong.vmm.relocate import migrate_vm

_EPILOG = """\b
Examples:
  tagalong migrate a.sock tcp:192.0.2.7:4444
  tagalong migrate a.sock unix:/run/b.in --verify --max-downtime 50
  tagalong migrate a.sock tcp:192.0.2.7:4444 --json | jq .downtime_ms
"""


@click.command(epilog=_EPILOG)
@click.argument("control", type=click.Path(path_type=Path))
@click.argument("uri")
@click.option(
    "--max-downtime",
    "max_downtime_ms",
    type=click.IntRange(0, MAX_DOWNTIME_LIMIT_MS),
    default=DEFAULT_MAX_DOWNTIME_MS,
    show_default=True,
    metavar="MS",
    help="Stop the guest only when the rest takes no longer than this.",
)
@access_change_option
@click.option("--verify", is_flag=True, help="Compare digests of all memory and tags first.")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away, to see what that does.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(uri: str, control: Path, *, access: str | None, as_json: bool, **wishes: int) -> None:
    """Migrate the VM with the control socket CONTROL to URI while it runs.

    A destination has to wait at URI (tcp:HOST:PORT or unix:PATH): tagalong run --incoming.
    Ctrl-C cancels the migration and the VM goes on where it is.
    """
    request = MigrationRequest(
        uri=uri,
        max_downtime_ms=wishes["max_downtime_ms"],
        verify=bool(wishes["verify"]),
        drop_tags=bool(wishes["drop_tags"]),
        access=access,
    )
    with migration_bar() as show:
        report = run_interruptible(partial(migrate_vm, control, request, show))
    click.echo(json.dumps(report, indent=2) if as_json else migration_report(report, uri))
