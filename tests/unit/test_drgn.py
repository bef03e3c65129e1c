"""tagalong.drgn with the real drgn: memory, registers and tags of cores of every kind.

The core is of the guest `paged`, which maps 8 pages in its kernel's half: granule g of page p has
tag (p + g) modulo 16, and the first word of each is a pointer to itself.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

drgn = pytest.importorskip("drgn", reason="missing drgn: pip install 'tagalong[drgn]'")

from tagalong.core import Space, open_core  # noqa: E402
from tagalong.drgn import (  # noqa: E402
    allocation_tag,
    find_tag,
    load_symbols,
    logical_tag,
    open_program,
    physical_address,
    tag_mismatch,
    tag_runs,
)
from tagalong.errors import NoTagsError, NotInCoreError, TranslationError, UsageError  # noqa: E402
from tagalong.qemu import QemuFile, convert  # noqa: E402
from tagalong.snapshot import SaveOptions  # noqa: E402
from tests.golden.build_cores import LINUX_CORE, QEMU_STREAM  # noqa: E402

PAGE = 4096
POOL = 0x4027_0000
WINDOW = 0xFFFF_FF81_0000_0000

MakeCore = Callable[[Space, bool], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeCore:
    """Return what makes a core of the guest: in a space, compressed or not."""
    folder = tmp_path_factory.mktemp("drgn")
    saved = folder / "paged.qemu"
    saved.write_bytes(zstandard.ZstdDecompressor().decompress(
        QEMU_STREAM.read_bytes(), max_output_size=1 << 20
    ))  # fmt: skip

    def core(space: Space, compress: bool) -> Path:
        path = folder / f"{space.name}{'.zst' if compress else ''}"
        if not path.exists():
            convert(QemuFile(saved), path, SaveOptions(space=space, compress=compress))
        return path

    return core


def tag_of(page: int, granule: int) -> int:
    return (page + granule) % 16


@pytest.mark.parametrize("compress", [False, True])
def test_program_has_the_core_s_memory_and_registers(
    make: MakeCore,
    compress: bool,
) -> None:
    path = make(Space.PHYSICAL, compress)
    program = open_program(path)

    with open_core(path) as core:
        assert program.read(POOL, 64) == core.data(POOL, 64).tobytes()
        for vcpu in core.vcpus:
            registers = program.thread(vcpu.thread).stack_trace()[0].registers()
            assert (registers["sp"], registers["x0"]) == (vcpu.sp, vcpu.x[0])
    with pytest.raises(drgn.FaultError):
        program.read(0x1000, 8)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("space", [Space.PHYSICAL, Space.KERNEL])
def test_allocation_tag_of_a_kernel_address_is_the_guest_s(
    make: MakeCore,
    space: Space,
    compress: bool,
) -> None:
    program = open_program(make(space, compress))

    for page, granule in ((0, 0), (3, 7), (7, 255)):
        address = WINDOW + page * PAGE + granule * 16
        assert allocation_tag(program, address + 5) == tag_of(page, granule)


def test_allocation_tag_of_a_physical_address_is_the_guest_s(make: MakeCore) -> None:
    program = open_program(make(Space.PHYSICAL, False))

    assert [allocation_tag(program, POOL + 16 * granule) for granule in range(3)] == [7, 8, 9]
    assert physical_address(program, WINDOW + 7 * PAGE + 0x28) == POOL + 0x28
    assert allocation_tag(program, POOL, vcpu=0) == 7  # mapped one to one


def test_tags_across_pages_are_those_of_each_page(make: MakeCore) -> None:
    program = open_program(make(Space.PHYSICAL, False))

    runs = list(tag_runs(program, WINDOW + PAGE - 32, 64))

    assert [(run.start - WINDOW, run.end - WINDOW, run.tag) for run in runs] == [
        (PAGE - 32, PAGE - 16, 14),
        (PAGE - 16, PAGE, 15),
        (PAGE, PAGE + 16, 1),
        (PAGE + 16, PAGE + 32, 2),
    ]
    found = find_tag(program, 15, WINDOW, 2 * PAGE)
    assert [run.start - WINDOW for run in found][:3] == [0xF0, 0x1F0, 0x2F0]


def test_tag_mismatch_is_what_an_access_would_fault_at(make: MakeCore) -> None:
    program = open_program(make(Space.PHYSICAL, False))
    word = int.from_bytes(open_program(make(Space.KERNEL, False)).read(WINDOW + 0x20, 8), "little")

    assert logical_tag(word) == 2
    assert tag_mismatch(program, word, 16) is None
    wrong = tag_mismatch(program, word, 17)
    assert wrong is not None
    assert (wrong.start, wrong.tag) == (WINDOW + 0x30, 3)


def test_functions_take_objects_of_drgn(make: MakeCore) -> None:
    program = open_program(make(Space.KERNEL, False))
    pointer = drgn.Object(program, program.pointer_type(program.void_type()), WINDOW | 0x20)

    assert allocation_tag(program, pointer) == 2
    assert logical_tag(pointer) == 0xF


def test_address_that_is_not_mapped_or_has_no_tags_is_refused(make: MakeCore) -> None:
    program = open_program(make(Space.PHYSICAL, False))

    with pytest.raises(NotInCoreError, match=r"address 0xffffff8300000000: nothing is mapped"):
        allocation_tag(program, 0xFFFF_FF83_0000_0000)
    with pytest.raises(NotInCoreError, match=r"address 0x1000: the core has no memory here"):
        allocation_tag(program, 0x1000)
    with pytest.raises(UsageError, match=r"there is no vCPU 2: the machine has 2"):
        allocation_tag(program, POOL, vcpu=2)
    with pytest.raises(TranslationError, match=r"MMU is off"):
        allocation_tag(program, POOL, vcpu=1)
    with pytest.raises(UsageError, match=r"is not a core of a Linux kernel to drgn"):
        load_symbols(program)
    with pytest.raises(UsageError, match=r"was not made by tagalong\.drgn\.open_program"):
        allocation_tag(drgn.Program(), POOL)


def test_core_of_a_linux_process_has_its_tags() -> None:
    program = open_program(LINUX_CORE)

    with open_core(LINUX_CORE) as core:
        region = next(each for each in core.regions if each.has_tags)
        expected = core.granule_tags(region.address, 0x1000).tolist()
        bare = next(each for each in core.regions if not each.has_tags)
    found = [
        run.tag
        for run in tag_runs(program, region.address, 0x1000)
        for _ in range(run.start, run.end, 16)
    ]
    assert found == expected
    with pytest.raises(NoTagsError):
        allocation_tag(program, bare.address)
    with pytest.raises(TranslationError, match="is no core of a machine by physical"):
        physical_address(program, region.address)
