"""How a set-up tells what it is doing; the command line draws it."""

from typing import Protocol


class Observer(Protocol):
    """Hears of a set-up's steps, one after the other."""

    def step(self, title: str) -> None:
        """Take note that the step `title` begins, and the one before it is over."""

    def progress(self, fraction: float | None, detail: str) -> None:
        """Take note how much of the step is done (0 to 1, None: unknown), and what it is at."""


class Silence:
    """An observer that says nothing."""

    def step(self, title: str) -> None:
        """Do nothing."""

    def progress(self, fraction: float | None, detail: str) -> None:
        """Do nothing."""
