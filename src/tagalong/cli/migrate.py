"""`tagalong migrate`: moves a running VM through its control socket."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.migration_text import migration_report
from tagalong.cli.options import access_change_option, migration_options
from tagalong.cli.progress import migration_bar
from tagalong.control.interrupt import run_interruptible
from tagalong.control.migration import migrate_vm
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.settings import settings_of

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
@migration_options
@access_change_option
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
        access=wishes.pop("access"), settings=settings_of(wishes),
    )  # fmt: skip
    with migration_bar() as show:
        result = run_interruptible(partial(migrate_vm, control, request, show))
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else migration_report(result, uri))
