"""Draws the worked example of docs/formats/stream.md from the golden streams.

python -m tests.support.draw_example
"""

from collections.abc import Iterator

from tagalong.binary.layout import Layout
from tagalong.wire import RecordType, codec
from tagalong.wire.gic import MACHINE_GIC
from tagalong.wire.machine import MACHINE_DEVICE, MACHINE_HEAD, REGION
from tagalong.wire.machine_state import STATE_HEAD
from tagalong.wire.planes import PAGES_HEAD, RUN, DataEncoding, TagEncoding
from tests.golden.build_streams import PATHS
from tests.support.wire_session import records_in

TITLES = {
    "main": "First connection",
    "channel": "Channel",
    "resume": "Resumed",
    "runs": "Runs of tags",
}

_LINE_BYTES = 16
_MOST_LINES = 2
_FIXED: dict[RecordType, Layout] = {
    RecordType.HELLO: codec.HELLO,
    RecordType.MACHINE: MACHINE_HEAD,
    RecordType.ROUND: codec.ROUND,
    RecordType.STATE: STATE_HEAD,
    RecordType.DIGEST: codec.DIGEST,
    RecordType.COMMIT: codec.COMMIT,
    RecordType.ABORT: codec.ABORT_HEAD,
    RecordType.CHANNEL: codec.CHANNEL,
    RecordType.RESUME: codec.RESUME,
    RecordType.HELD: codec.HELD_HEAD,
    RecordType.RESUMED: codec.RESUMED,
}
_REST = {
    RecordType.STATE: "vCPUs, then devices, then the GIC",
    RecordType.ABORT: "the text",
    RecordType.HELD: "bits",
}


def example() -> str:
    """Return the example as Markdown."""
    parts = []
    for (name, role), path in PATHS.items():
        listing = "\n".join(_stream(path.read_bytes()))
        parts.append(f"{TITLES[name]}, the {role.name.lower()}'s stream:\n\n```\n{listing}\n```\n")
    return "\n".join(parts)


def _stream(stream: bytes) -> Iterator[str]:
    yield from _lines(stream, 0, 16, "magic; version; reserved")
    for at, record in records_in(stream):
        kind = RecordType(int.from_bytes(record[:2], "little"))
        note = f"{kind.name}: type, flags, payload {len(record) - 16:#x}; checksum"
        yield from _lines(stream, at, 16, note)
        for start, size, note in _parts(kind, record):
            yield from _lines(stream, at + start, size, note)


def _parts(kind: RecordType, record: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield offset, size and meaning of what a record's payload consists of."""
    if kind is RecordType.PAGES:
        yield from _pages(record)
        return
    if kind is RecordType.MACHINE:
        yield from _machine(record)
        return
    if kind in _FIXED:
        layout = _FIXED[kind]
        yield 16, layout.size, ", ".join(layout.offsets)
        if len(record) > 16 + layout.size:
            yield 16 + layout.size, len(record) - 16 - layout.size, _REST[kind]


def _machine(record: bytes) -> Iterator[tuple[int, int, str]]:
    head = MACHINE_HEAD.unpack(record, 16)
    yield 16, MACHINE_HEAD.size, ", ".join(MACHINE_HEAD.offsets)
    at = 16 + MACHINE_HEAD.size
    if head["spi_count"]:
        yield at, MACHINE_GIC.size, "GIC: " + ", ".join(MACHINE_GIC.offsets)
        at += MACHINE_GIC.size
    yield at, REGION.size * head["region_count"], "regions: gpa, size_bytes"
    at += REGION.size * head["region_count"]
    for _ in range(head["device_count"]):
        device = MACHINE_DEVICE.unpack(record, at)
        yield at, MACHINE_DEVICE.size, "device: " + ", ".join(MACHINE_DEVICE.offsets)
        at += MACHINE_DEVICE.size
        size = device["name_bytes"] + device["kind_bytes"] + device["config_bytes"]
        yield at, size, "name, kind, configuration"
        at += size


def _pages(record: bytes) -> Iterator[tuple[int, int, str]]:
    head = PAGES_HEAD.unpack(record, 16)
    data, tags = DataEncoding(head["data_encoding"]), TagEncoding(head["tag_encoding"])
    yield 16, PAGES_HEAD.size, f"{head['run_count']} run(s); data {data.name}, tags {tags.name}"
    at = 16 + PAGES_HEAD.size
    for _ in range(head["run_count"]):
        run = RUN.unpack(record, at)
        yield at, RUN.size, f"run: first_gpa {run['first_gpa']:#x}, {run['page_count']:#x} page(s)"
        at += RUN.size
    for size, what in ((head["tag_bytes"], "the tags"), (head["data_bytes"], "the data")):
        if size:
            yield at, size, what
        at += size
    yield at, 8, "seal"


def _lines(stream: bytes, start: int, size: int, note: str) -> Iterator[str]:
    for number, at in enumerate(range(start, start + size, _LINE_BYTES)):
        if number == _MOST_LINES and size > 5 * _LINE_BYTES and note.startswith("the "):
            yield f"          ({start + size - at} more bytes)"
            return
        line = stream[at : min(at + _LINE_BYTES, start + size)].hex(" ")
        yield f"{at:08x}  {line:<47}  {note if not number else ''}".rstrip()


if __name__ == "__main__":
    print(example())
