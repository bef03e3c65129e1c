"""Tells a caller how far a migration is, and hears from it when to stop."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tagalong.errors import MigrationCancelledError, MigrationStage
from tagalong.machine import MachineDescription
from tagalong.migrate.report import Progress

_EVERY_S = 0.1

ProgressCallback = Callable[[Progress], None]


class CancelToken(Protocol):
    """Says whether a migration is to be cancelled; a threading.Event is one."""

    def is_set(self) -> bool:
        """Return whether it is."""
        ...


def check_cancelled(cancel: CancelToken | None) -> None:
    """Raise MigrationCancelledError if the migration is to be cancelled."""
    if cancel is not None and cancel.is_set():
        raise MigrationCancelledError("the migration was cancelled")


class Monitor:
    """Calls `callback` with every change of stage or round, and else ten times a second."""

    def __init__(self, description: MachineDescription, callback: ProgressCallback | None) -> None:
        self.progress = Progress(
            MigrationStage.CONNECT, 0, description.ram_bytes, 0, 0, 0, 0,
            page_size_bytes=description.page_size_bytes,
        )  # fmt: skip
        self._callback = callback
        self._due = 0.0

    def note(self, **changed: object) -> None:
        """Take in what has changed without a call: raises nothing."""
        self.progress = replace(self.progress, **changed)  # type: ignore[arg-type]

    def update(self, **changed: object) -> None:
        """Take in what has changed, by field name of Progress. Raises what the callback raises."""
        before = self.progress
        self.note(**changed)
        now = time.monotonic()
        is_step = (self.progress.stage, self.progress.round_number) != (
            before.stage,
            before.round_number,
        )
        if self._callback is not None and (is_step or now >= self._due):
            self._due = now + _EVERY_S
            self._callback(self.progress)
