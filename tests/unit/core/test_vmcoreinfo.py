"""VMCOREINFO: what is one, and what a core with it says of its kernel."""

from pathlib import Path

import pytest

from tagalong.binary.layout import MalformedError
from tagalong.cli.core_text import check_report
from tagalong.core import Space, Vmcoreinfo, open_core
from tagalong.core.check import check_core
from tagalong.core.info import describe
from tagalong.machine import register_ids
from tagalong.paging import Half, Regime
from tests.support.core_builder import (
    PT_LOAD,
    CoreBuilder,
    Segment,
    load,
    note,
    tag_segment,
    usual_notes,
)
from tests.support.cores import notes, random_planes, write_core
from tests.support.vmcoreinfo import TABLE_OFFSET, vmcoreinfo

RAM = 0x4000_0000
PAGE = 4096


def changed(before: bytes, after: bytes) -> bytes:
    content = vmcoreinfo()
    assert before in content
    return content.replace(before, after)


def machine_core(path: Path, text: bytes | None, *, space: Space = Space.PHYSICAL) -> Path:
    about = notes(4 * PAGE, space=space, vmcoreinfo=text)
    write_core(path, about, [random_planes(4 * PAGE)[0]])
    return path


def test_vmcoreinfo_says_what_the_kernel_is() -> None:
    info = Vmcoreinfo.parse(vmcoreinfo() + bytes(100))

    assert info.text == vmcoreinfo()
    assert (info.osrelease, info.page_size_bytes) == ("6.12.1-test", 4096)
    assert info.kernel_offset == 0x2A73_BFC0_0000
    assert info.kernel_table == RAM + TABLE_OFFSET
    assert info.lines["NUMBER(VA_BITS)"] == "48"


WIDER = b"NUMBER(PHYS_OFFSET)=0xfff1000040000000\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # Debian's 6.12 on a CPU with addresses of 48 bits, and on one with 52.
        (changed(b"NUMBER(VA_BITS)=48", b"NUMBER(VA_BITS)=52") + WIDER, RAM),
        (
            changed(b"NUMBER(VA_BITS)=48", b"NUMBER(VA_BITS)=52").replace(b"=0x10", b"=0xc")
            + b"NUMBER(PHYS_OFFSET)=0x40000000\n",
            None,
        ),
        (vmcoreinfo() + b"NUMBER(PHYS_OFFSET)=0x40000000\n", None),
        # Its variable vabits_actual tells crash.
        (vmcoreinfo(release="6.8.0").replace(b"BITS)=48", b"BITS)=52") + WIDER, None),
        (changed(b"NUMBER(VA_BITS)=48", b"NUMBER(VA_BITS)=52"), None),
        (changed(b"NUMBER(VA_BITS)=48", b"NUMBER(VA_BITS)=99999999999999") + WIDER, None),
        (vmcoreinfo(release="next") + WIDER, None),
        (vmcoreinfo(release="next").replace(b"BITS)=48", b"BITS)=52") + WIDER, RAM),
    ],
)
def test_crash_is_told_where_memory_begins_if_the_kernel_uses_fewer_bits_than_it_is_built_for(
    text: bytes, told: int | None
) -> None:
    assert Vmcoreinfo.parse(text).crash_phys_offset == told


def test_check_says_what_crash_must_be_told(tmp_path: Path) -> None:
    text = changed(b"NUMBER(VA_BITS)=48", b"NUMBER(VA_BITS)=52") + WIDER
    path = tmp_path / "a.core"
    content = usual_notes() + note(b"VMCOREINFO", 0, text)
    memory = Segment(PT_LOAD, bytes(4 * PAGE), RAM, physical=RAM, flags=7, alignment=0)
    path.write_bytes(CoreBuilder([memory], content).build())

    with open_core(path) as core:
        report = check_core(core)

    assert report.kernel is not None
    assert report.kernel.crash_options == "-m phys_offset=0x40000000 --no_modules"
    assert "and -m phys_offset=0x40000000 --no_modules" in check_report(report, "a.core")


def test_vmcoreinfo_gives_the_registers_that_lead_to_the_tables() -> None:
    registers = Vmcoreinfo.parse(vmcoreinfo()).table_registers
    regime = Regime.of(registers, Half.KERNEL)

    assert (regime.table, regime.granule_bits, regime.input_bits) == (RAM + TABLE_OFFSET, 12, 48)
    assert registers[register_ids.MAIR_EL1] >> 8 & 0xFF == 0xF0
    wide = Vmcoreinfo.parse(changed(b"T1SZ)=0x10", b"T1SZ)=0xc")).table_registers
    assert (Regime.of(wide, Half.KERNEL).input_bits, Regime.of(wide, Half.KERNEL).is_large) == (
        52,
        True,
    )
    with pytest.raises(MalformedError, match=r"no number NUMBER\(TCR_EL1_T1SZ\)"):
        _ = Vmcoreinfo.parse(changed(b"TCR_EL1_T1SZ", b"T1SZ")).table_registers


def test_vmcoreinfo_without_an_offset_of_the_kernel_says_so() -> None:
    assert Vmcoreinfo.parse(changed(b"KERNELOFFSET=2a73bfc00000\n", b"")).kernel_offset is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with OSRELEASE="),
        (b"RELEASE=1\n", "does not begin with OSRELEASE="),
        (vmcoreinfo()[:-1], "the last line of VMCOREINFO has no end"),
        (vmcoreinfo()[:40], "the last line of VMCOREINFO has no end"),
        (changed(b"VA_BITS)=", b"VA_BITS) "), "a line of VMCOREINFO is not KEY=value"),
        (changed(b"VA_BITS", b"VA\x80BITS"), "a line of VMCOREINFO is not KEY=value"),
        (changed(b"6.12.1-test", b""), "no OSRELEASE of at most 64 characters"),
        (changed(b"6.12.1-test", b"6" * 65), "no OSRELEASE of at most 64 characters"),
        (changed(b"PAGESIZE=4096", b"PAGESIZE=8192"), "VMCOREINFO has PAGESIZE=8192"),
        (changed(b"PAGESIZE=4096", b"PAGESIZE=4K"), "VMCOREINFO has no number PAGESIZE"),
        (changed(b"kimage_voffset", b"kimage"), "no number NUMBER(kimage_voffset)"),
        (changed(b"swapper_pg_dir)=", b"swapper_pg_dir)=-"), "more than 64 bits"),
        (changed(b"swapper_pg_dir)=", b"swapper_pg_dir)=1"), "more than 64 bits"),
        (changed(b"003000", b"003010"), "at gpa 0x40003010, which is no page"),
        (b"OSRELEASE=1\n" * 6000, "VMCOREINFO of more than 0x10000 bytes"),
    ],
)
def test_vmcoreinfo_that_makes_no_sense_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Vmcoreinfo.parse(content)

    assert words in str(caught.value)


def test_core_with_vmcoreinfo_has_it_and_info_shows_it(tmp_path: Path) -> None:
    with open_core(machine_core(tmp_path / "vm.core", vmcoreinfo())) as core:
        found, info = core.vmcoreinfo, describe(core)

    assert found is not None
    assert found.text == vmcoreinfo()
    assert info["linux"] == {
        "osrelease": "6.12.1-test",
        "page_size_bytes": 4096,
        "kernel_offset": "0x2a73bfc00000",
        "kernel_table": "0x40003000",
    }


def test_core_of_another_writer_with_vmcoreinfo_of_any_type_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.core"
    content = usual_notes() + note(b"VMCOREINFO", 11, vmcoreinfo())
    path.write_bytes(CoreBuilder([load(RAM, bytes(PAGE))], content).build())

    with open_core(path) as core:
        assert core.vmcoreinfo is not None
        assert core.vmcoreinfo.osrelease == "6.12.1-test"


def test_check_of_a_core_with_vmcoreinfo_says_that_drgn_reads_its_kernel(tmp_path: Path) -> None:
    with open_core(machine_core(tmp_path / "vm.core", vmcoreinfo())) as core:
        report = check_core(core)

    assert report.is_clean
    assert report.kernel is not None
    assert report.kernel.opens
    assert report.kernel.reason == "Linux 6.12.1-test, translation tables at gpa 0x40003000"
    assert report.kernel.crash_reason is not None
    assert "notes only in front of all memory" in report.kernel.crash_reason


@pytest.mark.parametrize(
    ("alignment", "tags", "words"),
    [
        (4096, False, "aligned segments for those of another kind"),
        (0, True, None),
        (0, False, None),
    ],
)
def test_check_of_a_core_with_its_notes_in_front_says_what_crash_does(
    alignment: int,
    tags: bool,
    words: str | None,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.core"
    memory = Segment(PT_LOAD, bytes(4 * PAGE), RAM, physical=RAM, flags=7, alignment=alignment)
    segments = [memory, *([tag_segment(RAM, bytes(4 * 128))] if tags else [])]
    content = usual_notes() + note(b"VMCOREINFO", 0, vmcoreinfo())
    path.write_bytes(CoreBuilder(segments, content).build())

    with open_core(path) as core:
        verdict = check_core(core).kernel

    assert verdict is not None
    assert verdict.opens
    assert (verdict.crash_reason is None) if words is None else (words in str(verdict.crash_reason))


@pytest.mark.parametrize(
    ("text", "space", "words"),
    [
        (None, Space.PHYSICAL, "no VMCOREINFO in the guest's memory: it is no Linux guest"),
        (None, Space.USER, "a dump of user addresses, which is no core of a kernel"),
        (
            vmcoreinfo(RAM + 0x10_0000),
            Space.PHYSICAL,
            "Linux 6.12.1-test: its translation tables at gpa 0x40103000 are not in the core",
        ),
        (b"OSRELEASE=1\n", Space.PHYSICAL, "VMCOREINFO has no number PAGESIZE"),
    ],
)
def test_check_of_a_core_says_why_drgn_does_not_read_its_kernel(
    text: bytes | None, space: Space, words: str, tmp_path: Path
) -> None:
    with open_core(machine_core(tmp_path / "vm.core", text, space=space)) as core:
        verdict = check_core(core).kernel

    assert verdict is not None
    assert not verdict.opens
    assert words in verdict.reason


def test_check_of_a_core_of_a_process_says_nothing_of_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "a.core"
    path.write_bytes(CoreBuilder([load(RAM, bytes(PAGE))], usual_notes()).build())

    with open_core(path) as core:
        assert check_core(core).kernel is None


def test_check_of_a_core_with_damaged_vmcoreinfo_finds_an_error(tmp_path: Path) -> None:
    with open_core(machine_core(tmp_path / "vm.core", b"OSRELEASE=1\nPAGESIZE\n")) as core:
        report, info = check_core(core), describe(core)

    assert [f.rule.value for f in report.findings if f.level.value == "error"] == [
        "damaged-vmcoreinfo"
    ]
    assert "a line of VMCOREINFO is not KEY=value" in str(info["damage"])
