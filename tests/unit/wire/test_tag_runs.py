"""Runs of tags: both ways, against a model, and whatever a peer may send."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tagalong.binary.layout import MalformedError
from tagalong.errors import RemoteProtocolError
from tagalong.mte import tags
from tagalong.wire import Feature, Hello, NoBytes, Pages, RecordType, Run, Runs
from tagalong.wire.plane_codec import PlaneCodec
from tagalong.wire.planes import Batch, BatchHead, DataEncoding, TagEncoding
from tagalong.wire.tag_runs import decode_runs, encode_runs
from tests.support.malformed_payloads import pages
from tests.support.wire_session import (
    DESTINATION,
    FEATURES,
    HEAP_TAGS,
    RAM,
    RUNS_SCRIPT,
    SOURCE,
    Pair,
    raw_record,
)

PLANE_BYTES = 128
MOST = PLANE_BYTES * 2


def model(packed: NDArray[np.uint8]) -> bytes:
    """Return the runs of a plane as docs/formats/stream.md says them."""
    nibbles: list[int] = []
    for run in tags.runs(packed):
        left = int(run["length"]) - 1
        groups = [left & 7]
        while left := left >> 3:
            groups[-1] |= 8
            groups.append(left & 7)
        nibbles += [int(run["tag"]), *groups]
    nibbles += [0] * (len(nibbles) % 2)
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def plane_of(*runs: tuple[int, int]) -> NDArray[np.uint8]:
    one_a_byte = [tag for tag, length in runs for _ in range(length)]
    return tags.pack(np.array(one_a_byte, np.uint8))


def heap(seed: int, size_bytes: int, longest: int) -> NDArray[np.uint8]:
    source = random.Random(seed)
    granules: list[int] = []
    while len(granules) < 2 * size_bytes:
        granules += [source.randrange(16)] * source.randint(1, longest)
    return tags.pack(np.array(granules[: 2 * size_bytes], np.uint8))


@pytest.mark.parametrize("longest", [1, 2, 9, 60, 700, 5000])
@pytest.mark.parametrize("size_bytes", [8, 128, 512, 4096])
def test_runs_of_any_plane_are_the_model_and_give_the_plane_back(
    size_bytes: int, longest: int
) -> None:
    plane = heap(size_bytes + longest, size_bytes, longest)

    runs = encode_runs(plane, 4 * size_bytes)

    assert runs == (model(plane) if plane.any() else b"")
    if runs:
        assert decode_runs(runs, size_bytes) == plane.data


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 300)), min_size=1, max_size=40))
def test_runs_at_any_granule_give_the_plane_back(parts: list[tuple[int, int]]) -> None:
    whole = -sum(length for _, length in parts) % 16
    plane = plane_of(*parts, (3, whole))

    runs = encode_runs(plane, 4 * plane.size)

    assert runs is not None
    assert not runs or decode_runs(runs, plane.size) == plane.data


def test_runs_of_a_large_plane_give_the_plane_back() -> None:
    plane = np.zeros(2 << 20, np.uint8)
    plane[1_000_000:1_000_100] = 0x33

    runs = encode_runs(plane, plane.size)

    assert runs is not None
    assert len(runs) < 12
    assert decode_runs(runs, plane.size) == plane.data


def test_runs_of_zero_tags_are_nothing() -> None:
    assert encode_runs(np.zeros(4096, np.uint8), 4095) == b""


def test_runs_of_one_tag_are_four_nibbles_for_a_page() -> None:
    assert encode_runs(np.full(PLANE_BYTES, 0x55, np.uint8), 100) == bytes.fromhex("f53f")


def test_runs_that_do_not_fit_are_not_made() -> None:
    plane = heap(1, PLANE_BYTES, 3)
    size = len(model(plane))

    assert encode_runs(plane, size) == model(plane)
    assert encode_runs(plane, size - 1) is None


def test_runs_of_random_tags_are_not_made() -> None:
    plane = np.frombuffer(np.random.default_rng(1).bytes(1 << 16), np.uint8)

    assert encode_runs(plane, plane.size - 1) is None


HOSTILE = [
    (b"", 0, "runs of tags end before the last granule"),
    (b"\xf5", 0, "runs of tags end before the last granule"),
    (b"\x05", 0, "runs of tags end before the last granule"),
    (b"\x25\x05", 1, "runs of tags have one with the tag of the run before it"),
    (b"\x85\x00", 0, "runs of tags have a length in more nibbles than it needs"),
    (b"\xf5" + b"\xff" * 9 + b"\x7f", 0, "runs of tags have a length in more nibbles than it"),
    (b"\xf5\x3f\x01", 0, "runs of tags end behind the last granule"),
    (b"\xf5\x1f", 0, "runs of tags end behind the last granule"),
    (b"\x75\x73\xf5", 2, "runs of tags are followed by something else"),
    (b"\x75\x73\x00", 2, "runs of tags are followed by something else"),
]


@pytest.mark.parametrize(("payload", "offset", "message"), HOSTILE)
def test_runs_that_are_not_exactly_one_plane_are_refused(
    payload: bytes, offset: int, message: str
) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        decode_runs(payload, 8)

    assert caught.value.offset == offset


def test_runs_with_a_last_nibble_that_is_not_zero_are_refused() -> None:
    plane = plane_of((5, 1), (3, 15))
    sound = model(plane)
    assert (len(sound), sound[-1] >> 4) == (3, 0)

    with pytest.raises(MalformedError, match="followed by something else"):
        decode_runs(sound[:-1] + bytes([sound[-1] | 0x10]), 8)


def test_runs_cut_anywhere_are_refused() -> None:
    runs = model(heap(7, PLANE_BYTES, 20))
    for size in range(len(runs)):
        with pytest.raises(MalformedError):
            decode_runs(runs[:size], PLANE_BYTES)


def test_runs_with_any_bit_flipped_are_refused_or_are_another_plane_in_its_one_form() -> None:
    runs = bytearray(model(heap(8, PLANE_BYTES, 20)))
    for place in range(8 * len(runs)):
        runs[place // 8] ^= 1 << place % 8
        try:
            plane = np.frombuffer(decode_runs(bytes(runs), PLANE_BYTES), np.uint8)
        except MalformedError:
            pass
        else:
            assert model(plane) == bytes(runs)
        runs[place // 8] ^= 1 << place % 8


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_a_plane_in_its_one_form(payload: bytes) -> None:
    try:
        plane = decode_runs(payload, PLANE_BYTES)
    except MalformedError:
        return
    assert model(np.frombuffer(plane, np.uint8)) == payload


@pytest.mark.parametrize(
    ("tag_bytes", "payload", "offset", "message"),
    [
        (0, b"", 4, "0x0 bytes of RUNS tags for a batch of 0x1000 bytes"),
        (128, bytes(128), 4, "0x80 bytes of RUNS tags for a batch of 0x1000 bytes"),
        (2, b"\xf5\x7f", 32, "runs of tags end behind the last granule"),
        (2, b"\xf5\x2f", 33, "runs of tags end before the last granule"),
    ],
)
def test_batch_whose_runs_are_malformed_is_refused_at_its_offset(
    tag_bytes: int, payload: bytes, offset: int, message: str
) -> None:
    pair, opening = Pair.new(), RUNS_SCRIPT[:5]
    for role, record in opening:
        pair.say(role, record)
    said = sum(role is SOURCE for role, _ in opening)
    start = pair.destination.bytes_received
    batch = pages(tags=6, tag_bytes=tag_bytes, rest=payload)
    pair.destination.receive_data(raw_record(said, RecordType.PAGES, batch))

    with pytest.raises(RemoteProtocolError, match=message) as caught:
        pair.destination.next_record()

    assert caught.value.offset == start + 16 + offset


ALL = int(Feature.ZSTD | Feature.TAG_RUNS)
PATTERN = np.arange(16, dtype=np.uint8) * 17  # a run a byte


@pytest.mark.parametrize(
    ("plane", "features", "encoding"),
    [
        (np.zeros(4096, np.uint8), ALL, TagEncoding.ZERO),
        (np.zeros(4096, np.uint8), 0, TagEncoding.ZERO),
        (heap(3, 4096, 60), ALL, TagEncoding.RUNS),
        (heap(3, 4096, 60), Feature.TAG_RUNS, TagEncoding.RUNS),
        (heap(3, 4096, 60), Feature.ZSTD, TagEncoding.ZSTD),
        (np.full(4096, 0x55, np.uint8), ALL, TagEncoding.RUNS),
        (np.repeat(PATTERN, PLANE_BYTES), ALL, TagEncoding.UNIFORM),
        (np.tile(PATTERN, 4096), ALL, TagEncoding.ZSTD),
        (np.frombuffer(np.random.default_rng(2).bytes(1 << 16), np.uint8), ALL, TagEncoding.RAW),
        (heap(5, 128, 1), ALL, TagEncoding.RAW),
    ],
)
def test_tags_take_the_smallest_encoding_that_both_ends_know(
    plane: NDArray[np.uint8], features: int, encoding: TagEncoding
) -> None:
    codec, pages = PlaneCodec(), plane.size // PLANE_BYTES

    encoded = codec.encode_tags(plane.data, 4096, features)

    assert encoded.encoding is encoding
    head = BatchHead(1, DataEncoding.ZERO, encoding, len(encoded.payload), 0)
    batch = Batch(head, Runs([Run(0x4000_0000, pages)]), 4096)
    decoded = codec.decode_tags(batch, memoryview(encoded.payload))
    assert decoded is NoBytes.ZERO if encoding is TagEncoding.ZERO else decoded == plane.data


def test_tags_to_a_peer_without_the_feature_are_never_runs() -> None:
    pair = Pair.new()
    for role, record in RUNS_SCRIPT[:5]:
        older = (
            replace(record, compatible_features=FEATURES) if isinstance(record, Hello) else record
        )
        pair.say(role, older if role is DESTINATION else record)

    assert pair.source.features == FEATURES
    batch = Pages(Runs([Run(RAM, 1)]), NoBytes.ZERO, HEAP_TAGS)
    assert pair.say(SOURCE, batch) == batch
