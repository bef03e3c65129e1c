"""How a set-up reports its progress; the command line draws it."""

from typing import Protocol


class Observer(Protocol):
    """Receives the steps of a set-up, one after the other."""

    def step(self, title: str) -> None:
        """Record that the step `title` begins and the step before it has ended."""

    def progress(self, fraction: float | None, detail: str) -> None:
        """Record which share of the step is done (0 to 1; None: unknown) and what it works on."""


class SilentObserver:
    """An observer that reports nothing."""

    def step(self, title: str) -> None:
        """Do nothing."""

    def progress(self, fraction: float | None, detail: str) -> None:
        """Do nothing."""
