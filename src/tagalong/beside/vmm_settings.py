"""The VMM's settings as they were before we drove it, in a file: they outlive this process.

While we drive, the VMM waits at its switch-over for us. If this process is killed then, the next
one beside the VMM (`attach`) finds the file, ends what was under way and restores the settings.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from tagalong.beside.monitor import VmmMonitor
from tagalong.errors import ControlError, HostError
from tagalong.qapi.json_fields import JsonFields, JsonReader, boolean, fields, integer

PAUSE_FIRST: Final = "pause-before-switchover"
EVENTS: Final = "events"
RETURN_PATH: Final = "return-path"
DOWNTIME_LIMIT: Final = "downtime-limit"
MAX_BANDWIDTH: Final = "max-bandwidth"
SWITCHOVER_BANDWIDTH: Final = "avail-switchover-bandwidth"

PARAMETERS: Final = (DOWNTIME_LIMIT, MAX_BANDWIDTH, SWITCHOVER_BANDWIDTH)

_CAPABILITIES = (PAUSE_FIRST, EVENTS, RETURN_PATH)
_MAX_BYTES = 4096

_T = TypeVar("_T")


@dataclass(frozen=True)
class VmmSettings:
    """Settings of a VMM's migration: capabilities, and parameters that are numbers, by name."""

    capabilities: Mapping[str, bool] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)

    def apply(self, monitor: VmmMonitor) -> None:
        """Set them. Raises as VmmMonitor's methods."""
        if self.capabilities:
            monitor.set_capabilities(self.capabilities)
        if self.parameters:
            monitor.ask("migrate-set-parameters", self.parameters)


class SettingsFile:
    """The file `path`; it is there only while the VMM has settings of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, settings: VmmSettings) -> None:
        """Note what is to be restored. Raises HostError."""
        text = json.dumps(
            {
                "capabilities": dict(settings.capabilities),
                "parameters": dict(settings.parameters),
            }
        )
        self.remove()
        try:
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        except OSError as error:
            raise HostError(
                f"cannot note the VMM's settings in {self.path}: {error.strerror}"
            ) from error

    def read(self) -> VmmSettings | None:
        """Return what is to be restored; None if nothing is. What makes no sense is left out."""
        try:
            with self.path.open() as file:
                members = JsonFields(json.loads(file.read(_MAX_BYTES)), self.path.name)
            return VmmSettings(
                _known(members.read("capabilities", fields), _CAPABILITIES, boolean),
                _known(members.read("parameters", fields), PARAMETERS, integer),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, ControlError):
            return VmmSettings()

    def remove(self) -> None:
        """Forget it: the settings are restored."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _known(members: JsonFields, names: Iterable[str], reader: JsonReader[_T]) -> dict[str, _T]:
    return {name: members.read(name, reader) for name in names if name in members}
