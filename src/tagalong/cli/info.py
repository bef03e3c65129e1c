"""`tagalong info`: what is in a core."""

import json
from pathlib import Path

import click

from tagalong.cli.info_text import info_report
from tagalong.cli.values import FILE
from tagalong.core import open_core
from tagalong.core.info import describe

_EPILOG = """\b
Examples:
  tagalong info vm.core
  tagalong info vm.core.zst --json | jq .machine
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(file: Path, *, as_json: bool) -> None:
    """Show what is in the core FILE: machine, memory, tags, registers.

    FILE is a snapshot or a dump, plain or compressed, or a core that Linux or another program
    wrote on arm64.
    """
    with open_core(file) as core:
        info = describe(core)
    click.echo(json.dumps(info, indent=2) if as_json else info_report(info, str(file)))
