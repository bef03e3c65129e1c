"""The description at a stream's end: which fields each device's state has, and their sizes.

QEMU writes it as JSON behind the last device, so that tools can read a stream without knowing its
devices. Source: QEMU migration/vmstate.c (vmsd_desc_field_start and what follows),
scripts/analyze-migration.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tagalong.core.source import Source
from tagalong.errors import CoreError, MalformedCoreError
from tagalong.qemu.cursor import Cursor

MAX_DESCRIPTION_BYTES: Final = 16 << 20
"""The longest description that is read: a vCPU takes some 20 KiB, and virt has 512 at most."""

_VMDESCRIPTION: Final = 0x06
_SUBSECTION: Final = 0x05
_CAPABILITY: Final = "capability"
_HEAD_BYTES: Final = 5
_MAX_DEPTH: Final = 16
_MAX_ELEMENTS: Final = 1 << 16


@dataclass(frozen=True)
class DeviceFields:
    """What the description says of one section: `size_bytes` of state, and how it is made up."""

    name: str
    instance: int
    node: Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A field in the file: `count` elements of `size_bytes` each from byte `at` on."""

    at: int
    size_bytes: int
    count: int


@dataclass(frozen=True)
class Description:
    """The description of a stream, which is at byte `at` of the file."""

    at: int
    page_size_bytes: int
    configuration: Mapping[str, Any] | None
    devices: Sequence[DeviceFields]


def find_description(source: Source, path: str) -> Description:
    """Return the description at the end of a file.

    It is found from the end: the only place where its length leads to the end of the file, or to
    zeros up to there. Raises CoreError if there is none, MalformedCoreError if it makes no sense.
    """
    start = max(0, source.size - MAX_DESCRIPTION_BYTES - _HEAD_BYTES)
    tail = source.view(start, source.size - start)
    used = np.flatnonzero(tail)
    end = int(used[-1]) + 1 if used.size else 0
    marks = np.flatnonzero((tail[:end][:-_HEAD_BYTES] == _VMDESCRIPTION)
                           & (tail[:end][_HEAD_BYTES:] == ord("{")))  # fmt: skip
    for at in marks[::-1].tolist():
        length = int.from_bytes(tail[at + 1 : at + _HEAD_BYTES].tobytes(), "big")
        if at + _HEAD_BYTES + length == end:
            return _parse(tail[at + _HEAD_BYTES : end].tobytes(), path, start + at)
    raise CoreError(
        f"{path} has no description of the devices at its end: it was cut short, or QEMU did not "
        "write one (suppress-vmdesc=on, or a post-copy migration); save the guest again with "
        "`migrate file:PATH`"
    )


def _parse(content: bytes, path: str, at: int) -> Description:
    def refuse(message: str) -> MalformedCoreError:
        return MalformedCoreError(message, offset=at, what=f"{path}: QEMU stream")

    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refuse(f"the description of the devices is no JSON: {error}") from error
    devices, page_size = tree.get("devices"), tree.get("page_size")
    if not isinstance(devices, list) or type(page_size) is not int:
        raise refuse("the description names no devices or no page size")
    found = []
    for device in devices:
        if not isinstance(device, dict):
            raise refuse("a device of the description is no object")
        name, instance = device.get("name"), device.get("instance_id")
        if not isinstance(name, str) or type(instance) is not int:
            raise refuse("a device of the description has no name or no instance_id")
        found.append(DeviceFields(name, instance, device))
    configuration = tree.get("configuration")
    if configuration is not None and not isinstance(configuration, dict):
        raise refuse("the description's configuration is no object")
    return Description(at, page_size, configuration, found)


def read_fields(cursor: Cursor, node: Mapping[str, Any], owner: str) -> dict[str, Field]:
    """Go past the state that `node` describes; return its fields by name, subsections included.

    A field that a subsection has, too, is the subsection's. Elements of an array that are described
    one by one are fields `name[0]`, `name[1]` and so on. `owner` is for errors. Raises
    MalformedCoreError if the file does not have what the description says.
    """
    found: dict[str, Field] = {}
    _read_node(cursor, node, owner, found, depth=0)
    return found


def _read_node(
    cursor: Cursor, node: Mapping[str, Any], owner: str, found: dict[str, Field], depth: int
) -> None:
    if depth > _MAX_DEPTH:
        cursor.fail(f"the description of {owner} has more than {_MAX_DEPTH} levels")
    for field in _objects(cursor, node, "fields", owner):
        name, index = field.get("name"), field.get("index")
        size, count = _count(cursor, field, "size"), _count(cursor, field, "array_len", 1)
        if not isinstance(name, str):
            cursor.fail(f"a field of {owner} has no name in the description")
        if size > cursor.left or count > max(cursor.left, _MAX_ELEMENTS):
            cursor.fail(
                f"{owner}: {name} is {count:#x} times {size:#x} bytes, but the file has "
                f"{cursor.left:#x} left"
            )
        found[name if index is None else f"{name}[{index}]"] = Field(cursor.at, size, count)
        if field.get("type") == _CAPABILITY:
            # Of an array the description has the size of the first element, but these differ.
            for _ in range(count):
                cursor.name(f"a capability in {owner}")
        else:
            cursor.view(size * count)
    for part in _objects(cursor, node, "subsections", owner):
        title = _subsection(cursor, part, owner)
        _read_node(cursor, part, title, found, depth + 1)


def _objects(
    cursor: Cursor, node: Mapping[str, Any], key: str, owner: str
) -> Iterator[Mapping[str, Any]]:
    parts = node.get(key, [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        cursor.fail(f"the description of {owner} has {key} that are no list of objects")
    return iter(parts)


def _count(cursor: Cursor, field: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a number of a field's description that is at least 0."""
    value = field.get(key, default)
    if type(value) is not int or value < 0:
        cursor.fail(f"field {field.get('name')} has the {key} {value!r} in the description")
    return value


def _subsection(cursor: Cursor, part: Mapping[str, Any], owner: str) -> str:
    """Go past the head of a subsection and return its name."""
    start = cursor.at
    if cursor.number(1) != _SUBSECTION:
        cursor.fail(f"{owner}: a subsection that is described is not there", at=start)
    title, version = cursor.name(f"a subsection of {owner}"), cursor.number(4)
    if (title, version) != (part.get("vmsd_name"), part.get("version")):
        cursor.fail(
            f"{owner}: subsection {title} of version {version:#x} is not the one described",
            at=start,
        )
    return title
