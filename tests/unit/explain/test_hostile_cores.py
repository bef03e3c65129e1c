"""Cores that are damaged, cut or made to hurt: explained or refused, and never more."""

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from tagalong.core import open_any_core
from tagalong.errors import MalformedCoreError, TagalongError
from tagalong.explain.analysis import explain
from tagalong.explain.explanation import Cause
from tagalong.explain.modules import build_id_of
from tagalong.explain.readers import open_crashes
from tests.support import core_builder
from tests.support.core_builder import (
    PT_LOAD,
    PT_MEMTAG,
    CoreBuilder,
    Segment,
    load,
    note,
    tag_segment,
)

GLIBC = Path(__file__).parents[2] / "golden" / "crashes" / "linux-uaf.core.zst"
LATER = GLIBC.parent / "later"
NT_SIGINFO, NT_FILE = 0x5349_4749, 0x4649_4C45


@pytest.fixture(scope="module")
def plain() -> bytes:
    with GLIBC.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def outcome(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    try:
        with open_crashes(path) as crashes:
            for crash in crashes:
                explain(crash).to_json()
    except TagalongError as error:
        return type(error).__name__
    return "explained"


def test_core_with_flipped_bits_is_explained_or_refused(tmp_path: Path, plain: bytes) -> None:
    draw = random.Random(3)
    head = len(plain) if len(plain) < 0x2000 else 0x2000
    seen = set()
    for _ in range(150):
        changed = bytearray(plain)
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(head)] ^= 1 << draw.randrange(8)
        seen.add(outcome(tmp_path / "core", bytes(changed)))

    assert "explained" in seen
    assert seen <= {"explained", "MalformedCoreError", "CrashReportError", "HostError"}


def test_core_that_was_cut_is_explained_as_far_as_it_goes(tmp_path: Path, plain: bytes) -> None:
    seen = {outcome(tmp_path / "core", plain[:at]) for at in range(0, len(plain), 40_009)}

    assert "explained" in seen
    assert seen <= {"explained", "MalformedCoreError", "CrashReportError"}


def test_packed_core_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(GLIBC.read_bytes()[:5000])

    with pytest.raises(MalformedCoreError, match=r"core\.zst: unpacked core.*the file ends at"):
        open_any_core(path)


def test_damaged_packed_core_names_the_file(tmp_path: Path) -> None:
    raw = bytearray(GLIBC.read_bytes())
    raw[3000:3100] = bytes(100)
    path = tmp_path / "core.zst"
    path.write_bytes(raw)

    with pytest.raises(MalformedCoreError, match=r"core\.zst.*does not decompress"):
        open_any_core(path)


def test_list_of_files_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    files = (1 << 40).to_bytes(8, "little") + (4096).to_bytes(8, "little")
    notes = core_builder.usual_notes() + note(b"CORE", NT_FILE, files)
    path = tmp_path / "core"
    path.write_bytes(CoreBuilder([load(0x1000, bytes(4096))], notes).build())

    with (
        pytest.raises(MalformedCoreError, match=r"claims 0x10000000000 entries in 0x10 bytes"),
        open_crashes(path),
    ):
        pass


def test_core_without_threads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(CoreBuilder([load(0x1000, bytes(4096))], b"").build())

    with pytest.raises(MalformedCoreError, match="no thread's registers"), open_crashes(path):
        pass


def test_core_without_tags_says_that_no_cause_can_be_told(tmp_path: Path) -> None:
    info = (11).to_bytes(4, "little") + bytes(4) + (9).to_bytes(4, "little") + bytes(4)
    info += (0x0A00_0000_0000_1010).to_bytes(8, "little") + bytes(104)
    notes = core_builder.usual_notes() + note(b"CORE", NT_SIGINFO, info)
    path = tmp_path / "core"
    path.write_bytes(CoreBuilder([load(0x1000, bytes(4096))], notes).build())

    with open_crashes(path) as (crash,):
        found = explain(crash)

    assert any("The core has no tags" in text for text in crash.notes)
    assert "No tag of the memory" in found.limits[0]
    assert found.top is not None
    assert found.top.probability < 0.5


def test_loop_of_frames_ends(tmp_path: Path) -> None:
    """Frame records that lead back, or nowhere, end the call stack."""
    stack = bytearray(4096)
    for at in range(0, 4096, 16):
        stack[at : at + 16] = (0x7F_0000).to_bytes(8, "little") + (0x40_0000).to_bytes(8, "little")
    registers = core_builder.prstatus(signal=11)
    path = tmp_path / "core"
    path.write_bytes(
        CoreBuilder(
            [load(0x7F_0000, bytes(stack)), tag_segment(0x7F_0000, bytes(128))], registers
        ).build()
    )

    with open_crashes(path) as (crash,):
        assert len(crash.backtrace) <= 64


def page_with(build: bytes, *, at: int = 0x200, name: bytes = b"GNU\0") -> bytes:
    """Return the first page of an ELF file whose only note is its build id."""
    content = struct.pack("<3I", len(name), len(build), 3) + name + build
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, at, at, at, len(content), len(content), 4)
    return (header + segment).ljust(at, b"\0") + content.ljust(4096 - at, b"\0")


def test_build_id_is_found_in_the_first_page() -> None:
    page = page_with(bytes.fromhex("0123456789abcdef"))

    assert build_id_of(page) == "0123456789abcdef"
    assert build_id_of(page_with(b"", at=0x200)) is None
    assert build_id_of(page_with(b"x", name=b"Go\0\0")) is None
    assert build_id_of(bytes(4096)) is None


def test_build_id_of_a_damaged_page_is_one_or_none() -> None:
    page = page_with(bytes.fromhex("0123456789abcdef"))
    draw = random.Random(5)
    for _ in range(300):
        changed = bytearray(page)
        for _ in range(4):
            changed[draw.randrange(0x220)] = draw.randrange(256)
        build_id_of(bytes(changed[: draw.randrange(4097)]))


def test_frames_of_a_real_core_have_the_builds_of_its_modules() -> None:
    with open_crashes(GLIBC) as (crash,):
        builds = {each.module: each.build for each in crash.backtrace if each.module}

    assert builds
    assert all(build is None or len(build) == 40 for build in builds.values())
    assert any(builds.values())


def test_core_of_lldb_s_own_tests_is_explained(tmp_path: Path) -> None:
    """Its shape: tags 0 to 15 in turn, all of them drawn; a store without a tag to granule 1."""
    buf = 0xFFFF_82C7_4000
    info = struct.pack("<iiiiQ", 11, 0, 9, 0, buf + 16) + bytes(104)
    notes = core_builder.prstatus(signal=11) + core_builder.auxv()
    notes += core_builder.tagged_addr_ctrl(0x7FFFB) + note(b"CORE", NT_SIGINFO, info)
    tags = bytes(range(0x10, 0x100, 0x22)) * 16
    path = tmp_path / "core"
    path.write_bytes(CoreBuilder([load(buf, bytes(4096)), tag_segment(buf, tags)], notes).build())

    with open_crashes(path) as (crash,):
        found = explain(crash)

    assert (crash.fault.pointer_tag, found.crash.fault.memory_tag) == (0, 1)
    assert found.top is not None
    assert found.top.cause is Cause.LOST_POINTER_TAG


MEASURED = """
import resource, sys
from pathlib import Path
from tagalong.explain.analysis import explain
from tagalong.explain.explanation import Cause
from tagalong.explain.readers import open_crashes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_crashes(Path(sys.argv[1])) as (crash,):
    print(explain(crash).top.cause.value)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_core_of_4_gib_is_explained_without_reading_it(tmp_path: Path) -> None:
    size, start = 4 << 30, 0x7F_0000_0000
    fault = start + size // 2 + 0x1010
    info = struct.pack("<iiiiQ", 11, 0, 9, 0, fault | 3 << 56) + bytes(104)
    notes = core_builder.usual_notes() + note(b"CORE", NT_SIGINFO, info)
    data_at, tags_at = 1 << 20, (1 << 20) + size
    segments = [
        Segment(PT_LOAD, b"", start, size, size, flags=6, alignment=4096, offset=data_at),
        Segment(PT_MEMTAG, b"", start, size, size // 32, offset=tags_at),
    ]
    path = tmp_path / "core"
    with path.open("wb") as file:
        file.write(CoreBuilder(segments, notes).build())
        file.truncate(tags_at + size // 32)
        file.seek(tags_at + (fault - start) // 32 - 8)
        file.write(b"\x33" * 8 + b"\x55" * 8)

    ran = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True,
                         check=True)  # fmt: skip

    cause, kib = ran.stdout.split()
    assert cause == "overflow"
    assert int(kib) < 128 << 10


@pytest.mark.parametrize("name", ["scudo-records-401004", "glibc-handler-501005"])
def test_core_with_damaged_pointers_is_explained_or_refused(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Records, signal frames, lists of modules and stacks lead anywhere; nothing is logged."""
    with (LATER / f"{name}.core.zst").open("rb") as file:
        plain = zstandard.ZstdDecompressor().stream_reader(file).read()
    words = [8 * at for at in range(len(plain) // 8) if plain[8 * at : 8 * at + 8].strip(b"\0")]
    draw = random.Random(name)
    seen = set()
    for _ in range(25):
        changed = bytearray(plain)
        for _ in range(draw.randint(1, 300)):
            at, other = draw.choice(words), draw.choice(words)
            is_moved = draw.random() < 0.5
            changed[at : at + 8] = plain[other : other + 8] if is_moved else draw.randbytes(8)
        seen.add(outcome(tmp_path / "core", bytes(changed)))

    assert "explained" in seen
    assert seen <= {"explained", "MalformedCoreError", "CrashReportError", "HostError"}
    assert caplog.records == []
