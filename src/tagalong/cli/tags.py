"""`tagalong tags`: the allocation tags of a range of a core."""

import json
from pathlib import Path

import click

from tagalong.cli.core_text import tags_json, tags_report
from tagalong.cli.values import FILE, address_range
from tagalong.core import open_any_core
from tagalong.core.tag_runs import tag_range, tag_runs

_EPILOG = """\b
Examples:
  tagalong tags vm.core 0x40268000
  tagalong tags vm.core 0x0800000040268000+0x200
  tagalong tags vm.core 0x40000000+64M --json | jq '.runs | length'
\b
Exit status: 0; 72 and 73 if the core has no such memory, or no tags for it.
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.argument("wanted", metavar="ADDR[+LEN]", type=address_range)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def command(file: Path, wanted: tuple[int, int], *, as_json: bool) -> None:
    """Print the allocation tags of LEN bytes (default: 1) from ADDR on in the core FILE.

    One line per run of granules with the same tag, as a half-open range. ADDR may be a pointer:
    a tag that is not the pointer's own is marked as a mismatch.
    """
    asked = tag_range(*wanted)
    with open_any_core(file) as core:
        runs = tag_runs(core, asked)
        if as_json:
            click.echo(json.dumps(tags_json(asked, runs), indent=2))
            return
        for line in tags_report(asked, runs):
            click.echo(line)
