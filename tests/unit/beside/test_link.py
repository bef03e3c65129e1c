"""The link to the library: what is written is what is specified, and nonsense ends the link."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tagalong.beside import link_format
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import Harvest, LinkOperation, SlotFlag, VmFlag
from tagalong.binary.layout import MalformedError
from tagalong.errors import HostError
from tests.support.fake_tag_server import PAGE, ROW, FakeLibrary
from tests.support.format_document import FormatDocument

ROOT = Path(__file__).parents[3]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[FakeLibrary]:
    library = FakeLibrary(tmp_path / "lib.sock", pages=40000)
    yield library
    library.close()


def test_tags_of_scattered_pages_come_back_as_written(library: FakeLibrary) -> None:
    link = library.link()
    pages = np.array([0, 1, 5, 16000, 16384, 39999])
    packed = np.random.default_rng(2).integers(0, 256, (pages.size, ROW), np.uint8)
    out = np.zeros_like(packed)

    link.write_tags(3, pages, PAGE, packed)
    link.read_tags(3, pages, PAGE, out)

    assert np.array_equal(out, packed)
    assert np.count_nonzero(library.tags.any(axis=1)) == pages.size


def test_link_where_nothing_listens_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot reach the library in the VMM's process"):
        LibraryLink(tmp_path / "none")


@pytest.mark.parametrize(
    "garble",
    [
        b"",  # closed at once
        b"\0" * 7,
        struct.pack("<iI", 0, 1 << 31),
        struct.pack("<iI", 5, 0),
        struct.pack("<iI", -5000, 0),
        struct.pack("<iI", -5, 8) + bytes(8),
        struct.pack("<iI", 0, 40) + struct.pack("<IIIIIIQQ", 1, 0, PAGE, 1, 1, 0, 0, 0),
        struct.pack("<iI", 0, 40) + struct.pack("<IIIIIIQQ", 3, 0, 5, 1, 1, 0, 0, 0),
        struct.pack("<iI", 0, 40) + struct.pack("<IIIIIIQQ", 3, 0, PAGE, 10000, 1, 0, 0, 0),
        struct.pack("<iI", 0, 39) + bytes(39),
    ],
)
def test_nonsense_of_the_library_ends_the_link(library: FakeLibrary, garble: bytes) -> None:
    link = library.link()
    library.garble = garble or b" "

    with pytest.raises(HostError, match="lost the library in the VMM's process"):
        link.state()
    with pytest.raises(HostError, match="lost the library"):
        link.state()


def test_bits_behind_the_last_page_end_the_link(tmp_path: Path) -> None:
    library = FakeLibrary(tmp_path / "lib.sock", pages=10)
    link = library.link()
    library.garble = struct.pack("<iI", 0, 8) + b"\xff" * 8

    with pytest.raises(HostError, match="bits behind its last page"):
        link.populated(3, 10)

    library.close()


def test_refusal_of_kvm_leaves_the_link_in_order(library: FakeLibrary) -> None:
    link = library.link()
    library.refusals = {LinkOperation.START_LOG: 19}

    with pytest.raises(HostError, match="refused START_LOG: the VMM has no VM yet"):
        link.start_log()

    assert link.state().page_bytes == PAGE


X0, V0 = 0x6030_0000_0010_0000, 0x6040_0000_0010_0054


def registers(*each: tuple[int, bytes], count: int | None = None) -> bytes:
    entries = b"".join(struct.pack("<Q", name) + value for name, value in each)
    return struct.pack("<II", 0, len(each) if count is None else count) + entries


def test_registers_come_with_the_size_that_their_id_has() -> None:
    read = link_format.decode_registers(registers((X0, bytes([7] * 8)), (V0, bytes([1] * 16))))

    assert read.values == {X0: 0x0707_0707_0707_0707, V0: int.from_bytes(bytes([1] * 16))}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (registers((X0, bytes(8)), count=2), "bytes"),
        (registers((X0, bytes(7))), "is cut short"),
        (registers((X0, bytes(9))), "behind the last register"),
        (registers((X0, bytes(8)), (X0, bytes(8))), "or twice"),
        (registers((X0 | 0xF << 52, bytes(8))), "of 0x8000 bytes"),
        (registers(count=5000), "a vCPU of 0x1388 registers"),
    ],
)
def test_registers_that_make_no_sense_are_rejected(payload: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        link_format.decode_registers(payload)


def test_registers_that_are_cut_short_anywhere_are_rejected() -> None:
    payload = registers((X0, bytes(8)), (V0, bytes(16)))

    for end in range(len(payload)):
        with pytest.raises(MalformedError):
            link_format.decode_registers(payload[:end])


@pytest.mark.parametrize("change", [-1, 1, -ROW])
def test_harvest_of_another_size_ends_the_link(library: FakeLibrary, change: int) -> None:
    link = library.link()
    whole = library.reply_to_harvest()
    reply = whole[:change] if change < 0 else whole + bytes(change)
    library.garble = struct.pack("<iI", 0, len(reply)) + reply

    with pytest.raises(HostError, match="lost the library"):
        link.harvest(3, 40000, PAGE, Harvest.LIVE)


def test_protecting_harvest_takes_what_was_written_and_the_vmm_gets_its_bits(
    library: FakeLibrary,
) -> None:
    link = library.link()
    library.log_on()
    library.clear()
    link.harvest(3, 40000, PAGE, Harvest.LIVE)
    library.guest_writes(9, 4)

    live = link.harvest(3, 40000, PAGE, Harvest.LIVE)
    protecting = link.harvest(3, 40000, PAGE, Harvest.PROTECTING)
    final = link.harvest(3, 40000, PAGE, Harvest.FINAL)

    assert live.pages.count() == final.pages.count() == 0
    assert protecting.pages.pages().tolist() == [9]
    assert library.stolen.nonzero()[0].tolist() == [9]


def test_harvest_with_few_pages_has_their_tags(library: FakeLibrary) -> None:
    link = library.link()
    library.log_on()
    library.tags[100] = 7
    library.populated[:] = False
    library.populated[100:103] = True

    harvested = link.harvest(3, 40000, PAGE, Harvest.FINAL)
    library.populated[:] = True
    many = link.harvest(3, 40000, PAGE, Harvest.FINAL)

    assert harvested.pages.pages().tolist() == [100, 101, 102]
    assert harvested.tags is not None
    assert harvested.tags[:, 0].tolist() == [7, 0, 0]
    assert many.tags is None


def test_tables_of_the_document_are_those_of_the_code() -> None:
    document = FormatDocument("beside-link.md")

    document.require_byte_table("Request", link_format.REQUEST)
    document.require_byte_table("Reply", link_format.REPLY)
    document.require_byte_table("State", link_format.STATE)
    document.require_byte_table("Slot", link_format.SLOT)
    document.require_byte_table("Registers", link_format.REGISTERS)


def test_numbers_of_the_document_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "formats" / "beside-link.md").read_text()
    header = (ROOT / "native" / "beside" / "beside.h").read_text()

    for operation in LinkOperation:
        assert f"| {operation.value} | `{operation.name}` |" in text
        assert f"TB_{operation.name} = {operation.value}," in header
    for flag in VmFlag:
        assert f"| {flag.value} | `{flag.name}` |" in text
        assert f"TB_{flag.name} = {flag.value}," in header
    for slot_flag in SlotFlag:
        assert f"{slot_flag.value} `{slot_flag.name}`" in text
        assert f"TB_SLOT_{slot_flag.name} = {slot_flag.value}," in header
    assert str(link_format.MAX_CHOSEN_BYTES) in text
    assert str(link_format.MAX_RANGE_PAGES) in text
    for kind in Harvest:
        assert f"{kind.value} {kind.name.lower()}" in text
        assert f"TB_{kind.name} = {kind.value}," in header
    assert str(link_format.MAX_HARVEST_TAG_BYTES) in text
    assert f"at most {link_format.MAX_REGISTERS} registers" in text
