"""docs/formats/stream.md and the code say the same: every table is read and compared."""

import re
from enum import IntEnum

import pytest

from tagalong.wire import TRANSITIONS, AbortReason, Feature, Phase, RecordType, Role, codec, limits
from tagalong.wire.gic import (
    GIC_HEAD,
    GIC_INTERFACE_REGISTER,
    GIC_REGISTER,
    GIC_VCPU,
    MACHINE_GIC,
)
from tagalong.wire.machine import MACHINE_DEVICE, MACHINE_HEAD, REGION
from tagalong.wire.machine_state import DEVICE_HEAD, STATE_HEAD, VCPU_HEAD
from tagalong.wire.planes import PAGES_HEAD, RUN, DataEncoding, TagEncoding
from tests.golden.build_streams import PATHS
from tests.support.draw_example import TITLES
from tests.support.draw_states import diagram, table
from tests.support.format_document import FormatDocument

DOCUMENT = FormatDocument("stream.md")

LAYOUTS = {
    "Stream header": codec.STREAM_HEADER,
    "Record header": codec.RECORD_HEADER,
    "`HELLO` payload": codec.HELLO,
    "`MACHINE` payload": MACHINE_HEAD,
    "`MACHINE` GIC": MACHINE_GIC,
    "`MACHINE` region": REGION,
    "`MACHINE` device": MACHINE_DEVICE,
    "`PAGES` payload": PAGES_HEAD,
    "`PAGES` run": RUN,
    "`ROUND` payload": codec.ROUND,
    "`STATE` payload": STATE_HEAD,
    "`STATE` vCPU": VCPU_HEAD,
    "`STATE` device": DEVICE_HEAD,
    "`STATE` GIC": GIC_HEAD,
    "`STATE` GIC vCPU": GIC_VCPU,
    "`STATE` GIC register": GIC_REGISTER,
    "`STATE` GIC interface register": GIC_INTERFACE_REGISTER,
    "`DIGEST` payload": codec.DIGEST,
    "`COMMIT` payload": codec.COMMIT,
    "`ABORT` payload": codec.ABORT_HEAD,
    "`CHANNEL` payload": codec.CHANNEL,
    "`RESUME` payload": codec.RESUME,
    "`HELD` payload": codec.HELD_HEAD,
    "`RESUMED` payload": codec.RESUMED,
}


def numbered(marker: str) -> dict[str, int]:
    return {row[1]: int(row[0]) for row in DOCUMENT.rows_after(marker)}


def test_document_every_byte_table_is_known() -> None:
    headed = re.findall(r"^### (.*)\n\n\| offset ", DOCUMENT.text, re.MULTILINE)

    assert sorted(headed) == sorted(LAYOUTS)
    assert DOCUMENT.text.count("| offset | size |") == len(LAYOUTS)


@pytest.mark.parametrize("title", LAYOUTS)
def test_document_byte_table_equals_the_layout(title: str) -> None:
    DOCUMENT.require_byte_table(title, LAYOUTS[title])


def test_document_records_equal_the_code() -> None:
    rows = DOCUMENT.rows_after("## 4. Records")

    assert numbered("## 4. Records") == {kind.name: kind.value for kind in RecordType}
    for _, name, senders, smallest, largest, _ in rows:
        kind = RecordType[name]
        assert (int(smallest), int(largest)) == codec.PAYLOAD_BYTES[kind]
        may_send = {role.name.lower() for (_, role, sent) in TRANSITIONS if sent is kind}
        assert may_send == ({"source", "destination"} if senders == "both" else {senders})


@pytest.mark.parametrize(
    ("marker", "members"),
    [
        ("| `data_encoding` | name", DataEncoding),
        ("| `tag_encoding` | name", TagEncoding),
        ("| `reason` | name", AbortReason),
    ],
    ids=["data", "tags", "abort"],
)
def test_document_numbers_equal_the_enum(marker: str, members: type[IntEnum]) -> None:
    assert numbered(marker) == {member.name: member.value for member in members}


def test_document_features_equal_the_code() -> None:
    bits = {name: 1 << bit for name, bit in numbered("| bit | name").items()}

    assert bits == {feature.name: feature.value for feature in Feature}


def test_document_limits_equal_the_code() -> None:
    named = {row[0]: int(row[1]) for row in DOCUMENT.rows_after("## 5. Limits")}
    code = {
        name: value for name, value in vars(limits).items() if name.startswith(("MAX_", "MIN_"))
    }

    assert code.pop("MAX_BATCH_TAG_BYTES") == code["MAX_BATCH_BYTES"] // 32
    assert named == code


def test_document_states_equal_the_transition_table() -> None:
    described, rows = {}, DOCUMENT.rows_after("## 7. States")
    for state, *cells in rows:
        for role, cell in zip((Role.SOURCE, Role.DESTINATION), cells, strict=True):
            for entry in filter(None, cell.split(", ")):
                kind, after = entry.split(" → ")
                described[Phase[state], role, RecordType[kind]] = Phase[after]

    assert described == dict(TRANSITIONS)
    assert [row[0] for row in rows] == [phase.name for phase in Phase]


def test_document_shows_table_and_diagram_as_drawn_from_the_code() -> None:
    assert table() in DOCUMENT.text
    assert f"```\n{diagram()}\n```" in DOCUMENT.text


def test_document_hexdump_equals_the_golden_stream() -> None:
    for (name, role), path in PATHS.items():
        golden = path.read_bytes()
        marker = f"{TITLES[name]}, the {role.name.lower()}'s stream"
        listing = DOCUMENT.text[DOCUMENT.text.index(marker) :].split("```")[1]
        lines = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} ?)+)", listing, re.MULTILINE)

        assert len(lines) > 4
        for offset, content in lines:
            given = bytes.fromhex(content)
            assert golden[int(offset, 16) :][: len(given)] == given, offset
