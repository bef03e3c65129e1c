"""Flattened device trees: a tree of named properties to bytes.

A device tree says to a kernel what a machine has. Everything in it is big-endian, unlike all other
formats here. The same tree gives the same bytes.

Source: Devicetree Specification v0.4, chapter 5 (flattened devicetree format, version 17).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAGIC: Final = 0xD00DFEED
VERSION: Final = 17
OLDEST_COMPATIBLE: Final = 16
HEADER: Final = struct.Struct(">10I")
RESERVATION: Final = struct.Struct(">QQ")

BEGIN_NODE: Final = 1
END_NODE: Final = 2
PROPERTY: Final = 3
END: Final = 9

_TOKEN: Final = struct.Struct(">I")
_PROPERTY_HEADER: Final = struct.Struct(">II")
_TOKEN_ALIGNMENT: Final = 4
_BOOT_CPU: Final = 0


@dataclass(frozen=True)
class FdtNode:
    """A node: its properties in order, and its children, each with its name.

    A name has the form `name` or `name@unit-address`; the root's own name is empty and not here.
    """

    properties: Mapping[str, bytes] = field(default_factory=dict)
    children: Mapping[str, "FdtNode"] = field(default_factory=dict)


def cells(*values: int) -> bytes:
    """Return 32-bit cells. Raises ValueError for a value that does not fit.

    >>> cells(1, 0x4000_0000).hex()
    '0000000140000000'
    """
    return b"".join(_number(value, 4) for value in values)


def wide(*values: int) -> bytes:
    """Return 64-bit numbers, two cells each. Raises ValueError for a value that does not fit."""
    return b"".join(_number(value, 8) for value in values)


def texts(*values: str) -> bytes:
    r"""Return a list of strings. Raises ValueError for one with a NUL in it.

    >>> texts("arm,pl011", "arm,primecell")
    b'arm,pl011\x00arm,primecell\x00'
    """
    if any("\0" in value for value in values):
        raise ValueError(f"a string of a device tree has a NUL: {values}")
    return b"".join(value.encode() + b"\0" for value in values)


def write_fdt(root: FdtNode) -> bytes:
    """Return the flattened tree. Raises ValueError for names that are not ASCII without NUL."""
    writer = _Writer()
    writer.node("", root)
    structure = bytes(writer.structure) + _TOKEN.pack(END)
    strings = bytes(writer.strings)
    # The header's 40 bytes and the one empty reservation keep the structure block aligned.
    reservations = RESERVATION.pack(0, 0)
    structure_at = HEADER.size + len(reservations)
    strings_at = structure_at + len(structure)
    header = HEADER.pack(
        MAGIC, strings_at + len(strings), structure_at, strings_at, HEADER.size, VERSION,
        OLDEST_COMPATIBLE, _BOOT_CPU, len(strings), len(structure),
    )  # fmt: skip
    return header + reservations + structure + strings


class _Writer:
    """The structure block and the names of properties, each of which is there once."""

    def __init__(self) -> None:
        self.structure = bytearray()
        self.strings = bytearray()
        self._places: dict[str, int] = {}

    def node(self, name: str, node: FdtNode) -> None:
        self.structure += _TOKEN.pack(BEGIN_NODE)
        self._padded(_terminated(name))
        for key, value in node.properties.items():
            self.structure += _TOKEN.pack(PROPERTY)
            self.structure += _PROPERTY_HEADER.pack(len(value), self._place_of(key))
            self._padded(value)
        for key, child in node.children.items():
            self.node(key, child)
        self.structure += _TOKEN.pack(END_NODE)

    def _padded(self, data: bytes) -> None:
        self.structure += data
        self.structure += bytes(-len(data) % _TOKEN_ALIGNMENT)

    def _place_of(self, name: str) -> int:
        if name not in self._places:
            self._places[name] = len(self.strings)
            self.strings += _terminated(name)
        return self._places[name]


def _terminated(name: str) -> bytes:
    if "\0" in name or not name.isascii():
        raise ValueError(f"{name!r} cannot be a name in a device tree")
    return name.encode("ascii") + b"\0"


def _number(value: int, size_bytes: int) -> bytes:
    if not 0 <= value < 1 << 8 * size_bytes:
        raise ValueError(f"{value:#x} does not fit into {size_bytes} bytes of a device tree")
    return value.to_bytes(size_bytes, "big")
