"""Draws a progress bar on a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Column

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tagalong.cli.progress import BarState


class Bar:
    """A bar, shown with the first state and removed with the last: lines come before and after."""

    def __init__(self, console: Console) -> None:
        # The figures matter most: where there is little room the bar is short.
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, figures="")

    def show(self, state: BarState) -> None:
        """Show what is done of how much."""
        self._progress.update(
            self._task,
            description=state.title,
            completed=state.done_bytes,
            total=state.total_bytes,
            figures=state.figures,
        )
        self._progress.start()

    def stop(self) -> None:
        """Remove the bar. Safe to call twice."""
        self._progress.stop()


@contextmanager
def bar_on(console: Console | None) -> Iterator[Bar]:
    """Yield a bar on `console`, None for standard error; it is gone afterwards."""
    shown = Bar(console or Console(stderr=True))
    try:
        yield shown
    finally:
        shown.stop()
