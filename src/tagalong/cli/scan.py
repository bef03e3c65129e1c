"""`tagalong scan`: explains many crashes, and groups them."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tagalong.cli.map_text import page_report
from tagalong.cli.message import announce
from tagalong.cli.scan_text import interrupted_text, scan_json, scan_report
from tagalong.cli.values import FILE
from tagalong.scan.groups import ScanResult
from tagalong.scan.page import scan_page
from tagalong.scan.scanning import ScanPlan, ScanProgress, scan
from tagalong.views.page.document import new_page

_EPILOG = """\b
Examples:
  tagalong scan /var/crash
  tagalong scan 'cores/**/core.*' --out crashes.jsonl --html crashes.html
  tagalong scan s3://bucket/tombstones --out crashes.parquet
  tagalong scan s3://bucket/cores --scheduler tcp://host:8786 --out all.jsonl
\b
Exit status: 0, also if files could not be explained; they are counted.
"""


@click.command(epilog=_EPILOG)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option(
    "--out",
    type=FILE,
    help="Write a record per crash: a table if it ends in .parquet, else lines of JSON.",
)
@click.option("--html", type=FILE, help="Write a page about the groups to this file.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler.")
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=os.cpu_count() or 1,
    show_default="CPUs",
    help="Processes to run here.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds that one file may take, from its last byte that came.",
)
@click.option(
    "--groups",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="How many groups to print.",
)
@click.option("--fresh", is_flag=True, help="Write over OUT instead of going on with it.")
@click.option("--json", "as_json", is_flag=True, help="Print the groups as JSON.")  # fmt: skip
def command(
    patterns: tuple[str, ...],
    *,
    html: Path | None,
    groups: int,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Explain every crash that PATTERN names, group what is alike, and rank the groups.

    PATTERN is a file, a folder, or a pattern with *, ** and ?; a path, or a URL that fsspec opens
    (s3, gs, http, ...). With --out a scan that was stopped goes on where it was when the same
    command runs again. A file that cannot be explained never ends a scan.
    """
    plan = ScanPlan(patterns, **wishes)
    with ExitStack() as stack:
        write_page = stack.enter_context(new_page(html)) if html else None
        result = _scanned(plan)
        if as_json:
            click.echo(json.dumps(scan_json(result, groups), indent=2))
        else:
            click.echo(scan_report(result, groups))
        if write_page:
            announce(page_report(write_page(scan_page(result))))


def _scanned(plan: ScanPlan) -> ScanResult:
    with _bar() as show:
        try:
            return scan(plan, show)
        except KeyboardInterrupt:
            announce(interrupted_text(plan.out))
            raise


@contextmanager
def _bar() -> Iterator[Callable[[ScanProgress], None]]:
    """Show how many files are done, on standard error and only if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("explaining"), BarColumn(bar_width=None), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda now: progress.update(task, completed=now.done, total=now.total)
