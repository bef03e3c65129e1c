"""Real cores of known cause (tests.support.mishaps), explained; what redacted answers hold."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tagalong.cli.app import tagalong
from tagalong.explain import drgn_frames
from tagalong.explain.analysis import explain
from tagalong.explain.crash import (
    Allocator,
    AllocatorFacts,
    BlockState,
    CheckMode,
    Crash,
    DataDirection,
    TagFault,
)
from tagalong.explain.explanation import Cause, Explanation
from tagalong.explain.readers import open_crashes
from tagalong.explain.redaction import redact
from tagalong.explain.scudo_records import KNOWN_BY
from tests.support.explained import FAULT, SIZE, ArrayMemory, explanation
from tests.support.measure import Answer, answers, decidable, share
from tests.support.mishaps import read_truth

FOLDER = Path(__file__).parents[2] / "golden" / "crashes"
# Made by a later form of the program: with scudo's records, and with a handler of SIGSEGV.
LATER = FOLDER / "later"
GLIBC = FOLDER / "linux-uaf.core.zst"
KASAN = FOLDER / "kasan-hw-tags-6.12.log.zst"
WORDS_OF_A_USER = "secret of a user"


@cache
def found() -> list[Answer]:
    return list(answers([FOLDER, LATER]))


def test_causes_of_real_cores_are_found() -> None:
    sure = decidable(found())

    assert len(sure) > 30
    assert share(each.is_right for each in sure) >= 0.9


def test_what_is_said_with_certainty_is_right() -> None:
    certain = [each for each in found() if each.probability >= 0.9]

    assert len(certain) > 15
    assert share(each.is_right for each in certain) >= 0.9


def test_explanations_are_better_than_debuggerds_rule() -> None:
    right = share(each.is_right for each in found())
    debuggerd = share(each.debuggerd_is_right for each in found())

    assert right > debuggerd + 0.1


def test_core_of_glibc_is_explained_with_its_block() -> None:
    with open_crashes(GLIBC) as (crash,):
        answer = explain(crash)

    top = answer.top
    assert top is not None
    assert (top.cause, top.distance_bytes) == (Cause.USE_AFTER_FREE, 24)
    assert top.probability > 0.95
    assert top.block is not None
    assert (top.block.size_bytes, top.block.state) == (32, BlockState.FREED)
    assert answer.crash.allocator.kind is Allocator.GLIBC
    assert crash.fault.mode is CheckMode.SYNC
    assert (crash.fault.pointer_tag, answer.crash.fault.memory_tag) == (3, 0)
    assert crash.access is not None
    assert (crash.access.text, crash.access.size_bytes, crash.access.direction) == (
        "ldr x1, [x0, #0x18]", 8, DataDirection.READ,
    )  # fmt: skip
    assert crash.access.base == "x0"
    assert len(crash.backtrace) == 5
    assert crash.process == "uaf"


def test_records_of_scudo_tell_who_freed_the_block() -> None:
    with open_crashes(LATER / "scudo-records-401001.core.zst", LATER) as (crash,):
        answer = explain(crash)

    top = answer.top
    assert top is not None
    assert top.cause is Cause.USE_AFTER_FREE
    assert top.block is not None
    assert (top.block.known_by, top.block.tag) == (KNOWN_BY, crash.fault.pointer_tag)
    assert top.block.allocating_thread == top.block.freeing_thread == crash.thread
    assert answer.neighbourhood is not None
    assert any(block.allocating_thread for block in answer.neighbourhood.blocks)


def test_overflow_is_told_from_a_stale_pointer_by_the_records() -> None:
    with open_crashes(LATER / "scudo-records-401004.core.zst", LATER) as (crash,):
        with_records = explain(crash)
        facts = replace(crash.allocator, previous=(), has_all_frees=False, records=None)
        without = explain(replace(crash, allocator=facts))

    assert with_records.top is not None
    assert with_records.top.cause is Cause.OVERFLOW
    assert stale_share(with_records) < stale_share(without)


def stale_share(answer: Explanation) -> float:
    stale = (Cause.USE_AFTER_FREE, Cause.USE_AFTER_REUSE)
    return sum(each.probability for each in answer.hypotheses if each.cause in stale)


@pytest.mark.parametrize("seed", [501000, 501005], ids=["own stack", "another stack"])
def test_fault_of_a_process_with_a_handler_is_the_one_that_it_handled(seed: int) -> None:
    """Linux put the frame on the program's stack, or on that of its handlers."""
    with open_crashes(LATER / f"glibc-handler-{seed}.core.zst", LATER) as (crash,):
        answer = explain(crash)

    assert crash.fault.reason == "SIGSEGV, SEGV_MTESERR, handled, then signal 5, code -6"
    assert crash.access is not None
    assert crash.access.base is not None
    names = [frame.symbol.split("+")[0] for frame in crash.backtrace if frame.symbol]
    assert {"touch_freed", "underflow"} & {*names}
    assert "main" in names
    assert answer.top is not None
    assert answer.top.probability > 0.9


def test_call_stack_has_drgns_lines_and_inlined_functions() -> None:
    pytest.importorskip("drgn", reason="missing drgn: pip install 'tagalong[drgn]'")
    with open_crashes(LATER / "scudo-records-401001.core.zst", LATER) as (crash,):
        stack = crash.backtrace

    assert [(f.symbol, (f.source or "").rpartition("/")[2]) for f in stack[:3]] == [
        ("touch (inlined)", "mishap.c:141"),
        ("touch_freed+0x1d4", "mishap.c:179"),
        ("main+0x66c", "mishap.c:325"),
    ]
    assert stack[3].module == "/lib/aarch64-linux-gnu/libc.so.6"
    assert stack[-1].symbol == "_start+0x30"  # behind libc, by frame pointers


def test_call_stack_without_drgn_is_that_of_frame_pointers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagalong.explain.drgn_frames.find_spec", lambda _: None)
    with open_crashes(LATER / "scudo-records-401001.core.zst", LATER) as (crash,):
        names = [frame.symbol for frame in crash.backtrace]

    assert names[0] == "touch_freed+0x1d4"
    assert "main+0x66c" in names
    assert all(frame.source is None for frame in crash.backtrace)


def test_frames_behind_one_that_drgn_cannot_place_are_left_out() -> None:
    class Lost:
        @property
        def pc(self) -> int:
            raise LookupError("program counter is not known")

    known = SimpleNamespace(pc=4)

    assert [*drgn_frames._known([known, Lost(), known])] == [known]


def test_core_that_drgn_refuses_keeps_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("drgn", reason="missing drgn: pip install 'tagalong[drgn]'")

    def refuse(_: object) -> None:
        raise LookupError("no\x1b[31m registers")

    monkeypatch.setattr("tagalong.drgn.program_of", refuse)
    with open_crashes(GLIBC) as (crash,):
        assert len(crash.backtrace) == 5
        (note,) = crash.notes

    assert note.startswith("drgn tells nothing of the call stack: no")
    assert "\x1b" not in note


@pytest.mark.parametrize(
    ("content", "cause"), [(b"\0", Cause.USE_AFTER_FREE), (b"x", Cause.LOST_MEMORY_TAGS)]
)
def test_page_of_hardened_malloc_without_tags_was_freed_if_it_is_empty(
    content: bytes, cause: Cause
) -> None:
    """It zeroes what is freed, and lays few slots into a page."""
    memory = ArrayMemory(content=content * SIZE)
    memory.tag_values[:0x40] = 7
    fault = TagFault(CheckMode.SYNC, "SEGV_MTESERR", FAULT, 5, 0, 8, DataDirection.READ)
    crash = replace(
        explanation().crash, fault=fault, memory=memory, mappings=(), backtrace=(), access=None,
        allocator=AllocatorFacts(Allocator.HARDENED_MALLOC, "a test"),
    )  # fmt: skip

    found = explain(crash)

    assert found.top is not None
    assert found.top.cause is cause


def test_log_of_kasan_gives_each_report() -> None:
    with open_crashes(KASAN) as crashes:
        explained = [explain(crash) for crash in crashes]

    assert len(explained) == 73
    by_name = {
        frame.symbol.split("+")[0]: each.top.cause
        for each in explained
        for frame in each.crash.backtrace[:1]
        if frame.symbol and each.top
    }
    assert by_name["kmalloc_oob_right"] is Cause.OVERFLOW
    assert by_name["kmalloc_oob_left"] is Cause.UNDERFLOW
    assert by_name["kmalloc_uaf"] is Cause.USE_AFTER_FREE
    assert by_name["kmalloc_large_uaf"] is Cause.USE_AFTER_FREE
    assert by_name["page_alloc_uaf"] is Cause.USE_AFTER_FREE
    assert Cause.INVALID_FREE in by_name.values()
    assert by_name["vmalloc_oob"] is Cause.OVERFLOW


def test_redacted_explanation_has_no_content_name_or_value() -> None:
    for mishap in read_truth(FOLDER):
        with open_crashes(mishap.core, FOLDER) as (crash,):
            answer = explain(crash)
            check_redacted(crash, redact(answer))
        assert sum(each.probability for each in answer.hypotheses) == pytest.approx(1)


def check_redacted(crash: Crash, answer: Explanation) -> None:
    said = json.dumps(answer.to_json())

    address = crash.fault.address or 0
    content = crash.memory.data(address // 4096 * 4096, 4096) or b""
    assert mentions(crash, content)
    for at in range(0, len(content) - 7, 8):
        word = content[at : at + 8]
        number = int.from_bytes(word, "little")
        assert number < 1 << 33 or f"{number:x}" not in said
        assert not word.isalpha() or word.decode() not in said
    for value in (crash.registers or {}).values():
        assert value < 1 << 16 or f"{value:x}" not in said
    for mapping in crash.mappings:
        assert mapping.name not in said
        assert mapping.start < 1 << 33 or f"{mapping.start:x}" not in said
    assert "mishap" not in said
    assert WORDS_OF_A_USER.split(maxsplit=1)[0] not in said
    assert answer.top is None or answer.top.cause.value in said


def mentions(crash: Crash, content: bytes) -> bool:
    """Return whether there is content to leave out: else the test would prove nothing."""
    return bool(content) or crash.fault.mode is not CheckMode.SYNC


def test_redacted_report_of_the_kernel_names_no_function() -> None:
    with open_crashes(KASAN) as crashes:
        said = json.dumps(redact(explain(crashes[0])).to_json())

    assert "kmalloc" not in said
    assert "kunit" not in said
    assert "slab-out-of-bounds" in said


def test_redacting_twice_changes_nothing() -> None:
    with open_crashes(GLIBC) as (crash,):
        once = redact(explain(crash))

    assert redact(once) == once


def run(*arguments: str) -> str:
    result = CliRunner().invoke(tagalong, ["explain", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_prints_causes_first_in_80_columns() -> None:
    text = run(str(GLIBC))

    assert max(map(len, text.splitlines()[1:])) <= 80
    assert text.index("What happened:") < text.index("Where:")
    assert "use after free: 24 bytes into a block of up to 32 bytes, which is free" in text
    assert "logical tag 0x3, allocation tag 0x0" in text


def test_command_says_which_threads_had_the_block() -> None:
    text = run(str(LATER / "scudo-records-401001.core.zst"), "--modules", str(LATER))

    assert "  allocated   by thread 198\n  freed       by thread 198\n" in text
    assert "allocator   scudo, by the name of a mapped library" in text


def test_command_explains_one_report_of_a_log_as_json() -> None:
    said = json.loads(run(str(KASAN), "--report", "2", "--json"))

    assert said["source"]["kind"] == "KASAN report"
    assert said["hypotheses"][0]["cause"] == "underflow"


def test_command_refuses_a_report_that_is_not_there() -> None:
    result = CliRunner().invoke(tagalong, ["explain", str(KASAN), "--report", "74"])

    assert "has 73 reports: --report 74 is none" in str(result.exception)


def test_command_redacts() -> None:
    text = run(str(GLIBC), "--redact")

    assert "/tmp" not in text
    assert "uaf" not in text
    assert "use after free" in text
