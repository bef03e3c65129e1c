"""`tagalong migrate`: moves a running VM through its control socket."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from tagalong.cli.migration_text import migration_report
from tagalong.cli.options import access_change_option
from tagalong.cli.progress import migration_bar
from tagalong.cli.request_options import migration_options
from tagalong.cli.values import FILE
from tagalong.control.interrupt import run_interruptible
from tagalong.control.migration import await_migration, migrate_vm, start_migration
from tagalong.errors import UsageError
from tagalong.migrate import parse_address
from tagalong.qapi.migration import MigrationRequest, Switchover
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import settings_of

_EPILOG = """\b
Examples:
  tagalong migrate a.sock tcp:192.0.2.7:4444
  tagalong migrate a.sock unix:/run/b.in --verify --max-downtime 50
  tagalong migrate a.sock tcp:host.example:4444 --tls-dir /etc/pki/tagalong
  tagalong migrate a.sock tcp:192.0.2.7:4444 --max-bandwidth 100M
  tagalong migrate a.sock file:/srv/vm
  tagalong migrate a.sock tcp:192.0.2.7:4444 --json | jq .downtime_ms
  tagalong migrate a.sock tcp:192.0.2.7:4444 --auto-converge --detach
  tagalong migrate a.sock tcp:192.0.2.7:4455 --vmm-uri tcp:192.0.2.7:4444
  tagalong migrate a.sock --wait
"""


@click.command(epilog=_EPILOG)
@click.argument("control", type=FILE)
@click.argument("uri", required=False)
@migration_options
@access_change_option
@click.option(
    "--vmm-uri",
    metavar="URI",
    help="For a VM that runs beside tagalong: where its own VMM waits; it migrates there.",
)
@click.option(
    "--switchover",
    type=click.Choice([each.value for each in Switchover]),
    default=Switchover.PAUSE.value,
    show_default=True,
    help="With --vmm-uri: that VMM waits for the last tags, or hands over meanwhile.",
)
@click.option(
    "--standing",
    is_flag=True,
    help="For such a VM: let the tags go there with each migration that another tool drives, "
    "until one has succeeded.",
)
@click.option("--verify", is_flag=True, help="Compare digests of all memory and tags first.")
@click.option("--drop-tags", is_flag=True, help="Throw the tags away, to see what that does.")
@click.option("--detach", is_flag=True, help="Start the migration and return at once.")
@click.option(
    "--wait", is_flag=True, help="Wait for a migration that is under way, and report it; no URI."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    uri: str | None, control: Path, *, as_json: bool, wait: bool, detach: bool, **wishes: Any
) -> None:
    """Migrate the VM with the control socket CONTROL to URI while it runs.

    A destination must wait at URI (tcp:HOST:PORT or unix:PATH): tagalong run --incoming.
    With file:PATH or exec:COMMAND the VM stays there until it is loaded. Ctrl-C cancels the
    migration, and the VM runs on where it is.

    --detach returns as soon as the VM has started the migration; --wait takes such a migration
    up again, or one that another client started. Ctrl-C then ends the waiting alone.
    """
    if wait:
        _refuse_with_wait(uri, detach=detach)
        with migration_bar() as show:
            result = run_interruptible(partial(await_migration, control, show))
        _print(result, "the destination", as_json=as_json)
        return
    if uri is None:
        raise click.UsageError("Missing argument 'URI'.", click.get_current_context())
    parse_address(uri)  # a mistyped address is wrong usage, and no command that the VM refuses
    request = MigrationRequest(
        uri, verify=wishes.pop("verify"), drop_tags=wishes.pop("drop_tags"),
        access=wishes.pop("access"), vmm_uri=wishes.pop("vmm_uri"),
        standing=wishes.pop("standing"), switchover=Switchover(wishes.pop("switchover")),
        settings=settings_of(wishes),
    )  # fmt: skip
    if detach:
        run_interruptible(partial(start_migration, control, request))
        started = "The migration has started. Follow it: tagalong migrate --wait, or status."
        click.echo(json.dumps({"started": uri}) if as_json else started)
        return
    with migration_bar() as show:
        result = run_interruptible(partial(migrate_vm, control, request, show))
    _print(result, uri, as_json=as_json)


def _refuse_with_wait(uri: str | None, *, detach: bool) -> None:
    if uri is not None or detach:
        what = "--detach" if detach else "a URI"
        raise UsageError(
            f"--wait takes a migration that is under way, so {what} has no place beside it; leave "
            "one of them out"
        )


def _print(result: MigrationResult, where: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        click.echo(migration_report(result, where))
