"""What a set-up of the lab shows: its steps while it is at work, and what there is at its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tagalong.cli.message import announce

_DETAIL_WIDTH = 40


class _Lines:
    """Says each step in a line: standard error is a file or a pipe."""

    def step(self, title: str) -> None:
        announce(f"{title} ...")

    def progress(self, fraction: float | None, detail: str) -> None:
        pass


class _Bars:
    """Draws a bar for each step; those that are done stay."""

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
        """Show that the last step is done."""
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0, detail="")

    def close(self) -> None:
        """Leave the steps on the terminal as they are."""
        self._progress.stop()


@contextmanager
def setup_bars(console: Console | None = None) -> Iterator[_Lines | _Bars]:
    """Show a set-up's steps for the time of a `with` block, which gives the observer.

    `console` is standard error unless a test brings another; without a terminal the steps
    are lines, and a set-up that has nothing to do shows nothing either way.
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
    """Return in words what the lab is made of."""
    packages = ", ".join(cast("list[str]", facts["packages"]))
    rows = {
        "folder": facts["folder"],
        "emulator": f"QEMU {facts['qemu']}, {facts['granules_checked']} granules of a page "
        "tagged and read back right",
        "kernel": f"Linux {facts['kernel']}",
        "Python": f"{facts['python']} with {packages}",
        "checkout": facts["checkout"],
    }
    lines = ["The lab is ready: an Arm host with KVM and MTE.", ""]
    lines += [f"  {name:<9} {value}" for name, value in rows.items()]
    return "\n".join([*lines, "", "Try: tagalong lab run -- uname -a"])
