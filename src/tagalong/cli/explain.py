"""`tagalong explain`: what happened, from a crash with tags."""

import json
from pathlib import Path

import click

from tagalong.cli.explain_text import explain_report
from tagalong.cli.values import FILE
from tagalong.errors import UsageError
from tagalong.explain.analysis import explain
from tagalong.explain.explanation import Explanation
from tagalong.explain.readers import open_crashes
from tagalong.explain.redaction import redact

_EPILOG = """\b
Examples:
  tagalong explain core.1234
  tagalong explain core.1234.zst --modules sysroot
  tagalong explain dmesg.txt --report 3
  tagalong explain tombstone_00.pb --redact --json
\b
Exit status: 0, whatever the answer is; 71 if FILE is damaged.
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.option(
    "--modules",
    type=FILE,
    metavar="FOLDER",
    help="Where the process's program and libraries are, for code and symbols.",
)
@click.option(
    "--report",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Which of the reports in FILE to explain.",
)
@click.option(
    "--redact", "is_redacted", is_flag=True, help="Leave memory's content, paths and names out."
)
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")  # fmt: skip
def command(
    file: Path, *, modules: Path | None, report: int, is_redacted: bool, as_json: bool
) -> None:
    """Say what happened in the crash FILE, with a probability for each cause.

    FILE is a core of a Linux process, plain or compressed; a snapshot or dump of a guest, or the
    control socket of a running VM; an Android tombstone, text or protobuf; a log with KASAN
    reports; or an Apple crash report of a tag fault.
    """
    found = _explained(file, modules, report)
    if is_redacted:
        found = redact(found)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else explain_report(found))


def _explained(file: Path, modules: Path | None, report: int) -> Explanation:
    with open_crashes(file, modules) as crashes:
        if report > len(crashes):
            raise UsageError(f"{file} has {len(crashes)} reports: --report {report} is none")
        return explain(crashes[report - 1])
