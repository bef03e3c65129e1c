"""`tagalong explain`: what happened, from a crash with tags."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from tagalong.cli.explain_text import explain_report
from tagalong.cli.granule_text import granule_report
from tagalong.cli.map_text import page_report
from tagalong.cli.tag_colors import show
from tagalong.cli.values import FILE
from tagalong.errors import UsageError
from tagalong.explain.analysis import explain
from tagalong.explain.explanation import Explanation
from tagalong.explain.readers import open_crashes
from tagalong.explain.redaction import redact
from tagalong.views.granules import granules_of_fault
from tagalong.views.page.crash_page import crash_page
from tagalong.views.page.document import write_page

_EPILOG = """\b
Examples:
  tagalong explain core.1234
  tagalong explain core.1234.zst --modules sysroot
  tagalong explain dmesg.txt --report 3
  tagalong explain vm.sock
  tagalong explain tombstone_00.pb --redact --json
  tagalong explain core.1234 --html crash.html
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
@click.option("--html", type=FILE, help="Write a page to look at in a browser to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
def command(
    file: Path,
    *,
    modules: Path | None,
    report: int,
    is_redacted: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Say what happened in the crash FILE, with a probability for each cause.

    FILE is a core of a Linux process, plain or compressed; a snapshot or dump of a guest, or the
    control socket of a running VM; an Android tombstone, text or protobuf; a log with KASAN
    reports; or an Apple crash report of a tag fault.
    """
    if html and as_json:
        raise UsageError("--html and --json were both given: give one of them")
    with open_crashes(file, modules) as crashes:
        if report > len(crashes):
            raise UsageError(f"{file} has {len(crashes)} reports: --report {report} is none")
        found = explain(crashes[report - 1])
        if is_redacted:
            found = redact(found)
        if html:
            click.echo(page_report(write_page(html, crash_page(found))))
        elif as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            click.echo(explain_report(found))
            show(_around(found))


def _around(found: Explanation) -> Iterator[Text | str]:
    """Yield the granules around the fault, with pointer and blocks drawn in."""
    window = granules_of_fault(found)
    if window is not None and window.has_tags:
        yield ""
        yield "Tags around the fault, one digit a granule:"
        yield from granule_report(window)
