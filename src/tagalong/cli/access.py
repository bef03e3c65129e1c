"""`tagalong access`: the access strategies side by side, run on a machine."""

import json

import click

from tagalong.cli.access_text import access_report
from tagalong.cli.message import announce
from tagalong.cli.options import machine_option
from tagalong.studies.comparison import ComparisonOptions, compare

_EPILOG = """\b
Examples:
  tagalong access
  tagalong access --machine kvm --race 10
  tagalong access --json | jq '.strategies[] | {name, works, reason}'
\b
Exit status: 0 if every strategy that works on this host did what it promises,
1 if one faulted or read or left wrong bytes while the guest was paused.
"""


@click.command(epilog=_EPILOG)
@machine_option
@click.option(
    "--race",
    "race_s",
    type=click.FloatRange(min=0, max=3600),
    default=0.0,
    metavar="SECONDS",
    help="Also look at a guest that changes its tags as fast as it can; seconds per strategy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(context: click.Context, /, *, machine: str, race_s: float, as_json: bool) -> None:
    """Compare all ways for a VMM to touch tagged guest memory, by doing it.

    For each: whether it works on this host, what faults with checking off, synchronous and
    asynchronous, whether write(2) and read(2) accept the memory, what a GiB costs, and with
    --race what a running guest does to it. The row (plain) is the control: accesses without
    any strategy.
    """
    report = compare(ComparisonOptions(machine, race_s), announce)
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else access_report(report))
    context.exit(0 if report.is_as_promised else 1)
