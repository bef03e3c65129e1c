"""`tagalong race`: a guest's and a VMM's instructions in all their interleavings."""

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
Code of your own starts with x0 pointing at the granule (for the VMM: through
its mapping with PROT_MTE, untagged; x1: through the one without). VMM code
ends with the data that it read in x2 and x3 and, as LDG leaves it, a pointer
with the tag in x4. FILE.S is assembly (needs the package ziglang), FILE.bin
words, any other file words in hex.
\b
Exit status: 0, whatever the outcomes are.
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
    help="What a strategy's look reads first.",
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
    help="Default: exhaustive if that is possible, else reduced, else sampled.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For --method sampled.")
@click.option("--full", is_flag=True, help="Show the interleavings instruction by instruction.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(*, as_json: bool, full: bool, **values: Any) -> None:
    """Explore what a VMM can read from memory while the guest changes its tags.

    Both sides run on the embedded machine, one instruction at a time, in every order. A look
    reads a granule's tag and data. It faults, or its result is right, stale (it was true, but
    no longer is) or torn (it never was true at any one time). One shortest interleaving is
    shown for each outcome.
    """
    reports = run_races(RaceOptions(**values))
    if as_json:
        found = [report.to_json() for report in reports]
        click.echo(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        click.echo(races_report(reports, full=full))
