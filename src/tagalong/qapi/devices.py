"""The disks and consoles of a VM, as query-block, query-chardev and BLOCK_IO_ERROR tell of them.

The members are QEMU's (qapi/block-core.json): of those that are about what a disk of ours never
does, such as throttling, the ones that QEMU's own schema demands, with what they say there.
"""

from dataclasses import dataclass
from typing import Final

from tagalong.qapi.json_fields import JsonFields, boolean, fields, integer, text

_UNLIMITED: Final = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
_CACHE: Final = {"writeback": True, "direct": False, "no-flush": False}
_QOM_FOLDER: Final = "/machine/peripheral"


@dataclass(frozen=True)
class BlockInfo:
    """One disk: its name, the path of its image, and its sizes in bytes.

    `actual_bytes`: what the image takes on its own disk, less than `size_bytes` if it has holes.
    `is_active`: the image is this process's to write, which it is not once the VM has left.
    """

    device: str
    path: str
    read_only: bool
    size_bytes: int
    actual_bytes: int
    is_active: bool = True

    def to_qmp(self) -> dict[str, object]:
        """Return one element of what query-block answers."""
        image = {
            "filename": self.path,
            "format": "raw",
            "virtual-size": self.size_bytes,
            "actual-size": self.actual_bytes,
        }
        inserted = {
            "file": self.path,
            "node-name": self.device,
            "ro": self.read_only,
            "drv": "raw",
            "backing_file_depth": 0,
            "encrypted": False,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "active": self.is_active,
            "cache": _CACHE,
            "image": image,
            **dict.fromkeys(_UNLIMITED, 0),
        }
        return {
            "device": self.device,
            "qdev": self.device,
            "type": "hd",
            "removable": False,
            "locked": False,
            "io-status": "ok",
            "inserted": inserted,
        }

    @classmethod
    def from_qmp(cls, value: object) -> "BlockInfo":
        """Return a disk that query-block told of. Raises ControlError if it makes no sense."""
        members = JsonFields(value, "query-block")
        inserted = members.read("inserted", fields)
        image = inserted.read("image", fields)
        return cls(
            members.read("device", text),
            inserted.read("file", text),
            inserted.read("ro", boolean),
            image.read("virtual-size", integer),
            image.read("actual-size", integer),
            inserted.read("active", boolean),
        )


@dataclass(frozen=True)
class CharDevice:
    """Where a console is: `label` names the console, `filename` has the words of QEMU's."""

    label: str
    filename: str

    def to_qmp(self) -> dict[str, object]:
        """Return one element of what query-chardev answers."""
        return {"label": self.label, "filename": self.filename, "frontend-open": True}


@dataclass(frozen=True)
class BlockIoError:
    """A failed access to an image: the event BLOCK_IO_ERROR.

    `operation`: "read" or "write". The guest learns of it too (action "report").
    """

    device: str
    operation: str
    no_space: bool
    reason: str

    def to_event(self) -> dict[str, object]:
        """Return the event's data."""
        return {
            "qom-path": f"{_QOM_FOLDER}/{self.device}",
            "device": self.device,
            "node-name": self.device,
            "operation": self.operation,
            "action": "report",
            "nospace": self.no_space,
            "reason": self.reason,
        }

    @classmethod
    def from_event(cls, data: object) -> "BlockIoError":
        """Return what an event told of. Raises ControlError if it makes no sense."""
        members = JsonFields(data, "BLOCK_IO_ERROR")
        return cls(
            members.read("device", text),
            members.read("operation", text),
            members.read("nospace", boolean),
            members.read("reason", text),
        )
