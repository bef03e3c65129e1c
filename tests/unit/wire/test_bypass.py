"""A stream is followed in portions of any size: all but pages comes out as it went in."""

from pathlib import Path

import pytest

from tagalong.binary.layout import MalformedError
from tagalong.wire import RecordType
from tagalong.wire.bypass import Bypass
from tests.support.wire_session import records_in

STREAM = (Path(__file__).parents[2] / "golden" / "stream-v4-main-source.bin").read_bytes()


def page_counts(stream: bytes) -> list[int]:
    """Return the pages of each batch, counted from its runs by hand."""
    counts = []
    for _, record in records_in(stream):
        if record[0] == RecordType.PAGES:
            runs = int.from_bytes(record[16:18], "little")
            ends = [32 + 16 * (number + 1) for number in range(runs)]
            counts.append(sum(int.from_bytes(record[end - 8 : end], "little") for end in ends))
    return counts


@pytest.mark.parametrize("size", [1, 7, 4096, len(STREAM)])
def test_bypass_yields_all_records_but_pages(size: int) -> None:
    bypass = Bypass()

    found = [
        item for at in range(0, len(STREAM), size) for item in bypass.feed(STREAM[at : at + size])
    ]

    others = [record for _, record in records_in(STREAM) if record[0] != RecordType.PAGES]
    assert [item for item in found if isinstance(item, bytes)] == [STREAM[:16], *others]
    assert [item for item in found if isinstance(item, int)] == page_counts(STREAM)
    assert page_counts(STREAM)
    assert bypass.has_prepare


def test_bypass_needs_no_data_that_was_skipped() -> None:
    at, batch = next(each for each in records_in(STREAM) if len(each[1]) > 4096)
    bypass = Bypass()
    before = [*bypass.feed(STREAM[: at + 64])]

    bypass.skip(len(batch) - 64 - 8)
    after = [*bypass.feed(batch[-8:])]

    assert len(before) == len([where for where, _ in records_in(STREAM) if where < at]) + 1
    assert after == [page_counts(STREAM)[0]]


def test_bypass_rejects_what_is_no_record() -> None:
    bypass = Bypass()

    with pytest.raises(MalformedError, match="is not a record type"):
        list(bypass.feed(STREAM[:16] + b"\xff" * 16))
