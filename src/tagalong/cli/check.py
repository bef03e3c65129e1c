"""`tagalong check`: what gdb and lldb will do with a core's tags."""

import json
from pathlib import Path

import click

from tagalong.cli.core_text import check_json, check_report
from tagalong.cli.values import FILE
from tagalong.core import open_core
from tagalong.core.check import check_core

_EPILOG = """\b
Examples:
  tagalong check vm.core
  tagalong check core.1234 --json | jq .debuggers.lldb
\b
Exit status: 0 nothing is wrong (notes do not count), 1 there are findings,
71 if FILE is no core of an AArch64 machine at all.
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(context: click.Context, file: Path, *, as_json: bool) -> None:
    """Say what gdb and lldb will do with the tags of the core FILE, and why.

    Errors are damage; warnings mean that a debugger will not show what is there; notes are
    what no other file could do better.
    """
    with open_core(file) as core:
        report = check_core(core)
    if as_json:
        click.echo(json.dumps(check_json(report), indent=2))
    else:
        click.echo(check_report(report, str(file)))
    context.exit(0 if report.is_clean else 1)
