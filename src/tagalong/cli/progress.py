"""Progress bars of long work, on standard error and only if that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
)
from rich.table import Column

from tagalong.qapi.migration import MigrationInfo, RamInfo
from tagalong.qapi.saving import SaveInfo, SaveStatus

_Info_contra = TypeVar("_Info_contra", contravariant=True)

_BITS_PER_BYTE = 8


def migration_bar(
    console: Console | None = None,
) -> AbstractContextManager[Callable[[MigrationInfo], None]]:
    """Show a bar for the length of a `with` block; call the result with query-migrate's answers.

    `console` is standard error unless a test brings another.
    """
    rate = TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True))
    return _bar(console, MigrationRounds(), rate)


def save_bar(console: Console | None = None) -> AbstractContextManager[Callable[[SaveInfo], None]]:
    """Show a bar for a snapshot or a dump; call what it yields with query-dump's answers.

    `console` is standard error unless a test brings another.
    """
    return _bar(console, SavingStages())


@dataclass(frozen=True)
class BarState:
    """What a bar shows: a title, how much of how much, and figures."""

    title: str
    done_bytes: int
    total_bytes: int
    figures: str = ""


class _Work(Protocol[_Info_contra]):
    """Turns answers about some work into views of it."""

    def is_over(self, info: _Info_contra) -> bool:
        """Return whether the work has ended."""
        ...

    def view(self, info: _Info_contra) -> BarState | None:
        """Return what to show; None while there is nothing to count yet."""
        ...


@contextmanager
def _bar(
    console: Console | None, work: _Work[_Info_contra], *more: ProgressColumn
) -> Iterator[Callable[[_Info_contra], None]]:
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _ignore
        return
    # The figures matter most: where there is little room the bar is short.
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
    )
    # Shown with the first view and removed with the last: other lines come before and after.
    progress = Progress(*columns, *more, console=console, transient=True, expand=True)
    task = progress.add_task("", total=None, rate="")

    def show(info: _Info_contra) -> None:
        if work.is_over(info):
            progress.stop()
        elif (view := work.view(info)) is not None:
            progress.update(
                task,
                description=view.title,
                completed=view.done_bytes,
                total=view.total_bytes,
                rate=view.figures,
            )
            progress.start()

    try:
        yield show
    finally:
        progress.stop()


def _ignore(_: object) -> None:
    pass


class SavingStages:
    """A snapshot or a dump."""

    def is_over(self, info: SaveInfo) -> bool:
        """As in _Work."""
        return info.status is not SaveStatus.ACTIVE

    def view(self, info: SaveInfo) -> BarState | None:
        """As in _Work."""
        if not info.total_bytes:
            return None
        stage, number = info.stage or "saving", info.round_number or 0
        title = f"{stage}, round {number}" if number > 1 else stage
        return BarState(title, info.completed_bytes, info.total_bytes)


class MigrationRounds:
    """A migration, a bar per round.

    A round has no size of its own in query-migrate: that says what is left of it. So a round is as
    large as the most that was ever left of it. Measured against all of RAM instead, every round
    but the first would begin almost full.
    """

    def __init__(self) -> None:
        self._round = 0
        self._round_bytes = 0

    def is_over(self, info: MigrationInfo) -> bool:
        """As in _Work."""
        return info.status.is_final

    def view(self, info: MigrationInfo) -> BarState | None:
        """As in _Work."""
        ram = info.ram
        if ram is None or not ram.rounds:
            return None
        if ram.rounds != self._round:
            self._round, self._round_bytes = ram.rounds, 0
        self._round_bytes = max(self._round_bytes, ram.remaining_bytes)
        if not self._round_bytes:
            return None
        done = self._round_bytes - ram.remaining_bytes
        figures = ", ".join(_figures(info, ram))
        return BarState(f"round {ram.rounds}", done, self._round_bytes, figures)


def _figures(info: MigrationInfo, ram: RamInfo) -> Iterator[str]:
    """Yield what is known: how fast it is, how fast the guest is, and the downtime to expect."""
    if ram.megabits_per_s:
        yield f"{ram.megabits_per_s / _BITS_PER_BYTE:,.0f} MB/s"
    if ram.dirty_pages_per_s:
        yield f"guest {ram.dirty_pages_per_s * ram.page_size_bytes / 1e6:,.0f} MB/s"
    if info.expected_downtime_ms is not None:
        yield f"downtime {info.expected_downtime_ms} ms"
    if info.throttle_percent:
        yield f"slowed {info.throttle_percent} %"
