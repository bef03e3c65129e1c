"""gdb, lldb and readelf open our cores and show what the guest wrote; so do they Linux's own."""

from pathlib import Path

import numpy as np
import pytest

from tagalong.core import open_core, unpack
from tagalong.core.check import check_core
from tagalong.core.findings import GDB, LLDB, Tags
from tests.golden.build_cores import LINUX_CORE, LINUX_FILTERED_CORE
from tests.support.bare import DATA, tagged
from tests.support.debuggers import gdb, gdb_tags, lldb, lldb_tags, readelf
from tests.support.guest_core import (
    GRANULES,
    KINDS,
    SIZE,
    expected_tags,
    tag_of,
    tagging_guest,
    word_of,
    write,
)
from tests.support.linux_core import CONTROL, CRASHED_AT, TAGGED, TAGGED_BYTES

pytestmark = pytest.mark.usefixtures("debuggers")


@pytest.fixture(scope="module")
def soft_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("core") / "soft.core"
    program = tagging_guest(KINDS["soft"])
    write(program.machine, path)
    program.machine.close()
    return path


@pytest.fixture(scope="module")
def linux_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("core") / "linux.core"
    unpack(LINUX_CORE, path)
    return path


def test_gdb_shows_the_tags_that_the_guest_wrote(soft_core: Path) -> None:
    granules = [*range(20), *range(100, GRANULES, 97), GRANULES - 1, GRANULES, 5000]

    shown = gdb_tags(soft_core, [DATA + 16 * granule for granule in granules])

    assert shown == [tag_of(granule) for granule in granules]


def test_gdb_checks_pointers_against_the_tags(soft_core: Path) -> None:
    said = gdb(
        soft_core,
        [
            f"memory-tag check (char*){tagged(DATA, 1):#x}",
            f"memory-tag check (char*){tagged(DATA + 16, 7):#x}",
            f"x/1gxm {tagged(DATA + 32, 3):#x}",
        ],
    )

    assert f"Memory tags for address {tagged(DATA, 1):#x} match (0x1)." in said
    assert (
        "Logical tag (0x7) does not match the allocation tag (0x2) for address "
        f"{tagged(DATA + 16, 7):#x}." in said
    )
    assert f"<Allocation Tag 0x3 for range [{tagged(DATA + 32, 3):#x}," in said
    assert f"{word_of(2):#018x}" in said


def test_gdb_shows_registers_and_the_tag_control(soft_core: Path) -> None:
    with open_core(soft_core) as core:
        vcpu = core.vcpus[0]

    said = gdb(soft_core, ["info registers x1 sp pc cpsr", "p/x $tag_ctl", "info threads"])

    assert f"x1             {tagged(DATA + SIZE, tag_of(GRANULES - 1) % 15 + 1):#x}" in said
    assert f"pc             {vcpu.pc:#x}" in said
    assert f"sp             {vcpu.sp:#x}" in said
    assert "EL=1" in said
    assert f"$1 = {vcpu.tagged_address_control:#x}" in said
    assert "LWP 1" in said


def test_lldb_shows_the_tags_that_the_guest_wrote(soft_core: Path) -> None:
    shown = lldb_tags(soft_core, DATA, DATA + SIZE + 32)

    assert shown == {DATA + 16 * granule: tag_of(granule) for granule in range(GRANULES + 2)}


def test_lldb_marks_mismatches_as_our_command_does(soft_core: Path) -> None:
    pointer = tagged(DATA, 2)

    said = lldb(soft_core, [f"memory tag read {pointer:#x} {pointer + 48:#x}"])

    lines = [line for line in said.splitlines() if line.startswith("[")]
    assert lines == [
        f"[{DATA:#x}, {DATA + 16:#x}): 0x1 (mismatch)",
        f"[{DATA + 16:#x}, {DATA + 32:#x}): 0x2",
        f"[{DATA + 32:#x}, {DATA + 48:#x}): 0x3 (mismatch)",
    ]


def test_lldb_shows_registers_and_memory(soft_core: Path) -> None:
    with open_core(soft_core) as core:
        vcpu = core.vcpus[0]

    said = lldb(soft_core, ["register read x1 sp pc", f"memory read -s 8 -c 2 -f x {DATA:#x}"])

    assert f"x1 = {vcpu.x[1]:#018x}" in said
    assert f"sp = {vcpu.sp:#018x}" in said
    assert f"pc = {vcpu.pc:#018x}" in said
    assert f"{DATA:#x}: {word_of(0):#018x}" in said


def test_readelf_has_no_complaint(soft_core: Path) -> None:
    said = readelf(soft_core)

    assert "rror" not in said
    assert "arning" not in said
    assert "CORE (Core file)" in said
    assert "AARCH64_MEMTAG" in said
    for name in ("NT_PRSTATUS", "NT_FPREGSET", "NT_AUXV", "TAGALONG"):
        assert name in said
    assert "NT_ARM_TAGGED_ADDR_CTRL" in said or "0x00000409" in said


def test_core_of_linux_has_the_tags_of_the_process(linux_core: Path) -> None:
    with open_core(linux_core) as core:
        tags = core.granule_tags(TAGGED, TAGGED_BYTES)
        data = core.data(TAGGED, 4096)
        vcpu = core.vcpus[0]
        report = check_core(core)

    assert tags.tolist() == [n % 16 for n in range(TAGGED_BYTES // 16)]
    assert data.tolist() == [n % 251 for n in range(4096)]
    assert vcpu.signal == 11
    assert vcpu.tagged_address_control == CONTROL
    assert report.is_clean


def test_debuggers_show_the_same_tags_of_the_core_of_linux(linux_core: Path) -> None:
    addresses = [TAGGED + 16 * granule for granule in range(0, TAGGED_BYTES // 16, 5)]

    assert gdb_tags(linux_core, addresses) == [
        granule % 16 for granule in range(0, TAGGED_BYTES // 16, 5)
    ]
    assert lldb_tags(linux_core, TAGGED, TAGGED + 1024) == {
        TAGGED + 16 * granule: granule % 16 for granule in range(64)
    }


def test_gdb_knows_why_the_process_of_linux_died(linux_core: Path) -> None:
    said = gdb(
        linux_core, ["p $_siginfo.si_code", f"memory-tag check (char*){tagged(CRASHED_AT, 6):#x}"]
    )

    assert "Program terminated with signal SIGSEGV" in said
    assert "$1 = 9" in said  # SEGV_MTESERR
    assert "Logical tag (0x6) does not match the allocation tag (0x5)" in said


def test_our_tags_of_a_core_are_those_of_the_machine(soft_core: Path) -> None:
    with open_core(soft_core) as core:
        assert np.array_equal(core.granule_tags(DATA, SIZE), expected_tags())


def test_core_whose_tags_linux_did_not_write_is_shown_as_check_says(tmp_path: Path) -> None:
    path = tmp_path / "filtered.core"
    unpack(LINUX_FILTERED_CORE, path)
    with open_core(path) as core:
        (segment,) = core.tag_segments
        report = check_core(core)
    start = segment.address

    by_gdb = gdb(path, [f"memory-tag print-allocation-tag (char*){start:#x}"])
    by_lldb = lldb_tags(path, start, start + 32)

    assert "Memory tagging not supported or disabled by the current architecture." in by_gdb
    assert by_lldb == {start: 0, start + 16: 0}
    assert {verdict.debugger: verdict.tags for verdict in report.verdicts} == {
        GDB: Tags.NONE,
        LLDB: Tags.ALL,
    }
    assert all(verdict.wrong == (verdict.debugger == LLDB) for verdict in report.verdicts)
