"""A VMM's monitor that answers as a test says."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from tagalong.beside.driving import Drive, DrivenDeparture
from tagalong.beside.monitor import MigrationNews, VmmMigration, VmmMonitor
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.errors import CommandError, ControlError

PAUSE = "pause-before-switchover"
FULL = 128 << 20
SLOWLY = 1 << 20

_Kind = TypeVar("_Kind", bound=DrivenDeparture)


class ScriptedOrder:
    """A prepared command; `can_send`: whether it can leave at once."""

    can_send = True

    def __init__(self, monitor: "ScriptedMonitor", command: str, arguments: object) -> None:
        self.is_closed = False
        self._monitor = monitor
        self._command, self._arguments = command, arguments
        self._error: ControlError | None = None

    def send(self) -> bool:
        if not self.can_send:
            return False
        try:
            self._monitor.ask(self._command, self._arguments)
        except ControlError as error:
            self._error = error
        return True

    def require_answer(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.is_closed = True


class ScriptedMonitor:
    """A VMM's answers: `states` is what it says, `asked` what it was told.

    A command in `refused` fails, the answer to one in `unanswered` is lost once.
    """

    def __init__(self, settings: Path) -> None:
        self.settings = settings
        self.news = MigrationNews()
        self.state = "running"
        self.mode = "normal"
        self.status = VmmMigration("active")
        self.known = {PAUSE: False, "postcopy-ram": False}
        self.asked: list[tuple[str, object]] = []
        self.refused: set[str] = set()
        self.unanswered: set[str] = set()
        self.after: dict[str, tuple[str, VmmMigration]] = {}

    def run_state(self) -> str:
        return self.state

    def migration(self) -> VmmMigration:
        return self.status

    def migration_mode(self) -> str:
        return self.mode

    def capabilities(self) -> dict[str, bool]:
        return dict(self.known)

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        self.known.update(wanted)

    def parameters(self, _names: object) -> dict[str, int]:
        return {"downtime-limit": 300, "max-bandwidth": FULL}

    def ask(self, command: str, arguments: object = None) -> object:
        if command in self.refused:
            raise CommandError(f"the VM refused {command}")
        self.asked.append((command, arguments))
        if command in self.after:
            self.state, self.status = self.after[command]
        if command in self.unanswered:
            self.unanswered.remove(command)
            raise ControlError(f"no answer to {command}")
        return {}

    def prepare(self, command: str, arguments: object) -> "ScriptedOrder":
        return ScriptedOrder(self, command, arguments)

    def values_of(self, parameter: str) -> list[int]:
        """Return the values that a parameter was given, in order."""
        sets = cast("list[dict[str, int]]", self.told("migrate-set-parameters"))
        return [values[parameter] for values in sets if parameter in values]

    def told(self, command: str) -> list[object]:
        return [arguments for name, arguments in self.asked if name == command]


def departure_of(kind: type[_Kind], monitor: ScriptedMonitor, max_downtime_ms: int) -> _Kind:
    """Return a departure whose VMM says what the script says."""
    drive = Drive("unix:there", max_downtime_ms, SettingsFile(monitor.settings))
    return kind(cast("VmmMonitor", monitor), threading.Event(), drive)
