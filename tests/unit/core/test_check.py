"""What the linter finds, rule by rule; tests/interop holds it against the real debuggers."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.core.check import CheckReport, check_core
from tagalong.core.findings import GDB, LLDB, Finding, Level, Rule, Tags
from tagalong.core.info import describe
from tests.golden.build_cores import LINUX_FILTERED_CORE
from tests.support.core_builder import CoreBuilder, load, note, prstatus, tag_segment
from tests.support.core_cases import AT, CASES, DATA, TAGS, built
from tests.support.cores import notes, random_planes, write_core


def checked(path: Path, core: bytes | None = None) -> CheckReport:
    if core is not None:
        path.write_bytes(core)
    with open_core(path) as opened:
        return check_core(opened)


def only(report: CheckReport, rule: str) -> Finding:
    (found,) = (finding for finding in report.findings if finding.rule.value == rule)
    return found


@pytest.mark.parametrize("name", CASES)
def test_check_finds_these_rules_and_no_others(name: str, tmp_path: Path) -> None:
    report = checked(tmp_path / "a.core", CASES[name].core)

    assert sorted({f.rule.value for f in report.findings}) == sorted(CASES[name].rules)


def test_check_of_our_core_is_clean(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * 4096)
    write_core(path, notes(vcpus=3), [data], [tags])

    report = checked(path)

    assert report.is_clean
    assert [f.rule.value for f in report.findings] == ["lldb-last-granule"]
    assert [(v.debugger, v.tags, v.wrong) for v in report.verdicts] == [
        (GDB, Tags.ALL, False),
        (LLDB, Tags.ALL, False),
    ]


def test_check_of_our_core_without_tags_warns(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    write_core(path, notes(mte_version=0), [])

    report = checked(path)

    assert not report.is_clean
    assert only(report, "no-tag-segments").level is Level.WARNING


@pytest.mark.parametrize(
    ("name", "rule", "level", "offset", "message"),
    [
        (
            "no auxv", "no-hwcap2-mte", Level.WARNING, None,
            "no NT_AUXV note: nothing says that this machine has MTE",
        ),
        (
            "no hwcap2 bit", "no-hwcap2-mte", Level.WARNING, None,
            "AT_HWCAP2 has no HWCAP2_MTE (bit 18): nothing says that this machine has MTE",
        ),
        (
            "no 0x409", "no-tagged-addr-ctrl", Level.WARNING, None,
            "no NT_ARM_TAGGED_ADDR_CTRL note (0x409), nor any other of owner LINUX, nor EI_OSABI "
            "3: nothing says that this is Linux",
        ),
        (
            "no 0x409 but another note of Linux", "no-tagged-addr-ctrl", Level.NOTE, 0x1000,
            "1 of the threads have no NT_ARM_TAGGED_ADDR_CTRL note (0x409)",
        ),
        (
            "too few tags", "tag-size", Level.ERROR, 0xB0,
            "0x2000 bytes of memory have 0x100 bytes of tags, but p_filesz is 0x80",
        ),
        (
            "cut in the tags", "cut-short", Level.ERROR, 0xB0,
            "the file ends at 0x4080, the tag segment at 0x4100",
        ),
        (
            "overlapping tags", "overlap", Level.ERROR, 0xE8,
            "this tag segment overlaps the one of [0x10000, 0x12000), whose header is at 0xb0",
        ),
        (
            "tags of a part", "unequal-ranges", Level.WARNING, 0xB0,
            "no PT_LOAD has exactly the range of this tag segment",
        ),
        (
            "tags of a part", "no-tags-here", Level.NOTE, None,
            "0x1000 bytes of memory have no tags, 1 such range(s), this is the first: not mapped "
            "with PROT_MTE, or not written",
        ),
        (
            "old type", "old-tag-type", Level.ERROR, 0xB0,
            "tags in a segment of type 0x70000001, as kernels before the release of 5.18 wrote "
            "it; it is 0x70000002 since then",
        ),
    ],
)  # fmt: skip
def test_finding_says_what_and_where(
    name: str, rule: str, level: Level, offset: int | None, message: str, tmp_path: Path
) -> None:
    found = only(checked(tmp_path / "a.core", CASES[name].core), rule)

    assert (found.level, found.offset, found.message) == (level, offset, message)


def test_damaged_notes_are_an_error_with_their_offset(tmp_path: Path) -> None:
    core = built(load(AT, DATA), tag_segment(AT, TAGS), notes=prstatus()[:-4])

    found = only(checked(tmp_path / "a.core", core), "damaged-notes")

    assert (found.level, found.offset) == (Level.ERROR, 0x1000)


def test_damaged_machine_note_is_an_error_with_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    write_core(path, notes(), [])
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)

    found = only(checked(path), "damaged-machine-note")

    assert found.level is Level.ERROR
    assert "the machine note's checksum is wrong: it was damaged" in found.message


@pytest.mark.parametrize("owner", [b"FreeBSD", b"NetBSD-CORE", b"NetBSD-CORE@7", b"OpenBSD@1"])
def test_core_of_another_system_says_so_and_guesses_nothing(owner: bytes, tmp_path: Path) -> None:
    core = built(load(AT, DATA), tag_segment(AT, TAGS), notes=note(owner, 1, bytes(392)))

    report = checked(tmp_path / "a.core", core)
    with open_core(tmp_path / "a.core") as opened:
        info = describe(opened)

    system = owner.decode().partition("-")[0].partition("@")[0]
    assert info["other_system"] == system
    assert only(report, "other-system").message == (
        f"a core of {system}: its registers are in notes of its own, which tagalong does not read. "
        "Memory and tags are served. What gdb and lldb show of such a core was not tried"
    )
    assert {(v.tags, v.wrong, v.reasons) for v in report.verdicts} == {
        (Tags.UNKNOWN, False, (Rule.OTHER_SYSTEM,))
    }
    assert "no-registers" not in {finding.rule.value for finding in report.findings}


def test_core_that_linux_wrote_without_tags_is_normal() -> None:
    with open_core(LINUX_FILTERED_CORE) as core:
        report, info = check_core(core), describe(core)

    found = only(report, "tags-not-written")
    assert (found.level, found.offset) == (Level.WARNING, 0x270)
    assert found.message == (
        "tags not written: 0x10000 bytes of memory had tags, but their segment is empty, as of "
        "memory that Linux's coredump_filter leaves out"
    )
    assert (found.gdb and found.gdb.text) == "Memory tagging not supported or disabled"
    assert all(finding.level is not Level.ERROR for finding in report.findings)
    assert info["tags_not_written"] == [
        {"start": "0xffff8d022000", "end": "0xffff8d032000", "size_bytes": 0x10000}
    ]


def test_tag_segment_that_is_no_granules_is_an_error(tmp_path: Path) -> None:
    core = built(load(AT, DATA), tag_segment(AT + 8, TAGS[:128]))

    assert only(checked(tmp_path / "a.core", core), "not-granules").level is Level.ERROR


def test_too_few_tags_are_invented_by_both_debuggers_and_too_many_are_not(tmp_path: Path) -> None:
    few = only(checked(tmp_path / "few.core", CASES["too few tags"].core), "tag-size")
    many = only(checked(tmp_path / "many.core", CASES["too many tags"].core), "tag-size")

    for effect in (few.gdb, few.lldb):
        assert effect is not None
        assert effect.text == "takes the file's bytes behind the segment for tags"
    assert (many.gdb, many.lldb) == (None, None)


def test_overlapping_loads_are_an_error(tmp_path: Path) -> None:
    core = built(load(AT, DATA), load(AT + 4096, DATA), tag_segment(AT, TAGS))

    found = only(checked(tmp_path / "a.core", core), "overlap")

    assert found.message == (
        "this PT_LOAD overlaps the one of [0x10000, 0x12000), whose header is at 0x78"
    )
    assert (found.gdb and found.gdb.text) == "takes the first in the file"


def test_segment_cut_short_of_data_is_an_error(tmp_path: Path) -> None:
    core = CoreBuilder([tag_segment(AT, TAGS), load(AT, DATA)]).build()[:-100]

    found = only(checked(tmp_path / "a.core", core), "cut-short")

    assert found.message == "the file ends at 0x4f9c, the PT_LOAD at 0x5000"
