"""open_core on cores of every kind: Linux's form, others', overlapping, unaligned, cut short."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tagalong
from tagalong import wire
from tagalong.core import Core, CoreRegion, open_core
from tagalong.errors import (
    AddressError,
    CoreError,
    HostError,
    MalformedCoreError,
    NoTagsError,
    NotInCoreError,
    RunStateError,
    UsageError,
)
from tests.support.core_builder import (
    PAGE,
    CoreBuilder,
    Segment,
    auxv,
    fpregset,
    load,
    note,
    prstatus,
    tag_segment,
    tagged_addr_ctrl,
)
from tests.support.cores import RAM, notes, random_planes, write_core

DATA = bytes(range(256)) * 32
"""Two pages."""
TAGS = bytes((2 * n % 16) | (2 * n + 1) % 16 << 4 for n in range(256))
"""Of two pages: each granule's tag is its number modulo 16."""
AT = 0x1_0000

Opener = Callable[[CoreBuilder | bytes], Core]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    def write_and_open(core: CoreBuilder | bytes) -> Core:
        path = tmp_path / "a.core"
        path.write_bytes(core if isinstance(core, bytes) else core.build())
        return open_core(path)

    return write_and_open


def usual() -> CoreBuilder:
    return CoreBuilder([load(AT, DATA), tag_segment(AT, TAGS)])


def test_package_offers_open_core() -> None:
    assert tagalong.open_core is open_core
    with pytest.raises(AttributeError, match="has no attribute 'open_door'"):
        tagalong.open_door  # type: ignore[attr-defined]  # noqa: B018


def test_data_in_one_segment_is_a_view_that_cannot_be_written(opened: Opener) -> None:
    with opened(usual()) as core:
        data = core.data(AT + 3, 5)
        tags = core.tags(AT + 32, 64)

    assert data.tolist() == [3, 4, 5, 6, 7]
    assert tags.tolist() == [0x32, 0x54]
    assert data.base is not None
    assert tags.base is not None
    for array in (data, tags):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_core_addressed_by_a_pointer_ignores_its_top_byte(opened: Opener) -> None:
    with opened(usual()) as core:
        assert core.data(0x0A00_0000_0000_0000 | AT, 2).tolist() == [0, 1]
        assert core.tags(0xF500_0000_0000_0000 | AT, 32).tolist() == [0x10]


def test_core_of_a_kernel_is_addressed_by_its_pointers(opened: Opener) -> None:
    kernel = 0xFFFF_8000_0000_0000
    with opened(CoreBuilder([load(kernel, DATA), tag_segment(kernel, TAGS)])) as core:
        assert core.data(0xF4FF_8000_0000_0001, 2).tolist() == [1, 2]
        assert core.granule_tags(kernel + 16, 32).tolist() == [1, 2]


def test_granule_tags_of_odd_granules(opened: Opener) -> None:
    with opened(usual()) as core:
        assert core.granule_tags(AT + 16, 48).tolist() == [1, 2, 3]
        assert core.granule_tags(AT + 16, 16).tolist() == [1]
        assert core.granule_tags(AT + 16, 0).tolist() == []


def test_ranges_across_adjoining_segments_are_joined(opened: Opener) -> None:
    builder = CoreBuilder(
        [
            load(AT + PAGE, DATA[PAGE:]),
            load(AT, DATA[:PAGE]),
            tag_segment(AT, TAGS[:128]),
            tag_segment(AT + PAGE, TAGS[128:]),
        ]
    )
    with opened(builder) as core:
        assert core.data(AT, len(DATA)).tobytes() == DATA
        assert core.tags(AT, len(DATA)).tobytes() == TAGS
        assert core.regions == (CoreRegion(AT, len(DATA), has_data=True, has_tags=True),)


def test_tag_segment_that_starts_at_an_odd_granule_is_served(opened: Opener) -> None:
    builder = CoreBuilder([load(AT, DATA), tag_segment(AT + 16, TAGS[:127], size_bytes=127 * 32)])
    with opened(builder) as core:
        assert core.granule_tags(AT + 16, 48).tolist() == [0, 1, 2]
        assert core.tags(AT + 32, 32).tolist() == [0x21]
        with pytest.raises(NoTagsError, match="address 0x10000: the core has no tags"):
            core.tags(AT, 64)


def test_tag_segment_that_starts_inside_a_granule_is_refused(opened: Opener) -> None:
    with (
        opened(CoreBuilder([load(AT, DATA), tag_segment(AT + 8, TAGS)])) as core,
        pytest.raises(MalformedCoreError, match="does not start at a granule") as caught,
    ):
        core.tags(AT + 32, 32)

    assert caught.value.offset == 64 + 2 * 56 + 16


def test_tag_segment_without_data_is_served(opened: Opener) -> None:
    with opened(CoreBuilder([tag_segment(AT, TAGS)])) as core:
        assert core.tags(AT, 64).tolist() == [0x10, 0x32]
        assert core.regions == (CoreRegion(AT, len(DATA), has_data=False, has_tags=True),)
        with pytest.raises(NotInCoreError, match="address 0x10000: the core has no memory here"):
            core.data(AT, 1)


def test_tag_segment_that_ends_inside_a_granule_has_the_whole_ones(opened: Opener) -> None:
    with opened(CoreBuilder([tag_segment(AT, b"\x21", size_bytes=24)])) as core:
        assert core.regions == (CoreRegion(AT, 16, has_data=False, has_tags=True),)
        assert core.granule_tags(AT, 16).tolist() == [1]


def test_load_without_tags_has_unknown_tags_not_zero(opened: Opener) -> None:
    with opened(CoreBuilder([load(AT, DATA), tag_segment(AT + PAGE, TAGS[128:])])) as core:
        assert core.regions == (
            CoreRegion(AT, PAGE, has_data=True, has_tags=False),
            CoreRegion(AT + PAGE, PAGE, has_data=True, has_tags=True),
        )
        with pytest.raises(NoTagsError) as caught:
            core.tags(AT, 2 * PAGE)

    assert caught.value.address == AT
    assert str(caught.value) == "address 0x10000: the core has no tags for this memory"


def test_data_that_was_not_written_is_not_zero(opened: Opener) -> None:
    builder = CoreBuilder([load(AT, DATA[:PAGE], size_bytes=2 * PAGE)])
    with opened(builder) as core, pytest.raises(NotInCoreError) as caught:
        core.data(AT + PAGE - 1, 2)

    assert caught.value.address == AT + PAGE
    assert str(caught.value) == (
        "address 0x11000: memory of the segment at 0x10000 that was not written to the core: "
        "0x1000 of 0x2000 bytes were"
    )


def test_overlapping_segments_are_served_from_the_first_in_the_file(opened: Opener) -> None:
    builder = CoreBuilder(
        [
            load(AT + PAGE, b"\xaa" * PAGE),
            load(AT, b"\xbb" * 3 * PAGE),
            tag_segment(AT, b"\x11" * 128),
            tag_segment(AT, b"\x22" * 384),
        ]
    )
    with opened(builder) as core:
        data = core.data(AT, 3 * PAGE)
        assert [data[n * PAGE] for n in range(3)] == [0xBB, 0xAA, 0xBB]
        assert core.granule_tags(AT + PAGE - 16, 32).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("address", "length", "message"),
    [
        (AT + 16, 32, "address 0x10010 is not a multiple of 0x20"),
        (AT, 16, "length 0x10 is not a multiple of 0x20"),
        (AT, -32, r"\[0x10000 \+ -0x20\) is not a range"),
        (1 << 64, 32, "is not a range of 64-bit addresses"),
    ],
)
def test_tags_of_a_misaligned_range_are_refused(
    opened: Opener, address: int, length: int, message: str
) -> None:
    with opened(usual()) as core, pytest.raises(AddressError, match=message):
        core.tags(address, length)


def test_arrays_of_no_length_are_empty(opened: Opener) -> None:
    with opened(usual()) as core:
        assert core.data(0, 0).size == 0
        assert core.tags(0, 0).size == 0


def test_arrays_outlive_the_core(opened: Opener) -> None:
    with opened(usual()) as core:
        data = core.data(AT, len(DATA))
    core.close()

    assert data.tobytes() == DATA
    with pytest.raises(RunStateError, match="this core is closed"):
        core.data(AT, 1)


def test_vcpus_have_the_registers_of_each_thread(opened: Opener) -> None:
    raw = (
        prstatus(7, signal=11) + auxv() + fpregset() + tagged_addr_ctrl(0x7FFF3) + prstatus(8, pc=4)
    )
    with opened(CoreBuilder([load(AT, DATA)], raw)) as core:
        first, second = core.vcpus
        auxiliary = core.auxiliary_vector

    assert (first.thread, first.signal, first.x[30]) == (7, 11, 0x7000 + 30)
    assert (first.pc, first.sp, first.pstate) == (0x40_0000, 0x7F_0000, 0x6000_0000)
    assert (first.fpsr, first.fpcr, first.tagged_address_control) == (0x11, 0x22, 0x7FFF3)
    assert first.v is not None
    assert first.v[3] == 0x0303
    assert (second.thread, second.pc, second.v, second.tagged_address_control) == (8, 4, None, None)
    assert auxiliary == {6: 4096, 26: 1 << 18}
    assert core.machine is None


def test_core_without_notes_has_no_registers(opened: Opener) -> None:
    with opened(CoreBuilder([load(AT, DATA)], b"")) as core:
        assert (core.vcpus, core.notes, core.auxiliary_vector) == ((), (), None)


def test_notes_of_eight_byte_alignment_are_read(opened: Opener) -> None:
    raw = note(b"GNU", 5, bytes(5), align=8) + note(b"CORE", 6, bytes(16), align=8)
    segment = Segment(4, raw, alignment=8)
    with opened(CoreBuilder([segment], b"")) as core:
        assert [(n.owner, n.type, len(n.content)) for n in core.notes] == [
            ("GNU", 5, 5),
            ("CORE", 6, 16),
        ]


@pytest.mark.parametrize(
    ("raw", "offset", "message"),
    [
        (bytes(11), 0, "a note needs 0xc bytes, but its segment has 0xb left"),
        (
            auxv() + struct.pack("<III", 5, 0xFFFF_FFFF, 1) + b"CORE\0",
            68,
            "a note with a name of 0x5 and a description of 0xffffffff bytes does not fit",
        ),
        (note(b"CORE", 1, bytes(391)), 0, "note of type 0x1 has 0x188 bytes on arm64, this one"),
        (prstatus() + note(b"CORE", 2, bytes(8)), 412, "type 0x2 has 0x210 bytes"),
        (prstatus() + note(b"LINUX", 0x409, bytes(4)), 412, "type 0x409 has 0x8 bytes"),
    ],
)
def test_damaged_notes_are_refused_and_memory_is_still_served(
    opened: Opener, raw: bytes, offset: int, message: str
) -> None:
    with opened(CoreBuilder([load(AT, DATA)], raw)) as core:
        with pytest.raises(MalformedCoreError, match=message) as caught:
            _ = core.vcpus
        assert core.data(AT, 2).tolist() == [0, 1]

    assert caught.value.offset == PAGE + offset


def test_notes_of_a_hostile_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.core"
    path.write_bytes(patched(64 + 32, "<Q", 1 << 40))
    os.truncate(path, 1 << 41)

    with (
        open_core(path) as core,
        pytest.raises(MalformedCoreError, match="0x10000000000 bytes of notes up to this segment"),
    ):
        _ = core.notes


def test_auxiliary_vector_of_half_an_entry_is_refused(opened: Opener) -> None:
    with (
        opened(CoreBuilder([], note(b"CORE", 6, bytes(24)))) as core,
        pytest.raises(MalformedCoreError, match="has 0x18 bytes, no multiple of 0x10"),
    ):
        _ = core.auxiliary_vector


def patched(offset: int, form: str, value: int, core: bytes = usual().build()) -> bytes:
    raw = bytearray(core)
    struct.pack_into(form, raw, offset, value)
    return bytes(raw)


@pytest.mark.parametrize(
    ("core", "offset", "message"),
    [
        (b"\x7fELF", 4, r"the file ends at 0x4, before the end of the ELF header, \[0x0, 0x40\)"),
        (b"hello" * 20, 0, "b'hell' does not start an ELF file"),
        (patched(4, "B", 1), 4, r"EI_CLASS \(64 bits\) is 0x1, not 0x2"),
        (patched(5, "B", 2), 5, r"EI_DATA \(little-endian\) is 0x2, not 0x1"),
        (patched(16, "<H", 2), 16, r"e_type \(ET_CORE\) is 0x2, not 0x4"),
        (patched(18, "<H", 62), 18, r"e_machine \(AArch64\) is 0x3e, not 0xb7"),
        (patched(54, "<H", 32), 54, "e_phentsize is 0x20, not 0x38"),
        (
            patched(32, "<Q", 1 << 63),
            32,
            r"before the end of the program headers, \[0x8000000000000000, ",
        ),
        (patched(56, "<H", 0xFFFE), len(usual().build()), "before the end of the program headers"),
        (
            patched(56, "<H", 0xFFFF, patched(40, "<Q", 1 << 62)),
            40,
            r"section header 0, \[0x4000000000000000",
        ),
        (
            patched(64 + 56 + 40, "<Q", (1 << 64) - 1),
            64 + 56 + 16,
            r"the segment \[0x10000, 0x1000000000000ffff\) leaves the address space",
        ),
    ],
)
def test_damaged_headers_are_refused_with_their_offset(
    opened: Opener, core: bytes, offset: int, message: str
) -> None:
    with pytest.raises(MalformedCoreError, match=message) as caught:
        opened(core)

    assert caught.value.offset == offset
    assert f"/a.core: core offset {offset:#x}: " in str(caught.value)


def test_too_many_program_headers_are_refused_before_they_are_read(opened: Opener) -> None:
    core = patched(56, "<H", 0xFFFF)
    core = patched(40, "<Q", 1024, core)
    core = patched(1024 + 44, "<I", 0xFFFF_FFFF, core)

    with pytest.raises(MalformedCoreError, match="0xffffffff program headers: 0x40000 are"):
        opened(core)


def test_open_what_cannot_be_opened_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"^cannot open /absent/x: No such file or directory$"):
        open_core("/absent/x")
    with pytest.raises(HostError, match=r"cannot open .*: it is no regular file; give a core file"):
        open_core(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostError, match=r"cannot open .*pipe: it is no regular file; give"):
        open_core(tmp_path / "pipe")
    with pytest.raises(
        HostError, match=r"^cannot open 'a\\x00b': this is not a name that a file can have"
    ):
        open_core("a\0b")


def test_open_empty_file_is_no_core(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()

    with pytest.raises(MalformedCoreError) as caught:
        open_core(path)

    assert str(caught.value) == (
        f"{path}: core offset 0x0: the file ends at 0x0, before the end of the ELF header, "
        "[0x0, 0x40)"
    )


def test_open_what_is_another_kind_of_file_says_which(tmp_path: Path) -> None:
    stream, program = tmp_path / "vm.mig", tmp_path / "ls"
    stream.write_bytes(wire.codec.MAGIC + bytes(100))
    program.write_bytes(patched(16, "<H", 3))

    with pytest.raises(MalformedCoreError) as of_stream:
        open_core(stream)
    with pytest.raises(MalformedCoreError) as of_program:
        open_core(program)

    assert str(of_stream.value) == (
        f"{stream}: core offset 0x0: b'TAGA' does not start an ELF file; this is a migration "
        f"stream: load it with `tagalong run --incoming file:{stream}`"
    )
    assert str(of_program.value) == (
        f"{program}: core offset 0x10: e_type (ET_CORE) is 0x3, not 0x4; this is an ELF program or "
        "library, give a core"
    )


def test_tags_that_are_missing_say_for_which_of_three_reasons(opened: Opener) -> None:
    builder = CoreBuilder(
        [
            load(AT, DATA),
            load(2 * AT, DATA),
            tag_segment(2 * AT, b"", size_bytes=len(DATA)),
        ]
    )
    with opened(builder) as core:
        with pytest.raises(NoTagsError) as bare:
            core.tags(AT, 32)
        with pytest.raises(NoTagsError) as unwritten:
            core.require_tags(2 * AT, 32)
        with pytest.raises(NotInCoreError) as outside:
            core.granule_tags(3 * AT, 16)

    assert [str(each.value) for each in (bare, unwritten, outside)] == [
        "address 0x10000: the core has no tags for this memory",
        "address 0x20000: this memory had tags, but they were not written to the core",
        "address 0x30000: the core has no memory here",
    ]


def test_core_of_ours_cut_at_every_structure_says_where(tmp_path: Path) -> None:
    data, tags = random_planes(4 * PAGE)
    path = tmp_path / "whole.core"
    write_core(path, notes(), [data], [tags])
    whole = path.read_bytes()
    with open_core(path) as core:
        load_at, tags_at = core.loads[0].offset, core.tag_segments[0].offset
        notes_at = core.headers[0].offset
    cut = tmp_path / "cut.core"
    for size in (load_at, load_at + PAGE + 5, tags_at, tags_at + 100, notes_at, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with open_core(cut) as core:
            readable = min(max(size - load_at, 0), 4 * PAGE)
            tagged = min(max(size - tags_at, 0) * 32, 4 * PAGE)
            assert core.data(RAM, readable).tobytes() == data[:readable].tobytes()
            assert core.tags(RAM, tagged).tobytes() == tags[: tagged // 32].tobytes()
            for available, read in ((readable, core.data), (tagged, core.tags)):
                if available < 4 * PAGE:
                    with pytest.raises(MalformedCoreError, match="the file was cut short") as lost:
                        read(RAM, 4 * PAGE)
                    assert lost.value.offset == size
            with pytest.raises(MalformedCoreError, match=r"the notes take \[") as caught:
                _ = core.machine
            assert caught.value.offset == size


def exercise(path: Path) -> bool:
    """Use all of a core; only errors of the package may come. Return whether it opened."""
    actions: tuple[Callable[[Core], object], ...] = (
        lambda core: core.regions,
        lambda core: [core.data(r.address, min(r.size_bytes, PAGE)) for r in core.regions],
        lambda core: [core.granule_tags(r.address & ~15, 64) for r in core.regions],
        lambda core: [core.tags(r.address & ~31, 64) for r in core.regions],
        lambda core: core.vcpus,
        lambda core: core.auxiliary_vector,
        lambda core: core.machine,
    )
    try:
        core = open_core(path)
    except (CoreError, HostError):
        return False
    with core:
        for action in actions:
            try:
                action(core)
            except (CoreError, AddressError, UsageError):
                continue
    return True


def test_core_cut_at_every_byte_gives_typed_errors_only(tmp_path: Path) -> None:
    path = tmp_path / "a.core"
    write_core(path, notes(PAGE), [random_planes(PAGE)[0]], [random_planes(PAGE)[1]])
    whole, opened = path.read_bytes(), set()
    for size in (
        *range(64 + 3 * 56 + 2),
        *range(PAGE, 3 * PAGE, 97),
        *range(3 * PAGE, len(whole), 7),
    ):
        path.write_bytes(whole[:size])

        opened.add(exercise(path))
    assert opened == {False, True}


def test_core_with_any_bit_of_headers_and_notes_flipped_gives_typed_errors_only(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.core"
    write_core(path, notes(PAGE), [random_planes(PAGE)[0]], [random_planes(PAGE)[1]])
    whole = bytearray(path.read_bytes())
    flips = [(place, bit) for place in range(64 + 3 * 56) for bit in range(8)]
    flips += [(place, place % 8) for place in range(3 * PAGE, len(whole), 5)]
    opened = set()
    for place, bit in flips:
        whole[place] ^= 1 << bit
        path.write_bytes(whole)
        opened.add(exercise(path))
        whole[place] ^= 1 << bit
    assert opened == {False, True}


def test_data_of_numpy_type_is_as_documented(opened: Opener) -> None:
    with opened(usual()) as core:
        assert core.data(AT, 8).dtype == np.uint8
        assert core.granule_tags(AT, 64).shape == (4,)
        assert core.tags(AT, 64).shape == (2,)
