"""Reads flattened device trees, strictly: written anew from the specification, for tests.

Source: Devicetree Specification v0.4, chapter 5.
"""

import struct
from dataclasses import dataclass, field


@dataclass
class ReadNode:
    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, "ReadNode"] = field(default_factory=dict)

    def at(self, path: str) -> "ReadNode":
        node = self
        for name in filter(None, path.split("/")):
            node = node.children[name]
        return node

    def cells(self, name: str) -> tuple[int, ...]:
        value = self.properties[name]
        return struct.unpack(f">{len(value) // 4}I", value)

    def wide(self, name: str) -> tuple[int, ...]:
        value = self.properties[name]
        return struct.unpack(f">{len(value) // 8}Q", value)

    def texts(self, name: str) -> list[str]:
        value = self.properties[name]
        assert value.endswith(b"\0")
        return value[:-1].decode().split("\0")


def read_fdt(blob: bytes) -> ReadNode:
    """Return the root. Raises ValueError for anything but one well-formed tree and nothing else."""
    head = _unpack(">10I", blob, 0)
    magic, total, structure, strings, reservations, version, oldest, _cpu, size, length = head
    if (magic, version, oldest) != (0xD00DFEED, 17, 16) or total != len(blob):
        raise ValueError("header")
    if structure % 4 or reservations % 8 or reservations < 40:
        raise ValueError("alignment")
    if reservations + 16 > structure or structure + length > strings or strings + size != total:
        raise ValueError("blocks")
    if _unpack(">QQ", blob, reservations) != (0, 0):
        raise ValueError("reservations")
    reader = _Reader(blob[structure : structure + length], blob[strings : strings + size])
    if reader.token() != 1 or reader.name():
        raise ValueError("root")
    root = reader.node(0)
    if reader.token() != 9 or reader.at != length:
        raise ValueError("end")
    return root


class _Reader:
    def __init__(self, structure: bytes, strings: bytes) -> None:
        self._structure = structure
        self._strings = strings
        self.at = 0

    def token(self) -> int:
        (value,) = _unpack(">I", self._structure, self.at)
        self.at += 4
        return int(value)

    def name(self) -> str:
        end = self._structure.find(b"\0", self.at)
        if end < 0:
            raise ValueError("name")
        return self._padded(end + 1 - self.at)[:-1].decode("ascii")

    def node(self, depth: int) -> ReadNode:
        if depth > 8:
            raise ValueError("depth")
        node = ReadNode()
        while (token := self.token()) != 2:
            if token == 3 and not node.children:
                self._property(node)
            elif token == 1:
                name = self.name()
                if not name or name in node.children:
                    raise ValueError("child")
                node.children[name] = self.node(depth + 1)
            else:
                raise ValueError("token")
        return node

    def _property(self, node: ReadNode) -> None:
        length, place = self.token(), self.token()
        end = self._strings.find(b"\0", place)
        if end < 0 or (place and self._strings[place - 1]):
            raise ValueError("string")
        name = self._strings[place:end].decode("ascii")
        if not name or name in node.properties:
            raise ValueError("property")
        node.properties[name] = self._padded(length)

    def _padded(self, length: int) -> bytes:
        end = self.at + length
        after = end + -length % 4
        if after > len(self._structure) or any(self._structure[end:after]):
            raise ValueError("padding")
        data, self.at = self._structure[self.at : end], after
        return data


def _unpack(form: str, blob: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, blob, at)
    except struct.error as error:
        raise ValueError("cut short") from error
