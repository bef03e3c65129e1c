"""`tagalong map` and `diff`: what they print, and their exit statuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tagalong.cli.granule_text import granule_report
from tagalong.explain.crash import UNKNOWN_TAG
from tagalong.views.granules import GranuleWindow, MarkedBlock
from tests.support.command_line import run
from tests.support.core_builder import CoreBuilder, load, tag_segment
from tests.support.cores import PAGE, RAM, notes, random_planes, write_core

AT = 0x5000_0000_0000


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """Return a core of 4 MiB whose first two granules have tags 1 and 2, the third page 5."""
    tags = np.zeros((4 << 20) // 32, np.uint8)
    tags[0] = 0x21
    tags[2 * 128 : 3 * 128] = 0x55
    write_core(tmp_path / "vm.core", notes(4 << 20), [np.zeros(PAGE, np.uint8)], [tags])
    return tmp_path / "vm.core"


def test_map_draws_a_region_in_cells(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "map", core)

    assert status == 0
    assert out == (
        f"{core}\n"
        "  tagged      4.0 MiB in 1 region\n"
        "  granules    258 of 262,144 carry a tag other than 0 (0.1 %); 1: 1, 2: 1, 5:\n"
        "              256\n"
        "\n"
        "[0x40000000, 0x40400000)  4.0 MiB  data and tags, 4.0 KiB a character\n"
        "0x40000000  +.5.............................................................\n"
        "0x40040000  ................................................................\n"
        "  *\n"
        "\n"
        "  . tag 0   1-f that tag   + more than half 0   # several tags   - no tags\n"
    )


def test_map_of_a_short_range_draws_granules(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "map", core, "--range", f"{RAM:#x}+0x400")

    assert status == 0
    assert out == (
        "   0x40000000  1  2  0  0  0  0  0  0  0  0  0  0  0  0  0  0 \n"
        "   0x40000100  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0 \n"
        "   *\n"
    )


def test_map_of_a_long_range_draws_cells(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "map", core, "--range", f"{RAM + 2 * PAGE:#x}+128K")

    assert status == 0
    assert out.splitlines()[0] == f"0x40002000  {'5' * 64}"
    assert out.splitlines()[1] == f"0x40003000  {'.' * 64}"


def test_map_at_a_pointer_compares_its_tag(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "map", core, "--at", "0x0300000040000010")

    assert status == 0
    assert "=> 0x40000000  1 [2] 0 " in out
    assert out.endswith(
        "   [ ] 0x300000040000010: logical tag 3, allocation tag 2: fails the check\n"
    )


def test_map_at_an_address_without_memory_fails_by_name(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "map", core, "--at", "0x1000")

    assert (status, out) == (72, "")
    assert err == "tagalong: error: address 0x1000: the core has no memory here\n"


def test_map_with_both_range_and_at_is_refused(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "map", core, "--at", "0", "--range", "0+16")

    assert status == 2
    assert "--range and --at were both given: give one of them" in err


def test_map_of_a_core_without_tags_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "core").write_bytes(CoreBuilder([load(AT, bytes(PAGE))]).build())

    status, out, _ = run(capsys, "map", tmp_path / "core")

    assert status == 0
    assert out == (
        f"{tmp_path / 'core'}\n"
        "  tagged      0 bytes in 0 regions\n"
        "  without     4.0 KiB in 1 region without tags\n"
    )


def test_map_names_how_many_regions_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segments = [tag_segment(AT + n * PAGE, b"\x11" * (8 + n)) for n in range(14)]
    (tmp_path / "core").write_bytes(CoreBuilder(segments).build())

    _, out, _ = run(capsys, "map", tmp_path / "core")

    assert "2 more regions with fewer tags: `tagalong info` lists all" in out
    assert out.count("one granule a character") == 12


def test_map_as_json_has_counts_and_cells(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, whole, _ = run(capsys, "map", core, "--json")
    _, part, _ = run(capsys, "map", core, "--json", "--range", f"{RAM:#x}+32")

    (region,) = json.loads(whole)["regions"]
    assert region["start"] == "0x40000000"
    assert region["granules"][:6] == [262144 - 258, 1, 1, 0, 0, 256]
    cells = json.loads(part)
    assert (cells["start"], cells["end"], cells["cell_bytes"]) == ("0x40000000", "0x40000020", 16)
    assert [counts.index(1) for counts in cells["cells"]] == [1, 2]


def test_map_in_colours_has_a_background_per_tag(
    core: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    _, coloured, _ = run(capsys, "map", core, "--range", f"{RAM:#x}+32")
    monkeypatch.setenv("NO_COLOR", "1")
    _, plain, _ = run(capsys, "map", core, "--range", f"{RAM:#x}+32")

    assert "\x1b[30;48;5;" in coloured
    assert "48;5" not in plain


def test_blocks_and_pointer_are_drawn_in() -> None:
    tags = np.zeros(64, np.int16)
    tags[16:19], tags[20], tags[63] = 3, UNKNOWN_TAG, 9
    window = GranuleWindow(
        0x1000, tags, pointer=0x0300_0000_0000_1130, pointer_text="the fault",
        blocks=(
            MarkedBlock("A", 0x1100, 0x1130, "first"), MarkedBlock("B", 0x1140, 0x1141, "second"),
        ),
    )  # fmt: skip

    lines = [line.plain.rstrip() for line in granule_report(window)]

    assert lines == [
        "   0x1000  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0",
        "=> 0x1100  3  3  3 [0] -  0  0  0  0  0  0  0  0  0  0  0",
        "          A=======A   B=B",
        "   0x1200  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0",
        "   0x1300  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  9",
        "   [ ] 0x300000000001130: the fault",
        "   A   first",
        "   B   second",
    ]


def test_tags_of_eight_bits_take_two_digits() -> None:
    window = GranuleWindow(0xFFFF_0000_0000_1000, np.array([0xFE, 0x0A], np.int16), tag_bits=8)

    (line,) = granule_report(window)

    assert line.plain == "   0xffff000000001000  fe  0a "


def test_diff_prints_runs_sizes_and_registers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, tags = random_planes(4 * PAGE)
    write_core(tmp_path / "a", notes(), [data], [tags])
    data[0x20] += 1
    tags[0] ^= 0x11
    write_core(tmp_path / "b", notes(changes={"PC": 0x1234}), [data], [tags])
    old, new = (tags[0] ^ 0x11) & 15, tags[0] & 15

    status, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b")

    assert status == 1
    assert out == (
        f"A {tmp_path / 'a'}\n"
        f"B {tmp_path / 'b'}\n"
        "  compared    16.0 KiB of data, the tags of 16.0 KiB\n"
        "  differ      3 granules in 2 runs: the data of 1, the tags of 2\n"
        f"  [0x40000000, 0x40000020)  2 granules: tag, tag {old:x} -> {new:x} (the first of them)\n"
        "  [0x40000020, 0x40000030)  1 granule: data\n"
        "  thread 1    pc differs\n"
    )


def test_diff_of_equal_cores_says_so(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "diff", core, core)

    assert status == 0
    assert out.endswith("  result      the same data, tags and registers\n")


def test_diff_names_memory_of_one_side_and_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(
        CoreBuilder([load(AT + 2 * n * PAGE, bytes(PAGE)) for n in range(3)]).build()
    )
    (tmp_path / "b").write_bytes(CoreBuilder([load(AT, bytes(PAGE))]).build())

    status, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b", "--runs", "1")

    assert status == 1
    assert out.splitlines()[3:] == [
        "  differ      no granule that both have",
        "  sizes       8.0 KiB in 2 ranges of which only one core has data or tags",
        "  [0x500000002000, 0x500000003000)  4.0 KiB: only A has data",
        "  ... 1 more range",
    ]


def test_diff_as_json_has_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, tags = random_planes(4 * PAGE)
    write_core(tmp_path / "a", notes(), [data], [tags])
    tags[:] ^= 0x11
    write_core(tmp_path / "b", notes(), [data], [tags])

    status, out, _ = run(capsys, "diff", tmp_path / "a", tmp_path / "b", "--json", "--runs", "3")

    found = json.loads(out)
    assert status == 1
    assert (found["tag_granules"], found["data_granules"], found["run_count"]) == (1024, 0, 1)
    assert found["runs"][0]["end"] == "0x40004000"
    assert found["same"] is False


def zstd_of(core: Path, *, cut: int = 0) -> Path:
    """Return the core as a plain zstd stream, as people and systemd make it."""
    content = zstandard.ZstdCompressor().compress(core.read_bytes())
    packed = core.with_name(f"{core.name}-{cut}.zst")
    packed.write_bytes(content[: len(content) - cut])
    return packed


def test_map_and_diff_take_a_core_that_others_compressed(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = zstd_of(core)

    _, plain, _ = run(capsys, "map", core)
    status, out, _ = run(capsys, "map", packed)
    same, _, _ = run(capsys, "diff", core, packed)
    tags_status, tags, _ = run(capsys, "tags", packed, f"{RAM:#x}+32")

    assert (status, same, tags_status) == (0, 0, 0)
    assert out.splitlines()[1:] == plain.splitlines()[1:]
    assert tags.splitlines()[0].startswith("0x40000000-0x40000010") or "1" in tags


def test_map_of_a_damaged_compressed_core_names_it(
    core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.zst").write_bytes(zstandard.ZstdCompressor().compress(b"no core"))
    raw = bytearray(zstd_of(core).read_bytes())
    raw[20:40] = bytes(20)
    (tmp_path / "damaged.zst").write_bytes(raw)

    said = {name: run(capsys, "map", tmp_path / name) for name in ("text.zst", "damaged.zst")}

    assert {status for status, _, _ in said.values()} == {71}
    assert all(out == "" for _, out, _ in said.values())
    assert all(err.count("core offset") == 1 for _, _, err in said.values())
    assert all(f"{tmp_path / name}: unpacked core" in err for name, (_, _, err) in said.items())


def test_map_of_a_core_that_was_cut_says_so(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain, or compressed as a stream."""
    core.write_bytes(core.read_bytes()[:-100])
    said = [run(capsys, "map", path) for path in (core, zstd_of(core), zstd_of(core, cut=9))]

    assert [status for status, _, _ in said] == [0, 0, 0]
    assert all(
        "cut short   the file has not all that its headers name" in out for _, out, _ in said
    )


def test_names_of_files_steer_no_terminal(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = core.rename(core.with_name("\x1b[2Jvm\n.core"))

    _, drawn, _ = run(capsys, "map", hostile)
    _, compared, _ = run(capsys, "diff", hostile, hostile)

    assert "\x1b" not in drawn + compared
    assert drawn.splitlines()[0].endswith("\ufffd[2Jvm .core")
    assert len(compared.splitlines()) == 4
