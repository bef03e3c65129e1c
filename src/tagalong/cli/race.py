"""`tagalong race`: a guest's and a VMM's instructions through all their interleavings."""

import json
from typing import Any

import click

from tagalong.cli.race_text import races_report
from tagalong.cli.values import FILE
from tagalong.studies.race.guests import GUESTS
from tagalong.studies.race.options import (
    ACCESS_NAMES,
    METHODS,
    MODES,
    ORDERS,
    RaceOptions,
    run_races,
)

_EPILOG = """\b
Examples:
  tagalong race --access match
  tagalong race --access all --guest pair --order data-first
  tagalong race --access tco --json | jq .outcomes.torn.interleavings
  tagalong race --vmm-code look.S --guest-code retag.S
\b
Code of your own begins with x0 pointing at the granule (for the VMM: through its mapping
with PROT_MTE, untagged; x1: through the one without). A VMM's ends with the data it has
seen in x2 and x3 and, as LDG leaves it, a pointer with the tag in x4. FILE.S is
assembly (needs the package ziglang), FILE.bin words, any other file words in hex.
\b
Exit status: 0, whatever outcomes there are.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--access",
    type=click.Choice(ACCESS_NAMES),
    help="The strategy that looks at the granule; all: a table of all of them.",
)
@click.option("--vmm-code", type=FILE, metavar="FILE", help="A look of your own instead.")
@click.option(
    "--guest",
    type=click.Choice(list(GUESTS)),
    help="What the guest does to the granule. Default: retag (tag, then data, twice).",
)
@click.option("--guest-code", type=FILE, metavar="FILE", help="A guest of your own instead.")
@click.option(
    "--order",
    type=click.Choice(list(ORDERS)),
    default="tags-first",
    show_default=True,
    help="Which of the two a strategy's look begins with.",
)
@click.option(
    "--checking",
    type=click.Choice(list(MODES)),
    default="sync",
    show_default=True,
    help="How the VMM's thread checks tags.",
)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    help="Default: exhaustive as long as that is possible, then reduced, then sampled.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For --method sampled.")
@click.option("--full", is_flag=True, help="Show the interleavings instruction by instruction.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(*, as_json: bool, full: bool, **values: Any) -> None:
    """Find all that can happen when a VMM looks at memory that the guest is re-tagging.

    Both sides run on the embedded machine, one instruction at a time, in every order. A look
    gives a granule's tag and data. It faults, or what it gives is right, stale (it was so,
    but no more) or torn (it never was so at any one time). One shortest interleaving is
    shown for each.
    """
    reports = run_races(RaceOptions(**values))
    if as_json:
        found = [report.to_json() for report in reports]
        click.echo(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        click.echo(races_report(reports, full=full))
