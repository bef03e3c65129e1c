"""Fixed layouts: the byte tables of the documents in docs/formats as code.

A `Layout` is one table. A test parses the document and compares the two, so that neither
can change alone.
"""

import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes, to send or to receive into."""

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


class MalformedError(Exception):
    """A value that the format does not allow; `offset` counts from the record's start.

    Internal to the package: the reader of the whole stream or file turns it into an error that
    says whose bytes they are and where they are, which only that reader knows.
    """

    def __init__(self, message: str, *, offset: int = 0) -> None:
        self.offset = offset
        super().__init__(message)


class Layout:
    """A sequence of fields without padding, little-endian.

    `fields` are (name, type) with type u8, u16, u32, u64, or a number of bytes. A field
    named `reserved` is written as zero, and rejected if it is not zero.
    """

    def __init__(self, *fields: tuple[str, str | int]) -> None:
        self.fields = fields
        self._struct = struct.Struct("<" + "".join(_code(kind) for _, kind in fields))
        self._names = [name for name, _ in fields]
        sizes = [struct.calcsize("<" + _code(kind)) for _, kind in fields]
        self.offsets = {name: sum(sizes[:place]) for place, name in enumerate(self._names)}
        self.size = self._struct.size
        self._of_bytes = [(name, kind) for name, kind in fields if isinstance(kind, int)]

    def pack(self, **values: int | bytes) -> bytes:
        """Return the fields as bytes. Raises MalformedError for a value that does not fit."""
        if "reserved" in self.offsets:
            values["reserved"] = 0
        for name, size in self._of_bytes:
            value = values[name]
            if isinstance(value, bytes) and len(value) != size:
                raise MalformedError(f"{name} has {len(value):#x} bytes, not {size:#x}")
        try:
            return self._struct.pack(*map(values.__getitem__, self._names))
        except struct.error as error:
            raise MalformedError(f"{values} do not fit their fields: {error}") from error

    def unpack(self, buffer: Buffer, at: int = 0, *, base: int = 0) -> dict[str, Any]:
        """Return the fields that lie in `buffer` from `at` on, by name.

        `base` is where the buffer lies in its record. Raises MalformedError if the buffer
        is too short or `reserved` is not zero.
        """
        if len(buffer) - at < self.size:
            raise MalformedError(
                f"{self.size:#x} bytes are needed for {', '.join(self._names)}, but "
                f"{len(buffer) - at:#x} are left",
                offset=base + at,
            )
        values = dict(zip(self._names, self._struct.unpack_from(buffer, at), strict=True))
        if values.get("reserved"):
            raise MalformedError(
                f"a reserved field is {values['reserved']:#x} and must be zero",
                offset=base + at + self.offsets["reserved"],
            )
        return values

    def rows(self, buffer: Buffer) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over the fields of each of the rows that fill `buffer`, as tuples.

        For tables of many rows: nothing is named and nothing is checked.
        """
        return self._struct.iter_unpack(buffer)


def _code(kind: str | int) -> str:
    return f"{kind}s" if isinstance(kind, int) else _CODES[kind]
