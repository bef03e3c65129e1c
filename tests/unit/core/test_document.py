"""docs/formats/core.md and the code say the same: every table is read and compared."""

import re
from enum import IntEnum
from pathlib import Path

import pytest

from tagalong.binary import elf
from tagalong.core import (
    Space,
    compressed,
    headers,
    machine_note,
    note_types,
    notes,
    thread_notes,
    vmcoreinfo,
)
from tagalong.core.check import check_core
from tagalong.core.findings import Rule
from tagalong.core.reader import open_core
from tagalong.core.source import SKIPPABLE_MAGIC
from tests.support.core_cases import CASES
from tests.support.format_document import FormatDocument

DOCUMENT = FormatDocument("core.md")

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
    "Skippable frame header": compressed.SKIPPABLE_HEADER,
    "Seek table entry": compressed.SEEK_ENTRY,
    "Seek table footer": compressed.SEEK_FOOTER,
}


def test_document_every_byte_table_is_known() -> None:
    headings = re.findall(r"^### (.*)$", DOCUMENT.text, re.MULTILINE)

    assert headings == list(LAYOUTS)
    assert DOCUMENT.text.count("| offset | size |") == len(LAYOUTS)


@pytest.mark.parametrize("title", LAYOUTS)
def test_document_byte_table_equals_the_layout(title: str) -> None:
    DOCUMENT.require_byte_table(title, LAYOUTS[title])


@pytest.mark.parametrize(
    ("marker", "members"),
    [
        ("| `p_type` | name", [note_types.SegmentType]),
        (
            "| `n_type` | name",
            [note_types.NoteType, note_types.KernelNoteType, note_types.VendorNoteType],
        ),
        ("| `space` | name", [Space]),
    ],
    ids=["segments", "notes", "spaces"],
)
def test_document_numbers_equal_the_enum(marker: str, members: list[type[IntEnum]]) -> None:
    expected = {member.name: member.value for kind in members for member in kind}

    assert {row[1]: int(row[0]) for row in DOCUMENT.rows_after(marker)} == expected


def test_document_compressed_numbers_equal_the_code() -> None:
    numbers = {int(found, 16) for found in re.findall(r"0x[0-9a-f]{8}", DOCUMENT.text)}

    assert numbers == {SKIPPABLE_MAGIC, compressed.SEEKABLE_MAGIC}
    assert f"the next {compressed.FRAME_BYTES >> 20} MiB of" in DOCUMENT.text
    assert f"more than {compressed.MAX_FRAME_BYTES >> 20} MiB" in DOCUMENT.text


def test_document_limits_equal_the_code() -> None:
    documented = {row[0]: int(row[1]) for row in DOCUMENT.rows_after("| limit | value")}
    numbers = {**vars(headers), **vars(notes)}

    assert f"{vmcoreinfo.MAX_BYTES} bytes" in DOCUMENT.text
    assert documented == {name: numbers[name] for name in numbers if name.startswith("MAX_")}


def test_document_names_every_rule_with_its_level(tmp_path: Path) -> None:
    documented = {row[0]: row[1] for row in DOCUMENT.rows_after("| rule | level")}
    path = tmp_path / "a.core"

    assert list(documented) == [rule.value for rule in Rule]
    seen = set()
    for case in CASES.values():
        path.write_bytes(case.core)
        with open_core(path) as core:
            for finding in check_core(core).findings:
                assert finding.level.value in documented[finding.rule.value]
                seen.add(finding.rule)
    # Those of cores that only their own tests in test_check.py build.
    elsewhere = {
            Rule.NOT_GRANULES, Rule.DAMAGED_NOTES, Rule.DAMAGED_MACHINE_NOTE, Rule.OTHER_SYSTEM,
            Rule.DAMAGED_VMCOREINFO,
        }  # fmt: skip
    assert seen == set(Rule) - elsewhere
