"""The vCPUs of a VM, as query-cpus-fast tells of them: the form is QEMU's CpuInfoFast."""

from dataclasses import dataclass
from typing import Final

from tagalong.qapi.json_fields import JsonFields, integer

TARGET: Final = "aarch64"
_NO_THREAD: Final = 0


@dataclass(frozen=True)
class CpuInfo:
    """A vCPU, and the host's id of the thread that runs it: None before it first ran."""

    index: int
    thread: int | None

    def to_qmp(self) -> dict[str, object]:
        """Return one element of what query-cpus-fast answers."""
        return {
            "cpu-index": self.index,
            "qom-path": f"/machine/unattached/device[{self.index}]",
            "thread-id": _NO_THREAD if self.thread is None else self.thread,
            "props": {"core-id": self.index},
            "target": TARGET,
        }

    @classmethod
    def from_qmp(cls, value: object) -> "CpuInfo":
        """Return a vCPU that query-cpus-fast told of. Raises ControlError if it makes no sense."""
        members = JsonFields(value, "query-cpus-fast")
        thread = members.read("thread-id", integer)
        return cls(members.read("cpu-index", integer), None if thread == _NO_THREAD else thread)
