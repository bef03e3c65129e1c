"""`tagalong info`, `tags` and `check`: what they print, and their exit statuses."""

import json
from pathlib import Path

import pytest

from tagalong.core import Space, pack
from tests.golden.build_cores import LINUX_FILTERED_CORE
from tests.support.command_line import run
from tests.support.core_builder import CoreBuilder, load, note, tag_segment
from tests.support.core_cases import AT, CASES
from tests.support.cores import RAM, notes, random_planes, write_core
from tests.support.qemu_stream import RAM_BYTES, StreamBuilder, page

PAGE = 4096


@pytest.fixture
def core(tmp_path: Path) -> Path:
    path = tmp_path / "vm.core"
    data, tags = random_planes(4 * PAGE)
    tags[:2] = (0x11, 0x21)
    write_core(path, notes(vcpus=2), [data], [tags])
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.core"
    path.write_bytes(CASES["tags of a part"].core)
    return path


def test_info_says_what_is_in_our_core(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", core)

    assert status == 0
    assert out == (
        f"{core}\n"
        "  core        guest physical memory, and the state of the machine\n"
        "  machine     2 vCPUs, 16.0 KiB of RAM in pages of 4096 bytes, MTE3, paused when\n"
        "              it was taken\n"
        "  devices     pl011\n"
        "  region      [0x40000000, 0x40004000)  16.0 KiB  data and tags\n"
        "  thread 1    pc 0x40200000  sp 0x40100000  pstate 0x3c5\n"
        "  thread 2    pc 0x40200004  sp 0x40100001  pstate 0x3c5\n"
    )


def test_info_of_a_core_of_somebody_else(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", foreign)

    assert status == 0
    assert out == (
        f"{foreign}\n"
        "  core        not written by tagalong: no state of a machine\n"
        "  region      [0x10000, 0x11000)  4.0 KiB  data and tags\n"
        "  region      [0x11000, 0x12000)  4.0 KiB  data, no tags\n"
        "  thread 1    pc 0x400000  sp 0x7f0000  pstate 0x60000000\n"
    )


def test_info_and_check_say_which_memory_had_tags_that_were_not_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, info, _ = run(capsys, "info", LINUX_FILTERED_CORE)
    status, check, _ = run(capsys, "check", LINUX_FILTERED_CORE)
    absent, _, error = run(capsys, "tags", LINUX_FILTERED_CORE, "0xffff8d022000")

    assert "  tagged      [0xffff8d022000, 0xffff8d032000)  64.0 KiB  tags not written\n" in info
    assert status == 1
    assert "warning tags-not-written at offset 0x270, [0xffff8d022000, 0xffff8d032000): " in check
    assert "error" not in check
    assert (absent, error) == (
        73,
        "tagalong: error: address 0xffff8d022000: this memory had tags, but they were not written "
        "to the core\n",
    )


def test_info_and_check_of_a_core_of_another_system_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "freebsd.core"
    path.write_bytes(CoreBuilder([load(0x1_0000, bytes(PAGE))], note(b"FreeBSD", 1, b"")).build())

    _, info, _ = run(capsys, "info", path)
    _, check, _ = run(capsys, "check", path)

    assert "  registers   in notes of FreeBSD, which are not read\n" in info
    assert "  gdb 13.1     was not tried on such a core (other-system)\n" in check


def test_tags_of_an_address_that_is_not_in_the_core_is_72(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "tags", core, "0x10")

    assert (status, err) == (72, "tagalong: error: address 0x10: the core has no memory here\n")


def test_info_of_an_empty_file_is_71(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.core").touch()

    status, _, err = run(capsys, "info", tmp_path / "a.core")

    assert status == 71
    assert err.startswith(f"tagalong: error: {tmp_path / 'a.core'}: core offset 0x0: ")


def test_info_as_json_has_every_register(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "info", core, "--json")

    info = json.loads(out)
    assert status == 0
    assert info["machine"] == {
        "space": "physical",
        "vcpu": 0,
        "running": False,
        "torn": False,
        "page_size_bytes": 4096,
        "vcpu_count": 2,
        "mte": "MTE3",
        "ram_bytes": 16384,
        "devices": ["pl011"],
    }
    assert info["regions"] == [
        {"start": "0x40000000", "end": "0x40004000", "size_bytes": 16384, "data": True,
         "tags": True},
    ]  # fmt: skip
    assert (info["compressed"], info["cut_short"], info["hwcap2_mte"]) == (False, False, True)
    assert info["vcpus"][1]["x"][30] == "0x21e"
    assert info["vcpus"][0]["tagged_address_control"] == "0x7fff3"


def test_info_of_a_compressed_virtual_core_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, packed = tmp_path / "a.core", tmp_path / "a.core.zst"
    write_core(plain, notes(space=Space.KERNEL), [])
    pack(plain, packed)

    _, out, _ = run(capsys, "info", packed)

    assert out.startswith(
        f"{packed}\n"
        "  core        the kernel's virtual memory as vCPU 0 sees it, and the state of\n"
        "              the machine, compressed\n"
    )


def test_info_of_a_core_cut_short_says_so(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core.write_bytes(core.read_bytes()[:-1])

    status, out, _ = run(capsys, "info", core)

    assert status == 0
    assert "  DAMAGED     the file was cut short: not all of this can be read\n" in out
    assert "  DAMAGED     core offset 0x" in out


def test_tags_prints_half_open_runs_with_mismatches(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "tags", core, f"{RAM | 1 << 56:#x}+0x40")

    assert status == 0
    assert out == (
        "Logical tag: 0x1\n"
        "[0x40000000, 0x40000030): 0x1\n"
        "[0x40000030, 0x40000040): 0x2 (mismatch)\n"
    )


def test_tags_of_an_address_alone_is_its_granule(
    core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "tags", core, "40000038")

    assert out == "Logical tag: 0x0\n[0x40000030, 0x40000040): 0x2 (mismatch)\n"


def test_tags_as_json(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "tags", core, "0x40000000+64", "--json")

    assert status == 0
    assert json.loads(out) == {
        "start": "0x40000000",
        "end": "0x40000040",
        "pointer_tag": 0,
        "runs": [
            {"start": "0x40000000", "end": "0x40000030", "tag": 1, "mismatch": True},
            {"start": "0x40000030", "end": "0x40000040", "tag": 2, "mismatch": True},
        ],
    }


def test_tags_where_there_are_none_is_an_error_of_its_own(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "tags", foreign, f"{AT:#x}+8K")

    assert (status, out) == (73, "")
    assert err == "tagalong: error: address 0x11000: the core has no tags for this memory\n"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("ram", "'ram' is not an address of 64 bits"),
        ("0x10000000000000000", "'0x10000000000000000' is not an address of 64 bits"),
        ("-1", "No such option"),
        ("0x1000+", "'' is not a size"),
        ("0x1000+x", "'x' is not a size"),
        ("0x1000+0xg", "'0xg' is not a size"),
    ],
)
def test_tags_of_no_range_is_wrong_usage(
    core: Path, wanted: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "tags", core, wanted)

    assert status == 2
    assert message in err


def test_check_of_our_core_is_0(core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "check", core)

    assert status == 0
    assert out == (
        f"{core}\n"
        "  gdb 13.1     shows the tags\n"
        "  lldb 19.1.7  shows the tags\n"
        "  drgn 0.3.0   does NOT read the kernel (no VMCOREINFO in the guest's memory: it\n"
        "               is no Linux guest, or had not booted so far)\n"
        "  the file     is sound: no errors, no warnings\n"
        "\n"
        "note lldb-last-granule: 1 tag segment, each with an end\n"
        "    lldb 19.1.7: cannot read a range that ends exactly where a tag segment ends,\n"
        "    or crosses it: No tag segment that covers this range\n"
    )


def test_check_with_findings_is_1(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "check", foreign)

    assert status == 1
    assert out.startswith(
        f"{foreign}\n"
        "  gdb 13.1     shows the tags\n"
        "  lldb 19.1.7  shows NO tags (unequal-ranges)\n"
        "  the file     has 1 warning\n"
        "\n"
        "warning unequal-ranges at offset 0xb0, [0x10000, 0x11000): no PT_LOAD has\n"
        "    exactly the range of this tag segment\n"
        "    lldb 19.1.7: not in a memory tagged region\n"
    )


def test_check_as_json(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "check", foreign, "--json")

    report = json.loads(out)
    assert status == 1
    assert report["clean"] is False
    assert report["debuggers"]["lldb"] == {
        "version": "lldb 19.1.7",
        "tags": "none",
        "wrong_tags": False,
        "reasons": ["unequal-ranges"],
    }
    assert report["findings"][0] == {
        "rule": "unequal-ranges",
        "level": "warning",
        "message": "no PT_LOAD has exactly the range of this tag segment",
        "offset": 0xB0,
        "start": "0x10000",
        "end": "0x11000",
        "gdb": None,
        "lldb": {
            "text": "not in a memory tagged region",
            "tags": "the tags of this segment cannot be read",
        },
    }


def test_check_of_wrong_tags_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.core"
    path.write_bytes(CASES["too few tags"].core)

    status, out, _ = run(capsys, "check", path)

    assert status == 1
    assert "  gdb 13.1     shows the tags, and WRONG ones (tag-size)\n" in out


def test_check_of_many_findings_shows_some_and_counts_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.core"
    path.write_bytes(
        CoreBuilder([tag_segment(AT + n * PAGE, bytes(128)) for n in range(8)]).build()
    )

    _, out, _ = run(capsys, "check", path)

    assert "... and 3 more of unequal-ranges (--json has them all)\n" in out


@pytest.mark.parametrize("command", ["info", "check"])
def test_commands_on_what_is_no_core_say_where(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello, this is no core of anything, only a text of more than 64 bytes\n")

    status, out, err = run(capsys, command, path)

    assert (status, out) == (71, "")
    assert err == f"tagalong: error: {path}: core offset 0x0: b'hell' does not start an ELF file\n"


def test_commands_on_no_file_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "info", tmp_path / "absent")

    assert status == 10
    assert err.startswith("tagalong: error: cannot open ")
    assert err.count("No such file or directory") == 1


def test_command_that_finds_no_memory_is_an_error_of_the_host(
    core: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("tagalong.cli.info.describe", describe)

    status, out, err = run(capsys, "info", core)

    assert (status, out) == (10, "")
    assert err == "tagalong: error: the host has too little memory for this\n"


def test_commands_on_a_file_of_qemu_say_how_to_make_a_core_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "vm.qemu", tmp_path / "vm.core"
    file.write_bytes(StreamBuilder([page("mach-virt.ram", 1, bytes([7]) * PAGE)]).build())

    for command in (["info"], ["check"], ["tags", "0x40000000"]):
        status, _, err = run(capsys, command[0], file, *command[1:])
        assert status == 71
        assert f"QEMU saved a guest to it: make a core of it with `tagalong convert {file}" in err

    assert run(capsys, "convert", file, out)[0] == 0
    assert run(capsys, "info", out)[0] == 0


def test_convert_prints_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "vm.qemu", tmp_path / "vm.core.zst"
    blocks = {"mach-virt.ram": RAM_BYTES}
    file.write_bytes(StreamBuilder([page("mach-virt.ram", 1, 7)], blocks).build())

    status, said, _ = run(capsys, "convert", file, out, "--zstd")
    _, as_json, _ = run(capsys, "convert", file, tmp_path / "b.core", "--json")

    assert status == 0
    assert "  tags        none in the file: QEMU writes those of its TCG alone, with mte=on" in said
    assert "  vCPUs       2, with their registers" in said
    report = json.loads(as_json)
    assert (report["tags"], report["vcpu_count"], report["ram_bytes"]) == (False, 2, RAM_BYTES)


def test_convert_of_a_file_onto_itself_or_at_a_wrong_offset_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vm.qemu"
    file.write_bytes(StreamBuilder().build())

    assert run(capsys, "convert", file, file)[0] == 2
    status, _, err = run(capsys, "convert", file, tmp_path / "vm.core", "--offset", "0x10")
    assert status == 70
    assert "it does not begin as a migration stream of QEMU" in err
    status, _, err = run(capsys, "convert", file, tmp_path / "vm.core", "--offset", "1G")
    assert status == 2
    assert "'1G' is not an offset in a file; write 4096 or 0x1000" in err
    assert not (tmp_path / "vm.core").exists()
