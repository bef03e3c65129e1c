"""Reports of Android, KASAN and Apple: what is read from them, and what hostile ones do."""

import random
from pathlib import Path

import pytest
import zstandard

from tagalong.errors import CrashReportError, HostError, TagalongError
from tagalong.explain.analysis import explain
from tagalong.explain.crash import UNKNOWN_TAG, Allocator, CheckMode, DataDirection, SourceKind
from tagalong.explain.explanation import Cause
from tagalong.explain.kasan import read_kasan
from tagalong.explain.readers import open_crashes, read_reports
from tagalong.explain.report_text import lines_of, read_report
from tests.unit.explain import samples

SAMPLES = {
    "tombstone": samples.tombstone(),
    "proto": samples.tombstone_proto(),
    "kasan": samples.KASAN_SW.encode(),
    "graphene": samples.GRAPHENE.format(address="a00d961aabbccd0").encode(),
    "apple": samples.APPLE.encode(),
    "apple text": samples.APPLE_TEXT.encode(),
}


def test_tombstone_of_a_use_after_free_says_so() -> None:
    (crash,) = read_reports(samples.tombstone(), "t")
    found = explain(crash)

    assert (crash.source, crash.process, crash.thread) == (
        SourceKind.TOMBSTONE, "com.example.app", 4329,
    )  # fmt: skip
    assert (crash.fault.address, crash.fault.pointer_tag) == (0x77A4D2E0F0, 0xB)
    assert crash.tag_at(0x77A4D2E0F0) == 4
    assert crash.allocator.kind is Allocator.SCUDO
    assert crash.backtrace[0].symbol == "consume+0x14"
    assert crash.allocator.previous[0].freed_by[1].symbol == "release+0x8"
    assert found.top is not None
    assert found.top.cause is Cause.USE_AFTER_REUSE
    assert found.top.block == crash.allocator.previous[0]
    assert found.top.probability > 0.9


def test_tombstone_in_protobuf_of_an_overflow_says_so() -> None:
    (crash,) = read_reports(samples.tombstone_proto(), "t")
    found = explain(crash)

    assert (crash.fault.address, crash.fault.pointer_tag) == (0x77A4D2E030, 7)
    assert crash.tag_at(0x77A4D2E030) == 5
    assert crash.tag_mask == 0xFFFE
    assert crash.backtrace[0].module == "/lib/libexample.so"
    assert found.top is not None
    assert (found.top.cause, found.top.distance_bytes) == (Cause.OVERFLOW, 0)
    assert found.top.block is not None
    assert found.top.block.size_bytes == 32


def test_asynchronous_tombstone_claims_no_place() -> None:
    raw = samples.tombstone().replace(
        b"code 9 (SEGV_MTESERR), fault addr 0x0b000077a4d2e0f0",
        b"code 8 (SEGV_MTEAERR), fault addr --------",
    )
    (crash,) = read_reports(raw, "t")

    found = explain(crash)

    assert crash.fault.mode is CheckMode.ASYNC
    assert found.top is not None
    assert found.top.cause is Cause.ASYNCHRONOUS
    assert found.limits


@pytest.mark.parametrize(
    ("address", "tag", "cause"),
    [("cc49c8ea6398", 0, Cause.LOST_POINTER_TAG), ("a00d961aabbccd0", 10, None)],
)
def test_short_report_is_explained_as_far_as_its_pointer_goes(
    address: str, tag: int, cause: Cause | None
) -> None:
    (crash,) = read_reports(samples.GRAPHENE.format(address=address).encode(), "t")
    found = explain(crash)

    assert crash.fault.pointer_tag == tag
    assert crash.backtrace[0].symbol == "consume(void*)+0xc"
    assert found.limits
    assert found.top is not None
    assert cause is None or found.top.cause is cause
    assert cause is not None or found.top.probability < 0.5


def test_report_of_kasan_sw_tags_is_read() -> None:
    (crash,) = read_reports(samples.KASAN_SW.encode(), "log")
    found = explain(crash)

    assert crash.allocator.kind is Allocator.KASAN_SW
    assert (crash.fault.address, crash.fault.pointer_tag) == (0xFFFF_0000_0ABC_D108, 0x5B)
    assert (crash.fault.size_bytes, crash.fault.direction) == (8, DataDirection.READ)
    assert crash.backtrace[0].symbol == "reader+0x48"
    assert found.top is not None
    assert found.top.cause is Cause.USE_AFTER_FREE
    assert found.top.block is not None
    assert [f.symbol for f in found.top.block.freed_by] == ["kfree+0x10"]


def test_report_of_generic_kasan_is_refused_by_name() -> None:
    lines = [line for line in samples.KASAN_SW.splitlines() if "Pointer tag" not in line]

    with pytest.raises(CrashReportError, match="generic KASAN, which has no tags"):
        read_kasan(lines_of("\n".join(lines).encode()), "log")


def test_asynchronous_report_of_kasan_claims_no_place() -> None:
    text = samples.KASAN_SW.replace(
        "Pointer tag: [5b], memory tag: [fe]", "Asynchronous fault: no details available"
    )

    (crash,) = read_reports(text.encode(), "log")

    assert crash.fault.mode is CheckMode.ASYNC


def test_apple_report_of_a_tag_fault_is_read() -> None:
    (crash,) = read_reports(samples.APPLE.encode(), "a.ips")
    found = explain(crash)

    assert (crash.fault.address, crash.fault.pointer_tag) == (0x1_0481_2345, 10)
    assert crash.backtrace[0].symbol == "use+0x10"
    assert crash.backtrace[0].module == "/usr/bin/example"
    assert any("mtePageTags" in note for note in crash.notes)
    assert found.limits


def test_apple_report_in_its_form_as_text_is_read() -> None:
    (crash,) = read_reports(samples.APPLE_TEXT.encode(), "a.crash")

    assert (crash.fault.address, crash.fault.pointer_tag) == (0x1_0481_2345, 10)
    assert [(f.pc, f.symbol, f.module, f.module_offset) for f in crash.backtrace] == [
        (0x1_0480_1234, "use(void*)+0x10", "/usr/bin/example", 0x1234),
        (0x1_0480_1100, None, "/usr/bin/example", 0x1100),
    ]
    assert crash.registers is not None
    assert (crash.registers["x0"], crash.registers["x30"]) == (0x0A00_0001_0481_2345, 0x1_0480_1100)
    assert crash.process == "example"


def test_apple_report_that_numbers_its_thread_is_read() -> None:
    raw = samples.APPLE.replace('"triggered":true,', "").replace(
        '"threads":[', '"faultingThread":1,"threads":[{"frames":[]},'
    )

    (crash,) = read_reports(raw.encode(), "a.ips")

    assert crash.backtrace[0].symbol == "use+0x10"


def test_tombstone_that_was_sent_by_mail_is_read() -> None:
    text = samples.tombstone().decode().replace("one tag per 16 bytes", "one tag per\n16 bytes")
    quoted = "".join(f"> {line}\n" for line in text.splitlines()).encode()

    (plain,) = read_reports(samples.tombstone(), "t")
    (crash,) = read_reports(quoted, "t")

    assert crash.fault == plain.fault
    assert crash.memory.extents == plain.memory.extents


def test_tags_that_a_tombstone_could_not_read_are_not_known() -> None:
    raw = samples.tombstone().replace(b"=>0x77a4d2e0e0: 0 [4] 4  4", b"=>0x77a4d2e0e0: . [4] .  4")

    (crash,) = read_reports(raw, "t")

    assert crash.memory.tags(0x77A4_D2E0E0, 64).tolist() == [UNKNOWN_TAG, 4, UNKNOWN_TAG, 4]


def test_tombstone_whose_page_lost_its_tags_says_so() -> None:
    """A swapped page that came back without tags: all around the fault is 0, and nothing is shown.

    debuggerd's dump never covers a whole page.
    """
    fault = 0x75F1_D8D7F0
    first = (fault & ~0xFF) - 2048
    rows = "".join(
        f"      {'=>' if at == fault & ~0xFF else ''}0x{at:x}: {'0  ' * 16}\n"
        for at in range(first, first + 4096, 256)
    )
    text = (
        "tagged_addr_ctrl: 000000000007fff3 (PR_TAGGED_ADDR_ENABLE)\n"
        f"signal 11 (SIGSEGV), code 9 (SEGV_MTESERR), fault addr 0x0d0000{fault:x}\n"
        "Memory tags around the fault address (0xd000075f1d8d7f0), one tag per 16 bytes:\n" + rows
    )

    (crash,) = read_reports(text.encode(), "t")
    found = explain(crash)

    assert found.top is not None
    assert found.top.cause is Cause.LOST_MEMORY_TAGS
    assert found.top.probability > 0.8


def test_lines_that_a_mail_program_broke_are_joined() -> None:
    text = samples.tombstone().decode()
    broken = (
        text.replace("fault addr 0x", "fault addr\n0x")
        .replace("x3  0000000000000000", "x\n3  0000000000000000")
        .replace("(consume+20)", "\n(consume+20)")
        .replace(">>> com", ">>>\ncom")
    )

    (plain,) = read_reports(text.encode(), "t")
    (crash,) = read_reports(broken.encode(), "t")

    assert (crash.fault, crash.registers, crash.process) == (
        plain.fault, plain.registers, plain.process,
    )  # fmt: skip
    assert crash.backtrace == plain.backtrace


def test_mail_in_quoted_printable_is_read() -> None:
    text = (
        samples.tombstone().replace(b"=>", b"=3D>").replace(b"release-keys'", b"rel=\nease-keys'")
    )
    raw = b"Subject: a crash\nContent-Transfer-Encoding: quoted-printable\n\n" + text

    (plain,) = read_reports(samples.tombstone(), "t")
    (crash,) = read_reports(raw, "t")

    assert crash.memory.extents == plain.memory.extents


def test_threads_of_a_tombstone_s_block_are_known() -> None:
    (crash,) = read_reports(samples.tombstone(), "t")

    (had,) = crash.allocator.previous
    assert (had.allocating_thread, had.freeing_thread) == (4321, 4321)


def test_report_with_more_memory_than_reports_have_is_refused() -> None:
    dump = samples.field(3, 0x1000) + samples.field(4, bytes(5 << 20))
    thread = samples.field(1, 4329) + samples.field(5, dump)
    first = samples.field(16, samples.field(1, 4329) + samples.field(2, thread))
    raw = first + samples.tombstone_proto()

    with pytest.raises(CrashReportError, match="bytes of memory; reports have some windows"):
        read_reports(raw, "t")


def test_tombstone_with_too_many_fields_in_all_is_refused() -> None:
    """Each message alone would be small enough."""
    many = samples.field(17, samples.field(1, 1) * 150_000)

    with pytest.raises(CrashReportError, match="more than 0x100000 fields"):
        read_reports(samples.tombstone_proto() + many * 8, "t")


def test_log_of_too_many_lines_is_refused() -> None:
    with pytest.raises(CrashReportError, match="more than 0x100000 lines"):
        lines_of(b"\n" * (1 << 20))


def test_apple_report_that_is_too_large_is_refused() -> None:
    raw = samples.APPLE.encode() + b" " * (16 << 20)

    with pytest.raises(CrashReportError, match="larger than 0x1000000 bytes"):
        read_reports(raw, "a.ips")


def test_apple_report_of_something_else_is_refused_by_name() -> None:
    raw = samples.APPLE.replace("EXC_ARM_MTE_TAGCHECK_FAIL", "KERN_INVALID_ADDRESS").encode()

    with pytest.raises(CrashReportError, match="not of a tag fault: its exception is EXC_BAD"):
        read_reports(raw, "a.ips")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, b"{}", b"\x7fEL"])
def test_file_of_no_known_form_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(CrashReportError, match="no form that is known"), open_crashes(path):
        pass


def test_file_that_is_not_there_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot open"), open_crashes(tmp_path / "none"):
        pass


def test_steering_characters_of_a_report_are_not_shown() -> None:
    raw = samples.tombstone().replace(b"com.example.app <<<", b"com\x1b[31m.app <<<")

    (crash,) = read_reports(raw, "t")

    assert crash.process is not None
    assert "\x1b" not in crash.process


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_damaged_report_is_explained_or_refused(name: str) -> None:
    raw = SAMPLES[name]
    draw = random.Random(name)
    damaged = [raw[:at] for at in range(0, len(raw), 1 + len(raw) // 150)]
    for _ in range(150):
        changed = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(changed))
    explained = 0
    for content in damaged:
        try:
            for crash in read_reports(content, "damaged"):
                explain(crash).to_json()
                explained += 1
        except TagalongError:
            pass
    assert explained > 30


def test_report_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zst"
    path.write_bytes(zstandard.compress(b"A" * (65 << 20)))

    with pytest.raises(CrashReportError, match="larger than 0x4000000"):
        read_report(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "line",
    [
        "      0x77a4d2e000: " + "a " * 2000 + "!",
        "pid: 1, tid: 1, name: a" + " " * 4000 + ">>",
        "    a" + " (" * 2000 + ", " * 20,
        "      #00 pc 0000000000005680  " + "/a (" * 1000,
    ],
)
def test_line_made_to_be_slow_takes_no_time(line: str) -> None:
    heads = b"backtrace:\nMemory tags around the fault address\n"
    raw = samples.tombstone() + heads + f"{line}\n".encode() * 500

    assert len(read_reports(raw, "slow")) == 1


KUNIT = """\
==================================================================
BUG: KASAN: slab-out-of-bounds in {place}+0xbc/0x288
Write at addr fcf000000151a370 by task kunit_try_catch/27
Pointer tag: [fc], memory tag: [fe]

CPU: 0 UID: 0 PID: 27 Comm: kunit_try_catch Tainted: G                 N 6.12.117 #1 {build}
Hardware name: linux,dummy-virt (DT)
Call trace:
 dump_backtrace+0xac/0xec
 print_report+0x1e0/0x4ac
 kasan_report+0x7c/0xa4
 __do_kernel_fault+0xfc/0x15c
 do_tag_check_fault+0x24/0x30
 el1h_64_sync+0x64/0x68
{frame} kunit_try_run_case+0x9c/0x12c
 kthread+0xb8/0xc8
==================================================================
"""


@pytest.mark.parametrize(
    ("place", "frame"),
    [
        ("kmalloc_oob_right", " kmalloc_oob_right+0xbc/0x288\n"),
        # A name that begins as KASAN's own do, and a function that left no frame.
        ("kasan_memchr", " kasan_memchr+0xbc/0x288\n"),
        ("kfree_via_page", ""),
    ],
)
def test_place_of_a_report_is_the_function_and_not_what_ran_it(place: str, frame: str) -> None:
    text = KUNIT.format(place=place, frame=frame, build="")

    (crash,) = read_kasan(text.splitlines(), "log")

    assert [each.symbol for each in crash.backtrace] == [
        f"{place}+0xbc", "kunit_try_run_case+0x9c", "kthread+0xb8",
    ]  # fmt: skip


@pytest.mark.parametrize(("word", "build"), [("", "6.12.117 #1"), ("ab" * 20, "ab" * 20)])
def test_frames_of_a_kernel_have_its_build(word: str, build: str) -> None:
    text = KUNIT.format(place="reader", frame=" reader+0xbc/0x288\n", build=word)

    (crash,) = read_kasan(text.splitlines(), "log")

    assert {each.build for each in crash.backtrace} == {build}


@pytest.mark.parametrize(
    ("report", "build"),
    [
        (samples.tombstone(), "0011"),
        (samples.tombstone_proto(), "ab12"),
        (samples.APPLE.encode(), "5d1ea7a8-0000-4000-8000-000000000001"),
    ],
)
def test_frames_of_reports_have_the_build_of_their_module(report: bytes, build: str) -> None:
    (crash,) = read_reports(report, "r")

    assert crash.backtrace[0].build == build
