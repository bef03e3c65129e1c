"""Records and groups of a scan: values without processes."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.errors import UsageError
from tagalong.explain.crash import StackFrame
from tagalong.scan.groups import SharedFeature, summarize
from tagalong.scan.items import Item
from tagalong.scan.journal import Journal
from tagalong.scan.page import scan_page
from tagalong.scan.record import MAX_WORD, CrashRecord
from tests.support.explained import explanation
from tests.support.page_parts import PageParts

ROOT = Path(__file__).parents[2]
ITEM = Item("/crashes/one", 10, "stamp")


def record(**changes: object) -> CrashRecord:
    made = CrashRecord.of_explanation(ITEM, 1, explanation())
    return replace(made, **changes)  # type: ignore[arg-type]


def test_record_has_what_the_explanation_says() -> None:
    made = record()

    assert made.title == "use-after-free in core.1234!main the pointer's block was freed"
    assert (made.cause, made.probability) == ("use-after-free", 0.9)
    assert (made.block_bytes, made.distance_bytes) == (48, 0x28)
    assert (made.direction, made.access_bytes) == ("write", 8)
    assert (made.pointer_tag, made.memory_tag) == (3, 5)
    assert made.error is None


def test_signature_depends_on_cause_and_place_alone() -> None:
    whole = explanation()
    crash = whole.crash
    frames = (StackFrame(1, "main+0x10/0x20", "/a/bin", 0x10), StackFrame(None))
    moved = replace(
        crash, backtrace=(replace(frames[0], pc=2, symbol="main+0x44/0x60", module="/b/bin"),),
        fault=replace(crash.fault, pointer_tag=9, address=0x1234),
    )  # fmt: skip
    here = CrashRecord.of_explanation(
        ITEM, 1, replace(whole, crash=replace(crash, backtrace=frames))
    )
    there = CrashRecord.of_explanation(ITEM, 1, replace(whole, crash=moved))
    other = CrashRecord.of_explanation(ITEM, 1, whole)

    assert here.signature == there.signature
    assert here.signature != other.signature


def test_records_survive_json() -> None:
    made = record(error=None)

    assert CrashRecord.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "a record is an object"),
        ({"url": "x"}, "a record needs 'size_bytes'"),
        ({"surprise": 1}, "a record has no 'surprise' like 1"),
        ({"url": 7}, "a record has no 'url' like 7"),
        ({"url": "x", "size_bytes": "7"}, "a record has no 'size_bytes' like '7'"),
    ],
)
def test_what_is_no_record_is_refused(values: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CrashRecord.from_json(values)


def test_long_and_hostile_text_is_cut() -> None:
    made = CrashRecord.of_failure(ITEM, "x" * 1000 + "\x1b[2J", "X")
    hostile = CrashRecord.of_failure(ITEM, "a\x1b[2Jb\nc", "X")

    assert made.error == "x" * (MAX_WORD - 3) + "..."
    assert hostile.error == "a\ufffd[2Jb c"


@given(st.binary(max_size=200))
def test_journal_of_any_bytes_is_read_or_refused(tmp_path_factory: object, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("j") / "out"  # type: ignore[attr-defined]
    path.write_bytes(raw)
    try:
        with Journal(path) as journal:
            assert path.read_bytes() == raw[: path.stat().st_size]
            assert isinstance(journal.done, set)
    except UsageError as error:
        assert "cannot go on with" in str(error)  # noqa: PT017
        assert path.read_bytes() == raw


def test_journal_drops_what_a_killed_scan_left_incomplete(tmp_path: Path) -> None:
    whole = [record(), record(url="/b", reports=2), record(url="/b", report=2, reports=2)]
    with Journal(tmp_path / "out") as journal:
        journal.add(whole)
        journal.add([record(url="/c", reports=3), record(url="/c", report=2, reports=3)])
    with (tmp_path / "out").open("ab") as file:
        file.write(b'{"url": "/c"')

    with Journal(tmp_path / "out") as journal:
        assert journal.done == {ITEM, whole[1].item}
        assert [*journal.records()] == whole


def test_groups_are_ranked_and_say_what_they_share() -> None:
    records = [
        *(record(url=f"/a{n}", signature="a", title="A", block_bytes=48) for n in range(5)),
        *(record(url=f"/b{n}", signature="b", title="B", block_bytes=n) for n in range(3)),
        record(url="/c", signature="c", title="C", probability=0.5),
        CrashRecord.of_failure(Item("/d", 1, ""), "no", "ValueError"),
    ]

    result = summarize(records)

    assert [(each.title, each.count) for each in result.groups] == [("A", 5), ("B", 3), ("C", 1)]
    assert (result.files, result.crashes) == (10, 9)
    assert result.failures == {"ValueError": 1}
    first, second, third = result.groups
    assert first.share == pytest.approx(5 / 9)
    assert SharedFeature("block_bytes", 48, 1.0, 6 / 9) in first.shared
    assert first.shared[0].name == "block_bytes"  # what tells it from the others comes first
    assert "block_bytes" not in {each.name for each in second.shared}
    assert third.shared == ()
    assert first.examples == ("/a0", "/a1", "/a2")


def test_page_of_a_scan_escapes_what_files_say() -> None:
    hostile = "</title><script>alert(1)</script>"
    records = [record(url=hostile, title=hostile, module=hostile, report=n) for n in range(2)] + [
        CrashRecord.of_failure(Item(hostile, 1, ""), hostile, hostile)
    ]

    page = PageParts(scan_page(summarize(records)))

    assert page.named("script") == []
    assert "script-src 'none'" in page.policy()
    assert page.text.count(hostile) >= 4


def test_document_has_each_field_of_a_record() -> None:
    document = (ROOT / "docs" / "formats" / "scan.md").read_text()
    rows = [line.split("|")[1:3] for line in document.splitlines() if line.startswith("| `")]
    kinds = {"string": str, "integer": int, "number": float}

    described = {name.strip(" `"): kinds[kind.strip()] for name, kind in rows}

    assert list(described) == [each.name for each in fields(CrashRecord)]
    assert described == CrashRecord.kinds()
