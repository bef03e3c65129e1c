"""What a small file can claim, total by total: refused, or answered in time and memory."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from tagalong.binary import elf
from tagalong.core import CoreSegment, CoreWriter, compressed, notes, open_core, pack
from tagalong.core.check import MAX_FINDINGS, check_core
from tagalong.core.findings import LLDB, Level, Rule, Tags
from tagalong.core.info import describe
from tagalong.core.source import SKIPPABLE_MAGIC, FileSource, allocate
from tagalong.errors import HostError, MalformedCoreError, UsageError
from tagalong.memory import Gpa
from tests.support.core_builder import (
    PT_LOAD,
    PT_MEMTAG,
    PT_NOTE,
    CoreBuilder,
    auxv,
    note,
    prstatus,
    usual_notes,
)

PAGE = 4096
NOTE = note(b"CORE", 9, b"")

Row = tuple[int, int, int, int, int, int, int, int]


def with_rows(path: Path, rows: list[Row], size_bytes: int = 0) -> Path:
    """Write a core of these program headers, with PN_XNUM however few they are."""
    header = elf.ElfHeader.new(
        kind=elf.ET_CORE, machine=elf.EM_AARCH64, phnum=elf.PN_XNUM, shoff=elf.ELF_HEADER.size
    )._replace(phoff=elf.ELF_HEADER.size + elf.SECTION_HEADER.size)
    section = elf.SECTION_HEADER.pack(
        **{name: len(rows) if name == "sh_info" else 0 for name, _ in elf.SECTION_HEADER.fields}
    )
    table = b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows)
    path.write_bytes(header.pack() + section + table)
    if size_bytes:
        os.truncate(path, size_bytes)
    return path


def load(start: int, size: int) -> Row:
    return PT_LOAD, 7, PAGE, start, 0, size, size, PAGE


def tags(start: int, size: int, file_bytes: int) -> Row:
    return PT_MEMTAG, 0, PAGE, start, 0, file_bytes, size, 0


@pytest.mark.parametrize(
    ("limit", "value", "raw", "message"),
    [
        ("MAX_NOTES", 3, NOTE * 4, "offset 0x103c: more than 0x3 notes are not possible"),
        ("MAX_THREADS", 2, prstatus() * 3, "more than 0x2 threads are not possible"),
        ("MAX_OWNER_BYTES", 8, note(b"A" * 8, 1, b""), "a note's owner has 0x9 bytes: 0x8 are"),
        ("MAX_AUXILIARY_BYTES", 32, auxv(), "the auxiliary vector has 0x30 bytes: 0x20 are"),
    ],
    ids=["notes", "threads", "owner", "auxv"],
)
def test_notes_beyond_a_limit_are_refused(
    limit: str, value: int, raw: bytes, message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(notes, limit, value)
    path = tmp_path / "a.core"
    path.write_bytes(CoreBuilder([], raw).build())

    with open_core(path) as core, pytest.raises(MalformedCoreError, match=message):
        _ = core.vcpus, core.auxiliary_vector


def test_notes_up_to_the_limits_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_NOTES", 4)
    monkeypatch.setattr(notes, "MAX_THREADS", 1)
    monkeypatch.setattr(notes, "MAX_AUXILIARY_BYTES", 48)
    path = tmp_path / "a.core"
    path.write_bytes(CoreBuilder([], usual_notes()).build())

    with open_core(path) as core:
        assert (len(core.notes), len(core.vcpus), core.auxiliary_vector is None) == (4, 1, False)


@pytest.mark.parametrize("compress", [False, True])
def test_note_segments_over_one_note_count_together(tmp_path: Path, compress: bool) -> None:
    size = notes.MAX_NOTES_BYTES // 4
    rows: list[Row] = [(PT_NOTE, 0, 1 << 20, 0, 0, size, 0, 4)] * 200
    path = with_rows(tmp_path / "bomb.core", rows, (1 << 20) + size)
    if compress:
        pack(path, tmp_path / "bomb.zst")
        path = tmp_path / "bomb.zst"
        assert path.stat().st_size < 20_000

    with open_core(path) as core:
        with pytest.raises(MalformedCoreError) as caught:
            _ = core.notes
        report = check_core(core)

    assert str(caught.value) == (
        f"core offset {64 + 64 + 4 * 56 + 32:#x}: {5 * size:#x} bytes of notes up to this segment: "
        "0x10000000 are possible in all segments together"
    )
    assert Rule.DAMAGED_NOTES in {finding.rule for finding in report.findings}


HOSTILE: dict[str, Callable[[int], Row]] = {
    "apart": lambda n: load(PAGE * 2 * n, PAGE),
    "each over the next": lambda n: load(PAGE * n, 2 * PAGE),
    "each inside the one before": lambda n: load(PAGE * n, PAGE * (1_000_000 - 2 * n)),
    "all the same": lambda _: load(PAGE, 64 * PAGE),
    "tags that begin within a granule": lambda n: tags(PAGE * n + 8, 2 * PAGE, 16),
    "tags of nothing": lambda n: tags(PAGE * n, 2 * PAGE, 0),
    "data and tags by turns": lambda n: load(2 * PAGE * n, PAGE) if n % 2 else tags(
        2 * PAGE * n, PAGE, 16
    ),
    "old tags": lambda n: (0x7000_0001, 0, PAGE, PAGE * n, 0, 128, PAGE, 0),
    "beyond the end of the file": lambda n: (PT_MEMTAG, 0, 1 << 50, PAGE * n, 0, 9, PAGE, 0),
}  # fmt: skip


def seconds(path: Path) -> float:
    began = time.thread_time()
    with open_core(path) as core:
        assert core.regions is not None
        assert describe(core)
        assert check_core(core).verdicts
    return time.thread_time() - began


@pytest.mark.parametrize("shape", HOSTILE)
def test_time_for_hostile_headers_grows_as_their_number(shape: str, tmp_path: Path) -> None:
    few, many = 1_000, 8_000
    paths = [
        with_rows(tmp_path / f"{count}", [HOSTILE[shape](n) for n in range(count)])
        for count in (few, many)
    ]

    small, large = (min(seconds(path) for _ in range(3)) for path in paths)

    # Eight times as many; a square would be sixty-four times the time.
    assert large < 30 * small


def test_findings_of_one_rule_are_told_up_to_a_number_and_the_verdict_is_of_all(
    tmp_path: Path,
) -> None:
    count = MAX_FINDINGS + 50
    path = with_rows(tmp_path / "a.core", [tags(PAGE * n, PAGE, 128) for n in range(count)])
    raw = bytearray(path.read_bytes())
    raw[elf.IDENT.offsets["ei_osabi"]] = 3  # Linux, so that lldb does not reject the core
    path.write_bytes(raw)

    with open_core(path) as core:
        report = check_core(core)

    found = [each for each in report.findings if each.rule is Rule.UNEQUAL_RANGES]
    assert len(found) == MAX_FINDINGS + 1
    assert (found[-1].level, found[-1].message) == (
        Level.WARNING,
        "50 more like these are left out",
    )
    (verdict,) = (each for each in report.verdicts if each.debugger == LLDB)
    assert (verdict.tags, verdict.reasons) == (Tags.NONE, (Rule.UNEQUAL_RANGES,))


def test_writer_makes_no_core_that_no_reader_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.core.plan.MAX_PROGRAM_HEADERS", 5)
    segments = [CoreSegment(PAGE * n, Gpa(PAGE * n), PAGE, has_tags=True) for n in range(3)]

    with pytest.raises(UsageError) as caught:
        CoreWriter(tmp_path / "a.core", segments, page_size_bytes=PAGE)

    assert str(caught.value) == "a core of 0x7 program headers: 0x5 are possible"
    assert list(tmp_path.iterdir()) == []


def test_compressed_core_with_many_empty_frames_asks_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.core"
    path.write_bytes(CoreBuilder([]).build())
    core = path.read_bytes()
    halves = [core[: PAGE + 8], core[PAGE + 8 :]]
    frames = [zstandard.compress(half) for half in halves]
    nothing, count = zstandard.compress(b""), 200_000
    entry = struct.Struct("<II")
    table = entry.pack(len(frames[0]), len(halves[0])) + entry.pack(len(nothing), 0) * count
    table += entry.pack(len(frames[1]), len(halves[1]))
    footer = struct.pack("<IBI", count + 2, 0, compressed.SEEKABLE_MAGIC)
    path.write_bytes(
        frames[0] + nothing * count + frames[1]
        + struct.pack("<II", SKIPPABLE_MAGIC, len(table) + len(footer))
        + table + footer
    )  # fmt: skip
    opened = []
    decompress = compressed._decompress

    def counting(file: FileSource, frame: compressed.Frame) -> NDArray[np.uint8]:
        opened.append(frame)
        return decompress(file, frame)

    monkeypatch.setattr(compressed, "_decompress", counting)

    with open_core(path) as read:
        assert len(read.notes) == 4

    assert len(opened) == 2


def test_frames_that_are_cached_take_a_bounded_part_of_memory(tmp_path: Path) -> None:
    path = with_rows(tmp_path / "a.core", [load(0, 64 << 20)], 65 << 20)
    pack(path, tmp_path / "a.zst")

    with open_core(tmp_path / "a.zst") as core:
        for at in range(0, 64 << 20, 1 << 20):
            core.data(at, 1)
        source = core.source
        assert isinstance(source, compressed.SeekableSource)
        cached = sum(content.size for content in source._recent.values())

    assert cached == 8 << 20


def test_memory_that_the_host_does_not_have_is_a_host_error() -> None:
    with pytest.raises(HostError) as caught:
        allocate(1 << 60)

    assert str(caught.value) == (
        "the host has no 0x1000000000000000 bytes of memory for a part of a core: read less"
    )
