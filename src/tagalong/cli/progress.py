"""Progress bars of long work, on standard error and only if that is a terminal."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import cast

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

from tagalong.vmm.record import MigrationStatus
from tagalong.vmm.save_record import SaveStatus

Info = Mapping[str, object]

_BITS_PER_BYTE = 8


def migration_bar(
    console: Console | None = None,
) -> AbstractContextManager[Callable[[Info], None]]:
    """Show a bar for the time of a `with` block; call what it gives with query-migrate's answers.

    `console` is standard error unless a test brings another.
    """
    rate = TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True))
    return _bar(console, "migrating", _update, rate)


def save_bar(console: Console | None = None) -> AbstractContextManager[Callable[[Info], None]]:
    """Show a bar for a snapshot or a dump; call what it gives with query-dump's answers.

    `console` is standard error unless a test brings another.
    """
    return _bar(console, "saving", _update_save)


@contextmanager
def _bar(
    console: Console | None,
    title: str,
    update: Callable[[Progress, TaskID, Info], None],
    *more: ProgressColumn,
) -> Iterator[Callable[[Info], None]]:
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


def _update_save(progress: Progress, task: TaskID, info: Info) -> None:
    if info["status"] != SaveStatus.ACTIVE.value:
        progress.stop()
        return
    progress.start()
    stage, number = str(info.get("x-stage") or "saving"), cast("int", info.get("x-round", 0))
    progress.update(
        task,
        description=f"{stage}, round {number}" if number > 1 else stage,
        total=cast("int", info["total"]) or None,
        completed=cast("int", info["completed"]),
    )


def _ignore(_: Info) -> None:
    pass


def _update(progress: Progress, task: TaskID, info: Info) -> None:
    if MigrationStatus(info["status"]).is_final:
        progress.stop()
        return
    progress.start()
    ram = cast("dict[str, int]", info.get("ram", {}))
    if not ram.get("dirty-sync-count"):
        return  # the first round has not begun
    progress.update(
        task,
        description=f"round {ram['dirty-sync-count']}",
        total=ram["total"],
        completed=ram["total"] - ram["remaining"],
        rate=", ".join(_figures(info, ram)),
    )


def _figures(info: Info, ram: Mapping[str, int]) -> Iterator[str]:
    """Yield what is known: how fast it goes, how fast the guest is, and what that comes to."""
    if ram["mbps"]:
        yield f"{ram['mbps'] / _BITS_PER_BYTE:,.0f} MB/s"
    if dirty := ram.get("dirty-pages-rate"):
        yield f"guest {dirty * ram['page-size'] / 1e6:,.0f} MB/s"
    if (expected := info.get("expected-downtime")) is not None:
        yield f"downtime {expected} ms"
    if throttled := info.get("cpu-throttle-percentage"):
        yield f"slowed {throttled} %"
