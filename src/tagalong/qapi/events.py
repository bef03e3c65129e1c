"""An event that a VM sends over its control socket.

The members are QEMU's (docs/interop/qmp-spec.rst, "Asynchronous events").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tagalong.printable import printable
from tagalong.qapi.json_fields import JsonFields, fields, integer, text

_US_PER_S = 1e6
_WHAT = "event"


@dataclass(frozen=True)
class VmEvent:
    """What happened, with its data, and when: seconds since 1970."""

    name: str
    time_s: float
    data: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_qmp(cls, value: Mapping[str, object]) -> "VmEvent":
        """Return the event in a QMP message. Raises ControlError if it makes no sense."""
        members = JsonFields(value, _WHAT)
        when = members.read("timestamp", fields)
        data = value.get("data")
        return cls(
            members.read("event", text),
            when.read("seconds", integer) + when.read("microseconds", integer) / _US_PER_S,
            data if isinstance(data, Mapping) else {},
        )

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes."""
        return {"event": self.name, "time_s": self.time_s, "data": dict(self.data)}

    def to_line(self) -> str:
        """Return one line for people: local time, name, and the data as JSON."""
        when = datetime.fromtimestamp(self.time_s).astimezone()
        line = f"{when:%H:%M:%S}.{when.microsecond // 1000:03} {self.name}"
        return printable(f"{line} {json.dumps(self.data)}" if self.data else line)
