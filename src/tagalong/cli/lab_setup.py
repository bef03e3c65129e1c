"""What `tagalong lab setup` shows: its steps while it works, and a summary at the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tagalong.cli.message import announce

_DETAIL_WIDTH = 40


class _Lines:
    """Prints a line per step, for a standard error that is a file or a pipe."""

    def step(self, title: str) -> None:
        announce(f"{title} ...")

    def progress(self, fraction: float | None, detail: str) -> None:
        pass


class _Bars:
    """Draws a bar per step; finished bars stay on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def step(self, title: str) -> None:
        self.finish()
        self._progress.start()
        self._task = self._progress.add_task(title, total=None, detail="")

    def progress(self, fraction: float | None, detail: str) -> None:
        if self._task is not None:
            total = None if fraction is None else 1.0
            self._progress.update(
                self._task, total=total, completed=fraction or 0, detail=detail[:_DETAIL_WIDTH]
            )

    def finish(self) -> None:
        """Show the last step as done."""
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0, detail="")

    def close(self) -> None:
        """Stop drawing; the bars stay on the terminal."""
        self._progress.stop()


@contextmanager
def setup_bars(console: Console | None = None) -> Iterator[_Lines | _Bars]:
    """Yield an observer that shows the steps of a set-up.

    `console` defaults to standard error. Without a terminal, steps are lines. A set-up with
    nothing to do shows nothing.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    bars = _Bars(Progress(*columns, console=console))
    try:
        yield bars
        bars.finish()
    finally:
        bars.close()


def setup_report(facts: Mapping[str, object]) -> str:
    """Return a summary of the lab's pieces in words."""
    packages = ", ".join(cast("list[str]", facts["packages"]))
    rows = {
        "folder": facts["folder"],
        "emulator": f"QEMU {facts['qemu']}; {facts['granules_checked']} granules of a page "
        "tagged and read back correctly",
        "kernel": f"Linux {facts['kernel']}",
        "Python": f"{facts['python']} with {packages}",
        "checkout": facts["checkout"],
    }
    lines = ["The lab is ready: an Arm host with KVM and MTE.", ""]
    lines += [f"  {name:<9} {value}" for name, value in rows.items()]
    return "\n".join([*lines, "", "Try: tagalong lab run -- uname -a"])
