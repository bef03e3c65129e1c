"""The digest: as the document defines it, and the same whatever is a hole."""

import ctypes
import doctest
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from tagalong._native import DigestState, DigestStretch, library
from tagalong.machine import MachinePages
from tagalong.memory import Gpa
from tagalong.migrate import memory_digest
from tagalong.migrate.pages import digest as digest_module
from tests.support.fake_machine import RAM, FakeMachine, describe

BLOCK = 65536
DOCUMENT = Path(__file__).parents[4] / "docs" / "formats" / "stream.md"


def by_the_document(machine: FakeMachine, *, has_tags: bool) -> bytes:
    """Return section 9 of the document, word for word and slowly."""
    content = b"tagalong-digest1"
    for region in machine.memory.regions:
        for start in range(0, region.size_bytes, BLOCK):
            size = min(BLOCK, region.size_bytes - start)
            data = machine.memory.read(Gpa(region.gpa + start), size)
            tags = machine.memory.read_tags(Gpa(region.gpa + start), size).tobytes()
            if not has_tags:
                tags = b""
            if any(data) or any(tags):
                content += (region.gpa + start).to_bytes(8, "little")
                content += size.to_bytes(8, "little") + data + tags
    return xxhash.xxh3_128(content).digest()


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(describe(0x28_0000, 0x3000))
    draw = np.random.default_rng(5)
    first, second = machine.memory.regions
    first.raw_data[:0x12_3000] = draw.integers(0, 256, 0x12_3000, np.uint8)
    first.raw_tags[: 0x12_3000 // 32] = draw.integers(0, 256, 0x12_3000 // 32, np.uint8)
    first.raw_data[0x20_5000] = 1  # one page of a block, the others holes
    first.raw_tags[0x27_F000 // 32] = 0x80  # tags alone
    second.raw_data[-1] = 0xFF  # a region shorter than a block
    yield machine
    machine.close()


def quiet() -> None:
    pass


@pytest.mark.parametrize("has_tags", [True, False])
def test_digest_equals_the_definition(machine: FakeMachine, has_tags: bool) -> None:
    digest = memory_digest(MachinePages(machine), quiet, has_tags=has_tags)

    assert digest == by_the_document(machine, has_tags=has_tags)


@pytest.mark.parametrize("parts", [(65536,), (4096,), (65536 * 3, 4096), (8192, 65536, 65536 * 2)])
@pytest.mark.parametrize("has_tags", [True, False])
def test_digest_is_the_same_in_registers_of_all_widths(
    parts: tuple[int, ...], has_tags: bool
) -> None:
    source = np.random.default_rng(6)
    planes = [(source.integers(0, 256, n, np.uint8), source.integers(0, 256, n // 32, np.uint8))
              for n in parts]  # fmt: skip
    expected, variant, address = b"tagalong-digest1", 0, 0
    for data, tags in planes:
        for at in range(0, data.size, BLOCK):
            block = data[at : at + BLOCK].tobytes()
            expected += (address + at).to_bytes(8, "little") + len(block).to_bytes(8, "little")
            expected += block + (tags[at // 32 : (at + BLOCK) // 32].tobytes() if has_tags else b"")
        address += data.size

    while (found := digest_as(variant, planes, has_tags=has_tags)) is not None:
        assert found == xxhash.xxh3_128(expected).digest()
        variant += 1

    assert variant >= 1


def digest_as(
    variant: int, planes: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], *, has_tags: bool
) -> bytes | None:
    """Return the digest by one kind of code; None if this processor lacks what it needs."""
    digest, address = DigestState(), 0
    library().ta_digest_begin(ctypes.byref(digest), b"tagalong-digest1", 16)
    for data, tags in planes:
        place = tags.ctypes.data if has_tags else None
        stretch = DigestStretch(address, data.size, BLOCK, 32, data.ctypes.data, place)
        if not library().ta_digest_add_as(variant, ctypes.byref(digest), ctypes.byref(stretch)):
            return None
        address += data.size
    result = np.empty(16, np.uint8)
    library().ta_digest_end(ctypes.byref(digest), result.ctypes.data)
    return result.tobytes()


def test_digest_is_the_one_in_the_document() -> None:
    machine = FakeMachine(describe(0x2_0000))
    machine.memory.write(Gpa(RAM + 0x1_0000), b"tagalong")
    machine.memory.write_tags(Gpa(RAM + 0x1_0000), np.array([0x21], np.uint8))

    digest = memory_digest(MachinePages(machine), quiet, has_tags=True)
    machine.close()

    assert digest.hex() == "1cf93e9935d0d1b646a84c2ab03f54e9"
    assert digest.hex() in DOCUMENT.read_text("utf-8")


def test_digest_of_nothing_is_that_of_its_prefix() -> None:
    machine = FakeMachine(describe(0x2_0000))

    digest = memory_digest(MachinePages(machine), quiet, has_tags=True)
    machine.close()

    assert digest == xxhash.xxh3_128(b"tagalong-digest1").digest()


def test_digest_is_the_same_for_holes_and_zeros_and_fills_no_hole(machine: FakeMachine) -> None:
    before = memory_digest(MachinePages(machine), quiet, has_tags=True)
    holes = machine.populated_pages()
    assert machine.populated_pages() == holes
    region = machine.memory.regions[0]
    region.raw_data[0x15_0000:0x16_0000] = 0
    region.raw_data[0x20_6000:0x20_8000] = 0
    region.raw_tags[0x18_0000 // 32 : 0x19_0000 // 32] = 0

    after = memory_digest(MachinePages(machine), quiet, has_tags=True)

    assert machine.populated_pages() != holes
    assert after == before


@pytest.mark.parametrize(
    ("plane", "place"), [("data", 0x3), ("data", 0x20_5001), ("tags", 0x13_0000)]
)
def test_digest_changes_with_any_byte_of_either_plane(
    machine: FakeMachine, plane: str, place: int
) -> None:
    before = memory_digest(MachinePages(machine), quiet, has_tags=True)
    region = machine.memory.regions[0]
    if plane == "data":
        region.raw_data[place] ^= 1
    else:
        region.raw_tags[place // 32] ^= 1

    assert memory_digest(MachinePages(machine), quiet, has_tags=True) != before


def test_digest_changes_when_a_page_moves() -> None:
    digests = set()
    for place in (0, 0x1000, 0x1_0000, 0x2_0000):
        machine = FakeMachine(describe(0x4_0000))
        machine.memory.regions[0].raw_data[place : place + 0x1000] = 7
        digests.add(memory_digest(MachinePages(machine), quiet, has_tags=True))
        machine.close()

    assert len(digests) == 4


def test_digest_can_be_interrupted(machine: FakeMachine) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        memory_digest(MachinePages(machine), stop, has_tags=True)


def test_digest_example_in_the_docstring_is_true() -> None:
    result = doctest.testmod(digest_module)

    assert (result.failed, result.attempted) == (0, 4)
