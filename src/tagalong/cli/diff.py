"""`tagalong diff`: where data and tags of two cores differ."""

import json
from pathlib import Path

import click

from tagalong.cli.diff_text import difference_json, difference_report
from tagalong.cli.values import FILE
from tagalong.core import open_any_core
from tagalong.views.difference import compare_cores

_EPILOG = """\b
Examples:
  tagalong diff before.core after.core
  tagalong diff before.core after.core --json | jq .tag_granules
\b
Exit status: 0 the same, 1 they differ.
"""


@click.command(epilog=_EPILOG)
@click.argument("left", metavar="A", type=FILE)
@click.argument("right", metavar="B", type=FILE)
@click.option(
    "--runs", type=click.IntRange(min=0), default=20, show_default=True,
    help="How many runs of granules, and how many ranges, to print.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def command(context: click.Context, left: Path, right: Path, *, runs: int, as_json: bool) -> None:
    """Say which granules of the cores A and B differ, in data, in their tag, or in both.

    A and B are cores of one guest or process: before and after a migration, or two snapshots.
    Memory that only one of them has is said by name. Registers are compared, too.
    """
    with open_any_core(left) as one, open_any_core(right) as other:
        found = compare_cores(one, other, most_runs=runs)
    if as_json:
        click.echo(json.dumps(difference_json(found, (str(left), str(right))), indent=2))
    else:
        for line in difference_report(found, (str(left), str(right))):
            click.echo(line)
    context.exit(0 if found.is_same else 1)
