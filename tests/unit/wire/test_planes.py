"""The check of a batch's runs, all at once, against the specification's words run by run."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.binary.layout import MalformedError
from tagalong.wire import limits
from tagalong.wire.planes import PAGES_HEAD, RUN, DataEncoding, decode_batch, decode_head
from tagalong.wire.records import MachineRecord, RegionEntry

PAGE = 0x4000
MACHINE = MachineRecord(
    PAGE, 1, 0,
    (
        RegionEntry(0, 4 * PAGE),
        RegionEntry(8 * PAGE, 8 * PAGE),
        RegionEntry(16 * PAGE, 40 * PAGE),
        RegionEntry(limits.MAX_GPA - 4 * PAGE, 4 * PAGE),
    ),
)  # fmt: skip
MOST_PAGES = limits.MAX_BATCH_BYTES // PAGE

GPAS = sorted(
    {0, 1, PAGE - 1, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1}
    | {edge + n * PAGE for r in MACHINE.regions for edge in (r.gpa, r.end) for n in (-1, 0, 1)}
    - {-PAGE}
)
COUNTS = [1, 2, 3, 4, 8, 16, 0, MOST_PAGES - 1, MOST_PAGES, MOST_PAGES + 1]
COUNTS += [1 << 32, 1 << 50, 1 << 63, (1 << 64) - 1]
BATCHES = st.lists(st.tuples(st.sampled_from(GPAS), st.sampled_from(COUNTS)), min_size=1)


def complaint(runs: Sequence[tuple[int, int]]) -> tuple[str, int] | None:
    """Return how the refusal of the first run that is refused begins, and its offset."""
    end = total = 0
    for number, (gpa, count) in enumerate(runs):
        at = PAGES_HEAD.size + number * RUN.size
        total += count
        if count == 0 or total > MOST_PAGES:
            return f"a run of {count:#x} pages", at + 8
        if gpa % PAGE or gpa < end:
            return f"a run at gpa {gpa:#x}, which must be a multiple of the page size", at
        end = gpa + count * PAGE
        if not any(region.gpa <= gpa and end <= region.end for region in MACHINE.regions):
            return f"pages [{gpa:#x}, {end:#x}) are not in one region", at
    return None


def decode(runs: Sequence[tuple[int, int]]) -> None:
    head = PAGES_HEAD.pack(
        run_count=len(runs), data_encoding=2, tag_encoding=1, tag_bytes=0, data_bytes=0
    )
    decode_batch(decode_head(head), np.array(runs, "<u8").tobytes(), MACHINE, 0)


@given(runs=st.one_of(BATCHES, BATCHES.map(sorted)))
def test_runs_the_first_that_is_wrong_is_refused_and_none_that_is_right(
    runs: list[tuple[int, int]],
) -> None:
    expected = complaint(runs)
    if expected is None:
        decode(runs)
        return

    with pytest.raises(MalformedError) as caught:
        decode(runs)

    text, offset = expected
    assert text in str(caught.value)
    assert caught.value.offset == offset


def decode_large(runs: Sequence[tuple[int, int]], encoding: DataEncoding, data_bytes: int) -> None:
    head = PAGES_HEAD.pack(
        run_count=len(runs), data_encoding=encoding, tag_encoding=2, tag_bytes=0,
        data_bytes=data_bytes,
    )  # fmt: skip
    machine = MachineRecord(PAGE, 1, 1, (RegionEntry(0, 2 * limits.MAX_BATCH_BYTES),))
    decode_batch(decode_head(head), np.array(runs, "<u8").tobytes(), machine, 0b111)


MOST_COPIED = limits.MAX_COPIED_BYTES // PAGE


@pytest.mark.parametrize(
    ("runs", "encoding", "data_bytes"),
    [
        ([(0, MOST_PAGES)], DataEncoding.RAW, limits.MAX_BATCH_BYTES),
        ([(0, 1), (2 * PAGE, MOST_COPIED - 1)], DataEncoding.RAW, limits.MAX_COPIED_BYTES),
        ([(0, MOST_COPIED)], DataEncoding.ZSTD, 9),
        ([(0, 1), (2 * PAGE, MOST_PAGES - 1)], DataEncoding.ZERO, 0),
        ([(0, 1), (2 * PAGE, MOST_PAGES - 1)], DataEncoding.KEPT, 0),
    ],
)
def test_data_as_large_as_a_receiver_has_room_for_are_taken(
    runs: Sequence[tuple[int, int]], encoding: DataEncoding, data_bytes: int
) -> None:
    decode_large(runs, encoding, data_bytes)


@pytest.mark.parametrize(
    ("runs", "encoding", "data_bytes"),
    [
        ([(0, 1), (2 * PAGE, MOST_COPIED)], DataEncoding.RAW, limits.MAX_COPIED_BYTES + PAGE),
        ([(0, MOST_COPIED + 1)], DataEncoding.ZSTD, 9),
    ],
)
def test_data_that_a_receiver_would_have_to_hold_are_limited(
    runs: Sequence[tuple[int, int]], encoding: DataEncoding, data_bytes: int
) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_large(runs, encoding, data_bytes)

    assert str(caught.value) == (
        f"0x1004000 bytes of pages as {encoding.name} data, in {len(runs):#x} runs: 0x1000000 are "
        "possible, more only uncompressed and in one run"
    )
    assert caught.value.offset == 2


def test_runs_as_many_as_a_record_may_have_are_taken() -> None:
    one_page = MachineRecord(0x1000, 1, 0, (RegionEntry(0, 1 << 30),))
    runs = np.array([(2 * n * 0x1000, 1) for n in range(limits.MAX_RUNS)], "<u8")
    head = PAGES_HEAD.pack(
        run_count=len(runs), data_encoding=2, tag_encoding=1, tag_bytes=0, data_bytes=0
    )

    batch = decode_batch(decode_head(head), runs.tobytes(), one_page, 0)

    assert batch.runs.page_count == limits.MAX_RUNS
