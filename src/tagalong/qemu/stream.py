"""QEMU's migration stream in a file: its elements, in one pass from front to back.

    QEVM, version | configuration | ram: setup, parts, end | devices | end | description

All devices' states are passed by the sizes that the description has; what they mean is not looked
at here. Source: QEMU migration/savevm.c (qemu_savevm_state_*, qemu_loadvm_state_main).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tagalong.core.reader import QEMU_STREAM_MAGIC
from tagalong.core.source import Source
from tagalong.errors import CoreError
from tagalong.mte import PAGE_SIZES_BYTES
from tagalong.qemu.cursor import Cursor
from tagalong.qemu.description import (
    Description,
    DeviceFields,
    Field,
    find_description,
    read_fields,
)
from tagalong.qemu.ram import RAM_VERSION, RamBlock, RamSection

_VERSION: Final = 3
_EOF, _START, _PART, _END, _FULL = range(5)
_CONFIGURATION: Final = 0x07
_COMMAND: Final = 0x08
_FOOTER: Final = 0x7E

_OPEN_RETURN_PATH, _PING = 1, 2
_SWITCHOVER_START: Final = 11
_HARMLESS: Final = {_OPEN_RETURN_PATH, _PING, _SWITCHOVER_START}
_MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True)
class SavedDevice:
    """The state of one device: its fields by name, in the file."""

    name: str
    instance: int
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class SavedStream:
    """What a stream holds.

    `machine`: QEMU's name of the machine type, "" in a stream without one. `blocks`: RAM by the
    names of QEMU's blocks. `devices`: by name and instance.
    """

    machine: str
    page_size_bytes: int
    blocks: Mapping[str, RamBlock]
    devices: Mapping[tuple[str, int], SavedDevice]


def read_stream(source: Source, path: str, at: int = 0) -> SavedStream:
    """Return what the stream from byte `at` of a file holds.

    Raises MalformedCoreError, with the offset, for what no QEMU writes or what was cut short;
    CoreError, with the way out, for what cannot be read.
    """
    description = find_description(source, path)
    return _Reader(Cursor(source, f"{path}: QEMU stream", at), description).run()


class _Reader:
    def __init__(self, cursor: Cursor, description: Description) -> None:
        self._cursor = cursor
        self._description = description
        self._machine = ""
        self._capabilities: frozenset[str] = frozenset()
        self._is_configured = False
        self._ram: RamSection | None = None
        self._ram_id = -1
        self._devices: dict[tuple[str, int], SavedDevice] = {}
        self._described = self._by_name()

    def _by_name(self) -> dict[tuple[str, int], DeviceFields]:
        page = self._description.page_size_bytes
        if page not in PAGE_SIZES_BYTES:
            self._cursor.fail(f"the description has pages of {page:#x} bytes")
        return {(each.name, each.instance): each for each in self._description.devices}

    def run(self) -> SavedStream:
        cursor, start = self._cursor, self._cursor.at
        magic, version = cursor.take(4), cursor.number(4)
        if (magic, version) != (QEMU_STREAM_MAGIC, _VERSION):
            cursor.fail(f"{magic!r} of version {version:#x} is no stream of QEMU", at=start)
        while self._read_element():
            pass
        if cursor.at != self._description.at:
            cursor.fail(
                f"the stream ends here, but its description is at {self._description.at:#x}"
            )
        if self._ram is None:
            cursor.fail("the stream has no RAM")
        return SavedStream(
            self._machine,
            self._description.page_size_bytes,
            self._ram.blocks,
            self._devices,
        )

    def _read_element(self) -> bool:
        """Read one element; return whether another follows."""
        cursor, start = self._cursor, self._cursor.at
        kind = cursor.number(1)
        if kind == _EOF:
            return False
        if kind == _CONFIGURATION:
            self._read_configuration()
        elif kind == _COMMAND:
            self._read_command()
        elif kind in (_START, _FULL):
            self._read_section(is_live=kind == _START)
        elif kind in (_PART, _END):
            self._read_part()
        else:
            cursor.fail(f"an element of type {kind:#x}, which is not known", at=start)
        return True

    def _read_configuration(self) -> None:
        cursor, start = self._cursor, self._cursor.at
        if self._is_configured:
            cursor.fail("a configuration for the second time", at=start)
        self._is_configured = True
        node = self._description.configuration
        if node is None:  # not described before QEMU 2.12
            self._machine = self._machine_name(cursor.number(4))
            return
        fields = read_fields(cursor, node, "configuration")
        end, name = cursor.at, fields.get("name")
        if name is None:
            cursor.fail("the configuration has no name of a machine", at=start)
        cursor.at = name.at
        self._machine = self._machine_name(name.size_bytes * name.count)
        self._capabilities = frozenset(self._read_capabilities(fields))
        cursor.at = end
        if "x-ignore-shared" in self._capabilities:
            raise CoreError(
                "this stream was sent with x-ignore-shared: shared RAM is not in it; save the "
                "guest again with x-ignore-shared off"
            )

    def _machine_name(self, size: int) -> str:
        if size > _MAX_NAME_BYTES:
            self._cursor.fail(f"a machine's name of {size:#x} bytes")
        return self._cursor.text(size, "the machine")

    def _read_capabilities(self, fields: Mapping[str, Field]) -> list[str]:
        """Return the names in the subsection "capabilities"; each has its length before it."""
        place = fields.get("capabilities")
        if place is None:
            return []
        self._cursor.at = place.at
        return [self._cursor.name("a capability") for _ in range(place.count)]

    def _read_command(self) -> None:
        cursor, start = self._cursor, self._cursor.at
        command, length = cursor.number(2), cursor.number(2)
        cursor.view(length)
        if command not in _HARMLESS:
            raise CoreError(
                f"this stream has command {command:#x} (offset {start:#x}), as one of a post-copy "
                "or COLO migration; save the guest again with postcopy-ram off"
            )

    def _read_section(self, *, is_live: bool) -> None:
        cursor, start = self._cursor, self._cursor.at
        number, name = cursor.number(4), cursor.name("a section")
        instance, version = cursor.number(4), cursor.number(4)
        if is_live:
            self._begin_live(number, name, version, start)
        else:
            self._read_device(name, instance, start)
        self._read_footer(number)

    def _begin_live(self, number: int, name: str, version: int, start: int) -> None:
        if name != "ram":
            raise CoreError(
                f"this stream has a live section {name!r} (offset {start:#x}), whose form is not "
                "known; save the guest again without that device or feature"
            )
        if version != RAM_VERSION or self._ram is not None:
            self._cursor.fail(f"RAM of version {version:#x}, or for the second time", at=start)
        self._ram = RamSection(
            self._cursor,
            self._description.page_size_bytes,
            is_mapped="mapped-ram" in self._capabilities,
        )
        self._ram_id = number
        self._ram.read_setup()

    def _read_part(self) -> None:
        start, number = self._cursor.at, self._cursor.number(4)
        if self._ram is None or number != self._ram_id:
            self._cursor.fail(f"a part of section {number:#x}, which did not begin", at=start)
        self._ram.read_pages()
        self._read_footer(number)

    def _read_device(self, name: str, instance: int, start: int) -> None:
        described = self._described.get((name, instance))
        if described is None:
            self._cursor.fail(f"device {name} {instance:#x} is not in the description", at=start)
        if (name, instance) in self._devices:
            self._cursor.fail(f"device {name} {instance:#x} comes twice", at=start)
        owner = f"device {name} {instance:#x}"
        fields = read_fields(self._cursor, described.node, owner)
        self._devices[name, instance] = SavedDevice(name, instance, fields)

    def _read_footer(self, number: int) -> None:
        """Go past the footer of a section; streams of machine types before 2.4 have none."""
        cursor, start = self._cursor, self._cursor.at
        if cursor.peek() == _FOOTER:
            cursor.number(1)
            if cursor.number(4) != number:
                cursor.fail(f"a footer of another section than {number:#x}", at=start)
