"""Guests in files of QEMU's: pages, tags and registers, and what is refused and how."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.core import open_core
from tagalong.errors import CoreError, MalformedCoreError, NoTagsError
from tagalong.machine import PowerState, RegisterId, granule_tags
from tagalong.machine import register_ids as ids
from tagalong.qemu import QemuFile, convert
from tagalong.qemu.saved_guest import open_saved
from tagalong.snapshot import SaveOptions, StillMachine
from tests.support.qemu_stream import (
    PAGE,
    RAM_BYTES,
    StreamBuilder,
    be,
    device,
    named,
    numbers,
    page,
    vcpu,
)

RAM = 0x4000_0000
ALL = np.array([[0, RAM_BYTES // PAGE]])
FIRST, SECOND = b"\x11" * PAGE, bytes(range(256)) * 16
TAGS = bytes(range(256)) * 16
USUAL = (
    page("mach-virt.ram", 0, 0),
    page(None, 1, FIRST),
    page(None, 2, FIRST),
    page("mach-virt.tag", 0, TAGS),
    page("mach-virt.ram", 2, SECOND),
    page(None, 4, SECOND),
    page(None, 3, 0x5A),
)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "vm.qemu"
    path.write_bytes(content)
    return path


def memory_of(machine: StillMachine) -> bytes:
    return machine.pages.data(0, ALL).tobytes()


def expected_memory() -> bytes:
    zero = bytes(PAGE)
    return (zero + FIRST + SECOND + b"\x5a" * PAGE + SECOND).ljust(RAM_BYTES, b"\0")


def refusal(folder: Path, content: bytes) -> CoreError:
    with pytest.raises(CoreError) as caught, open_saved(written(folder, content)):
        pass
    return caught.value


def test_stream_later_page_replaces_an_earlier_one(tmp_path: Path) -> None:
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build())) as machine:
        assert memory_of(machine) == expected_memory()


def test_stream_many_pages_in_a_row_are_all_found(tmp_path: Path) -> None:
    blocks = {"mach-virt.ram": 5000 * PAGE}
    contents = [number.to_bytes(2, "little") * (PAGE // 2) for number in range(1, 5000)]
    zeros = [page("mach-virt.ram", 0, 0), *(page(None, number, 0) for number in range(1, 100))]
    pages = [page(None, number, each) for number, each in enumerate(contents, 1) if number % 7]

    content = StreamBuilder([*zeros, *pages], blocks).build()

    with open_saved(written(tmp_path, content)) as machine:
        found = machine.pages.data(0, np.array([[1, 255]])).reshape(-1, PAGE)[:, :2]
        used = machine.pages.populated_pages()[0].pages().tolist()
    numbers_found = found.copy().view("<u2").ravel().tolist()
    assert numbers_found == [number if number % 7 else 0 for number in range(1, 256)]
    assert used == [number for number in range(1, 5000) if number % 7]


def test_stream_tags_are_those_of_the_tag_block(tmp_path: Path) -> None:
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build())) as machine:
        packed = machine.pages.tags(0, 0, 32)
        one = granule_tags(machine.pages, RAM + 0x1020, 32).tolist()

    assert packed.tobytes() == TAGS
    assert one == [TAGS[0x81] & 0xF, TAGS[0x81] >> 4]


def test_stream_populated_pages_are_those_with_data_or_tags(tmp_path: Path) -> None:
    no_tags = [each for each in USUAL if b"mach-virt.tag" not in each]
    with open_saved(written(tmp_path, StreamBuilder(no_tags).build())) as machine:
        assert machine.pages.populated_pages()[0].pages().tolist() == [1, 2, 3, 4]
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build())) as machine:
        assert machine.pages.changed_pages()[0].count() == 32
        assert machine.pages.changed_pages()[0].count() == 0


def test_stream_describes_the_machine(tmp_path: Path) -> None:
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build())) as machine:
        description, state = machine.description, machine.state

    assert (description.vcpu_count, description.mte_version) == (2, 3)
    assert [(each.gpa, each.size_bytes) for each in description.regions] == [(RAM, RAM_BYTES)]
    assert [vcpu.power for vcpu in state.vcpus] == [PowerState.ON, PowerState.OFF]


def test_stream_registers_are_those_of_each_vcpu(tmp_path: Path) -> None:
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build())) as machine:
        first, second = (vcpu.registers for vcpu in machine.state.vcpus)

    assert [first[ids.x(n)] for n in (0, 30)] == [0x100, 0x11E]
    assert [second[ids.x(0)], second[ids.PC]] == [0x200, 0x4020_0004]
    assert [first[each] for each in (ids.SP_EL0, ids.SP_EL1)] == [0x70, 0x11F]
    assert [first[each] for each in (ids.ELR_EL1, ids.SPSR_EL1)] == [0x61, 0x51]
    assert first[ids.v(31)] == 0x201F << 64 | 0x101F
    assert [first[each] for each in (ids.FPSR, ids.FPCR)] == [0x0800_0011, 0x0040_0000]
    assert first[ids.TCR_EL1] == 0x60_B5A0_3520
    assert not [each for each in first if each >> 32 == 0x4020_0000]


@pytest.mark.parametrize(
    ("pstate", "register", "value"),
    [(0x3C4, ids.SP_EL0, 0x11F), (0x3C9, ids.SP_EL2, 0x11F), (0x1D3, ids.x(13), 13)],
    ids=["EL1t", "EL2h", "AArch32"],
)
def test_stream_stack_pointer_is_the_one_in_use(
    pstate: int, register: RegisterId, value: int, tmp_path: Path
) -> None:
    content = StreamBuilder(USUAL, devices=[vcpu(0, pstate=pstate)]).build()

    with open_saved(written(tmp_path, content)) as machine:
        assert machine.state.vcpus[0].registers[register] == value


def test_stream_floating_point_registers_of_their_own_are_taken(tmp_path: Path) -> None:
    node, content = vcpu()
    more = [numbers("env.vfp.fpcr", [0x0700_0003]), numbers("env.vfp.fpsr", [0x0800_0001])]
    title = "cpu/vfp/fpcr_fpsr"
    node["subsections"].append(
        {"vmsd_name": title, "version": 1, "fields": [each for each, _ in more]}
    )
    content += b"\x05" + named(title) + be(1) + b"".join(raw for _, raw in more)

    built = StreamBuilder(USUAL, devices=[(node, content)]).build()

    with open_saved(written(tmp_path, built)) as machine:
        registers = machine.state.vcpus[0].registers
    assert registers[ids.FPCR] == 0x0740_0003
    assert registers[ids.FPSR] == 0x0800_0011


def test_mapped_ram_pages_are_those_of_the_bitmap(tmp_path: Path) -> None:
    mapped = {"mach-virt.ram": {1: FIRST, 31: SECOND}, "mach-virt.tag": {0: TAGS}}
    content = StreamBuilder(capabilities=["mapped-ram"], mapped=mapped).build()

    with open_saved(written(tmp_path, content)) as machine:
        memory, packed = memory_of(machine), machine.pages.tags(0, 0, 32)

    assert memory == (bytes(PAGE) + FIRST).ljust(31 * PAGE, b"\0") + SECOND
    assert packed.tobytes() == TAGS


def test_stream_without_a_tag_block_has_no_tags(tmp_path: Path) -> None:
    content = StreamBuilder([page("mach-virt.ram", 1, FIRST)], {"mach-virt.ram": RAM_BYTES}).build()

    with open_saved(written(tmp_path, content)) as machine:
        assert machine.description.mte_version == 0
        assert not machine.pages.memory.ranges[0].has_tags
        with pytest.raises(NoTagsError):
            machine.pages.tags(0, 0, 1)


def test_stream_with_a_memory_backend_is_found_by_elimination(tmp_path: Path) -> None:
    blocks = {"ram0": RAM_BYTES, "virt.flash0": PAGE, "/rom@etc/acpi/tables": PAGE}
    content = StreamBuilder([page("ram0", 1, FIRST)], blocks).build()

    with open_saved(written(tmp_path, content)) as machine:
        assert memory_of(machine)[PAGE : 2 * PAGE] == FIRST


def test_block_that_the_stream_lacks_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    path = written(tmp_path, StreamBuilder(USUAL).build())

    with (
        pytest.raises(CoreError, match=r"has no other: mach-virt\.ram \(0x20000 bytes\), mach"),
        open_saved(path, block="other"),
    ):
        pass


def test_stream_begins_at_an_offset(tmp_path: Path) -> None:
    path = written(tmp_path, b"a header of somebody else" + StreamBuilder(USUAL).build())

    with open_saved(path, offset=25) as machine:
        assert memory_of(machine) == expected_memory()


def test_stream_in_a_file_with_zeros_behind_it_is_read(tmp_path: Path) -> None:
    with open_saved(written(tmp_path, StreamBuilder(USUAL).build() + bytes(4096))) as machine:
        assert memory_of(machine) == expected_memory()


def test_convert_writes_a_core_with_tags_and_registers(tmp_path: Path) -> None:
    source, core_path = written(tmp_path, StreamBuilder(USUAL).build()), tmp_path / "vm.core"

    converted = convert(QemuFile(source), core_path)

    assert (converted.has_tags, converted.vcpu_count) == (True, 2)
    with open_core(core_path) as core:
        assert core.data(RAM, RAM_BYTES).tobytes() == expected_memory()
        assert core.tags(RAM, RAM_BYTES).tobytes() == TAGS
        assert [each.pc for each in core.vcpus] == [0x4020_0000, 0x4020_0004]
        assert core.vcpus[0].sp == 0x11F


def test_convert_that_is_cancelled_leaves_no_file(tmp_path: Path) -> None:
    class Cancelled:
        def is_set(self) -> bool:
            return True

    source, core_path = written(tmp_path, StreamBuilder(USUAL).build()), tmp_path / "vm.core"

    with pytest.raises(CoreError, match="cancelled"):
        convert(QemuFile(source), core_path, SaveOptions(), cancel=Cancelled())

    assert not core_path.exists()


def configured_twice(builder: StreamBuilder) -> bytes:
    part = b"\x07" + be(len(builder.machine)) + builder.machine.encode()
    return builder.build().replace(part, 2 * part, 1)


def no_end(content: bytes) -> bytes:
    return content[: content.rindex(b"\x06\x00\x00")]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StreamBuilder([be(0x200, 8)]).build(), "sent by multifd"),
        (lambda: StreamBuilder([be(0x60, 8)]).build(), "sent with xbzrle"),
        (lambda: StreamBuilder([be(0x120, 8)]).build(), "sent with compress"),
        (lambda: StreamBuilder([be(0x80, 8)]).build(), "sent with RDMA"),
        (
            lambda: StreamBuilder(USUAL, capabilities=["x-ignore-shared"]).build(),
            "sent with x-ignore-shared: shared RAM is not in it",
        ),
        (
            lambda: StreamBuilder(USUAL, commands=b"\x08" + be(3, 2) + be(2, 2) + b"ab").build(),
            "as one of a post-copy or COLO migration",
        ),
        (lambda: no_end(StreamBuilder(USUAL).build()), "has no description of the devices"),
        (lambda: StreamBuilder(USUAL, machine="sbsa-ref").build(), "is of machine 'sbsa-ref'"),
        (lambda: StreamBuilder(USUAL, devices=[]).build(), "no vCPUs of an Arm machine"),
        (
            lambda: StreamBuilder([], {"a": PAGE, "b": PAGE}).build(),
            r"which block is the guest's RAM: a \(0x1000 bytes\), b .*--ram-block",
        ),
        (
            lambda: StreamBuilder([], {"mach-virt.ram": 2 * PAGE, "mach-virt.tag": PAGE}).build(),
            "cannot have the 0x1000 bytes of tags in mach-virt.tag",
        ),
        (lambda: b"\x1f\x8b\x08" + bytes(100), "it is compressed by gzip; decompress it first"),
        (lambda: b"\x28\xb5\x2f\xfd" + bytes(100), "it is compressed by zstd"),
        (lambda: b"\x11\x22\x33\x44" + bytes(100), "a further connection of multifd"),
        (lambda: b"QFI\xfb" + bytes(100), "it is a qcow2 image"),
        (lambda: b"\x7fELF" + bytes(100), "it is an ELF file already"),
        (lambda: b"", "does not begin as a migration stream of QEMU"),
        (
            lambda: (b"LibvirtQemudSave" + bytes(4) + b"\xf4\x01").ljust(100, b"\0"),
            "give --offset 0x250",
        ),
        (
            lambda: (b"LibvirtQemudSave" + bytes(12) + b"\x01").ljust(100, b"\0"),
            "libvirt saved it compressed",
        ),
    ],
)  # fmt: skip
def test_file_that_cannot_be_read_is_refused_by_name(
    build: Callable[[], bytes], words: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path, build())

    assert type(error) is CoreError
    with pytest.raises(CoreError, match=words):
        raise error


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StreamBuilder([page(None, 1, 0)]).build(), "the block before it, and there is no"),
        (lambda: StreamBuilder([page("other", 1, 0)]).build(), "block other, which is not in"),
        (
            lambda: StreamBuilder([page("mach-virt.ram", 32, 0)]).build(),
            "a page at 0x20000 of block mach-virt.ram, which has 0x20000 bytes",
        ),
        (lambda: StreamBuilder([be(0x0A, 8)]).build(), "a page with the flags 0xa"),
        (
            lambda: StreamBuilder(USUAL, {"a": PAGE + 1, "b": PAGE - 1}).build(),
            "block a of 0x1001 bytes",
        ),
        (lambda: StreamBuilder(USUAL, {"a": 1 << 60}).build(), "0x10000000000 are possible"),
        (
            lambda: StreamBuilder(USUAL).build().replace(b"\x7e" + be(2), b"\x7e" + be(3), 1),
            "a footer of another section than 0x2",
        ),
        (
            lambda: StreamBuilder(USUAL, devices=[vcpu(0), vcpu(0)]).build(),
            "device cpu 0x0 comes twice",
        ),
        (
            lambda: StreamBuilder(USUAL, devices=[device("cpu", 0, [])]).build(),
            "vCPU 0 has no cpsr, or not as an Arm machine has it",
        ),
        (
            lambda: StreamBuilder(USUAL).build({"page_size": PAGE, "devices": []}),
            "device cpu 0x0 is not in the description",
        ),
        (lambda: StreamBuilder(USUAL).build({"page_size": 1, "devices": []}), "pages of 0x1 bytes"),
        (lambda: StreamBuilder(USUAL).build({"page_size": PAGE}), "names no devices"),
        # Each costs what is described, and a description is described once.
        (lambda: configured_twice(StreamBuilder(USUAL)), "a configuration for the second time"),
    ],
)  # fmt: skip
def test_damaged_stream_is_refused_with_its_offset(
    build: Callable[[], bytes], words: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path, build())

    assert isinstance(error, MalformedCoreError)
    assert words in str(error)
    assert "vm.qemu: QEMU stream offset 0x" in str(error)


def test_stream_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    builder = StreamBuilder(USUAL)
    whole, tail = builder.build(), builder.tail()
    body = whole[: -len(tail)]
    # At each byte but for the middles of pages and of the vCPUs' many registers.
    cuts = [*range(300), *range(300, len(body) - 1, 97), *range(len(body) - 40, len(body))]

    for cut in cuts:
        error = refusal(tmp_path, body[:cut] + tail)
        assert isinstance(error, CoreError), cut


def test_stream_that_claims_much_ram_costs_little(tmp_path: Path) -> None:
    size = (1 << 40) - PAGE
    content = StreamBuilder([page("mach-virt.ram", 1, FIRST)], {"mach-virt.ram": size}).build()

    with open_saved(written(tmp_path, content)) as machine:
        assert machine.pages.memory.size_bytes == size
        assert machine.pages.data(0, np.array([[1, 1]])).tobytes() == FIRST


def test_mapped_ram_with_places_beyond_the_file_is_refused(tmp_path: Path) -> None:
    builder = StreamBuilder(capabilities=["mapped-ram"], mapped={})
    content = builder.build()
    at = content.index(be(1) + be(PAGE, 8))

    for field in (at + 12, at + 20):
        for value in (1 << 63, len(content) + 1, 0):
            broken = content[:field] + be(value, 8) + content[field + 8 :]
            assert isinstance(refusal(tmp_path, broken), MalformedCoreError)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4
    )
)
@settings(max_examples=150, deadline=None)
def test_mutated_stream_is_read_or_refused_and_nothing_else(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Without the middles of pages, where a change is one of data.
    content = bytearray(StreamBuilder(USUAL[:1]).build())
    for at, change in changes:
        content[at % len(content)] ^= change
    path = written(tmp_path_factory.getbasetemp(), bytes(content))

    # Any other error fails the test.
    with suppress(CoreError), open_saved(path) as machine:
        memory_of(machine)
