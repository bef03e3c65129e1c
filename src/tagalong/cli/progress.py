"""Progress bars of long work, on standard error and only if that is a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from tagalong._lazy import module_when_used
from tagalong.qapi.saving import SaveInfo, SaveStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console

    from tagalong.cli import bar
    from tagalong.qapi.migration import MigrationInfo, RamInfo
else:
    bar = module_when_used("tagalong.cli.bar")

_Info_contra = TypeVar("_Info_contra", contravariant=True)

_BITS_PER_BYTE = 8


def migration_bar(
    console: Console | None = None,
) -> AbstractContextManager[Callable[[MigrationInfo], None]]:
    """Show a bar for the length of a `with` block; call the result with query-migrate's answers.

    `console` is standard error unless a test brings another.
    """
    return _shown(console, MigrationRounds())


def save_bar(console: Console | None = None) -> AbstractContextManager[Callable[[SaveInfo], None]]:
    """Show a bar for a snapshot or a dump; call what it yields with query-dump's answers.

    `console` is standard error unless a test brings another.
    """
    return _shown(console, SavingStages())


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
def _shown(
    console: Console | None, work: _Work[_Info_contra]
) -> Iterator[Callable[[_Info_contra], None]]:
    is_terminal = sys.stderr.isatty() if console is None else console.is_terminal
    if not is_terminal:
        yield _ignore
        return
    with bar.bar_on(console) as shown:

        def show(info: _Info_contra) -> None:
            if work.is_over(info):
                shown.stop()
            elif (view := work.view(info)) is not None:
                shown.show(view)

        yield show


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
