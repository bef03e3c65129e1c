"""docs/formats/core.md and the code say the same: every table is read and compared."""

import re
from enum import IntEnum
from pathlib import Path

import pytest

from tagalong.core import Space, archive, elf, machine_note, thread_notes
from tagalong.core.check import check_core
from tagalong.core.findings import Rule
from tagalong.core.reader import open_core
from tests.support.core_cases import CASES

DOCUMENT = (Path(__file__).parents[3] / "docs" / "formats" / "core.md").read_text("utf-8")

LAYOUTS = {
    "ELF header": elf.ELF_HEADER,
    "ELF identification": elf.IDENT,
    "Program header": elf.PROGRAM_HEADER,
    "Section header": elf.SECTION_HEADER,
    "Note header": elf.NOTE_HEADER,
    "`NT_PRSTATUS`": thread_notes.PRSTATUS,
    "General registers (`pr_reg`)": thread_notes.USER_PT_REGS,
    "`NT_FPREGSET`": thread_notes.FPREGSET,
    "`NT_ARM_TAGGED_ADDR_CTRL`": thread_notes.TAGGED_ADDR_CTRL,
    "`NT_AUXV` entry": thread_notes.AUXV_ENTRY,
    "The vendor note, `MACHINE`": machine_note.MACHINE_NOTE,
    "Skippable frame header": archive.SKIPPABLE_HEADER,
    "Seek table entry": archive.SEEK_ENTRY,
    "Seek table footer": archive.SEEK_FOOTER,
}
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def rows_after(marker: str) -> list[list[str]]:
    """Return the cells of the first table that follows `marker`, without its head."""
    lines = DOCUMENT[DOCUMENT.index(marker) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_document_every_byte_table_is_known() -> None:
    headings = re.findall(r"^### (.*)$", DOCUMENT, re.MULTILINE)

    assert headings == list(LAYOUTS)
    assert DOCUMENT.count("| offset | size |") == len(LAYOUTS)


@pytest.mark.parametrize("title", LAYOUTS)
def test_document_byte_table_equals_the_layout(title: str) -> None:
    layout = LAYOUTS[title]
    at = 0

    rows = rows_after(f"### {title}\n")

    assert [row[3] for row in rows] == [name for name, _ in layout.fields]
    for (offset, size, kind, name, *_), (_, code_kind) in zip(rows, layout.fields, strict=True):
        assert int(offset) == at == layout.offsets[name]
        if isinstance(code_kind, int):
            assert (kind, int(size)) == ("bytes", code_kind)
        else:
            assert (kind, int(size)) == (code_kind, SIZES[code_kind])
        at += int(size)
    assert layout.size == at


@pytest.mark.parametrize(
    ("marker", "members"),
    [
        ("| `p_type` | name", [elf.SegmentType]),
        ("| `n_type` | name", [elf.NoteType, elf.VendorNoteType]),
        ("| `space` | name", [Space]),
    ],
    ids=["segments", "notes", "spaces"],
)
def test_document_numbers_equal_the_enum(marker: str, members: list[type[IntEnum]]) -> None:
    expected = {member.name: member.value for kind in members for member in kind}

    assert {row[1]: int(row[0]) for row in rows_after(marker)} == expected


def test_document_archive_numbers_equal_the_code() -> None:
    numbers = {int(found, 16) for found in re.findall(r"0x[0-9a-f]{8}", DOCUMENT)}

    assert numbers == {archive.SKIPPABLE_MAGIC, archive.SEEKABLE_MAGIC}
    assert f"the next {archive.FRAME_BYTES >> 20} MiB of" in DOCUMENT
    assert f"more than {archive.MAX_FRAME_BYTES >> 20} MiB" in DOCUMENT


def test_document_names_every_rule_with_its_level(tmp_path: Path) -> None:
    documented = {row[0]: row[1] for row in rows_after("| rule | level")}
    path = tmp_path / "a.core"

    assert list(documented) == [rule.value for rule in Rule]
    for case in CASES.values():
        path.write_bytes(case.core)
        with open_core(path) as core:
            for finding in check_core(core).findings:
                assert finding.level.value in documented[finding.rule.value]
