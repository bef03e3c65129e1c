"""Progress bars of long work, on standard error and only if that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
)
from rich.table import Column

from tagalong.qapi.migration import MigrationInfo, RamInfo
from tagalong.qapi.saving import SaveInfo, SaveStatus

_Info = TypeVar("_Info")

_BITS_PER_BYTE = 8


def migration_bar(
    console: Console | None = None,
) -> AbstractContextManager[Callable[[MigrationInfo], None]]:
    """Show a bar for the time of a `with` block; call what it gives with query-migrate's answers.

    `console` is standard error unless a test brings another.
    """
    rate = TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True))
    return _bar(console, "migrating", _update, rate)


def save_bar(console: Console | None = None) -> AbstractContextManager[Callable[[SaveInfo], None]]:
    """Show a bar for a snapshot or a dump; call what it gives with query-dump's answers.

    `console` is standard error unless a test brings another.
    """
    return _bar(console, "saving", _update_save)


@contextmanager
def _bar(
    console: Console | None,
    title: str,
    update: Callable[[Progress, TaskID, _Info], None],
    *more: ProgressColumn,
) -> Iterator[Callable[[_Info], None]]:
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _ignore
        return
    # The figures are what somebody looks for: where there is little room the bar is short.
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
    )
    # Shown with the first answer and gone with the last: other lines stand before and after.
    progress = Progress(*columns, *more, console=console, transient=True, expand=True)
    task = progress.add_task(title, total=None, rate="")
    try:
        yield lambda info: update(progress, task, info)
    finally:
        progress.stop()


def _update_save(progress: Progress, task: TaskID, info: SaveInfo) -> None:
    if info.status is not SaveStatus.ACTIVE:
        progress.stop()
        return
    progress.start()
    stage, number = info.stage or "saving", info.round_number or 0
    progress.update(
        task,
        description=f"{stage}, round {number}" if number > 1 else stage,
        total=info.total_bytes or None,
        completed=info.completed_bytes,
    )


def _ignore(_: object) -> None:
    pass


def _update(progress: Progress, task: TaskID, info: MigrationInfo) -> None:
    if info.status.is_final:
        progress.stop()
        return
    progress.start()
    if info.ram is None or info.ram.rounds == 0:
        return  # the first round has not begun
    progress.update(
        task,
        description=f"round {info.ram.rounds}",
        total=info.ram.total_bytes,
        completed=info.ram.total_bytes - info.ram.remaining_bytes,
        rate=", ".join(_figures(info, info.ram)),
    )


def _figures(info: MigrationInfo, ram: RamInfo) -> Iterator[str]:
    """Yield what is known: how fast it goes, how fast the guest is, and what that comes to."""
    if ram.megabits_per_s:
        yield f"{ram.megabits_per_s / _BITS_PER_BYTE:,.0f} MB/s"
    if ram.dirty_pages_per_s:
        yield f"guest {ram.dirty_pages_per_s * ram.page_size_bytes / 1e6:,.0f} MB/s"
    if info.expected_downtime_ms is not None:
        yield f"downtime {info.expected_downtime_ms} ms"
    if info.throttle_percent:
        yield f"slowed {info.throttle_percent} %"
