"""`tagalong check`: what gdb and lldb show of a core's tags, and whether drgn reads its kernel."""

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
Exit status: 0 the file is sound (notes do not count), 1 there are errors or
warnings, 71 if FILE is not a core of an AArch64 machine.
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(context: click.Context, file: Path, *, as_json: bool) -> None:
    """Say what gdb and lldb show of the tags of the core FILE, and why.

    Of a machine's core, also whether drgn and crash read the Linux kernel in it. Errors are
    damage. Warnings mean that a debugger does not show what is there. Notes are
    limits of a debugger that no other file could avoid.
    """
    with open_core(file) as core:
        report = check_core(core)
    if as_json:
        click.echo(json.dumps(check_json(report), indent=2))
    else:
        click.echo(check_report(report, str(file)))
    context.exit(0 if report.is_clean else 1)
