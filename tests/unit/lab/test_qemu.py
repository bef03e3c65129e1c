"""The emulator's version and command line."""

from itertools import pairwise
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab.qemu import (
    EmulatorOptions,
    Qemu,
    Wiring,
    check_version,
    command_line,
    fetched_command,
    parse_version,
)
from tagalong.lab.selfcheck import compare

QEMU = Qemu(("/q/qemu-system-aarch64",), "10.0.2", "id")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)", "10.0.2"),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n", "7.2.22"),
        ("QEMU emulator version 11.1.50 (v11.1.0-12-gabc)\n", "11.1.50"),
    ],
)
def test_parse_version_reads_what_qemu_prints(text: str, version: str) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "qemu-aarch64 version 7.2.22 (Debian)"])
def test_parse_version_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(LabSetupError, match=r"^cannot read QEMU's version: the program printed"):
        parse_version(text)


@pytest.mark.parametrize("version", ["8.0.0", "10.0.2", "11.1.50"])
def test_check_version_lets_new_ones_pass(version: str) -> None:
    check_version(Qemu(("q",), version, "id"))


@pytest.mark.parametrize("version", ["7.2.22", "6.2.0"])
def test_check_version_refuses_old_ones_with_the_reason(version: str) -> None:
    with pytest.raises(SelfCheckError) as caught:
        check_version(Qemu(("q",), version, "id"))

    assert str(caught.value) == (
        f"cannot use QEMU {version}: before 8.0, system mode stores one pair of tags for a "
        "whole page of 0x1000 bytes, not a tag for each granule of 0x10 bytes; give QEMU 8.0 or "
        "newer"
    )


def test_compare_accepts_equal_tags_and_rejects_any_that_differs() -> None:
    compare([1, 2, 3], [1, 2, 3], "10.0.2")

    for place in range(3):
        read = [1, 2, 3]
        read[place] ^= 8
        with pytest.raises(SelfCheckError, match=f"the first at {place * 16:#x} "):
            compare([1, 2, 3], read, "10.0.2")


def test_compare_names_how_many_granules_and_the_first() -> None:
    with pytest.raises(SelfCheckError) as caught:
        compare([1, 2, 3, 4], [1, 2, 9, 9], "7.2.22")

    assert str(caught.value) == (
        "cannot use QEMU 7.2.22: it stores allocation tags wrongly: 2 of the 4 granules of a page "
        "read back a tag other than the one written, the first at 0x20 (wrote 0x3, read 0x9); "
        "give QEMU 8.0 or newer"
    )


def options_of(command: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(command) if option == name]


def test_command_line_has_el2_mte_and_the_size() -> None:
    wiring = Wiring(Path("/k/Image"), "/proc/self/fd/9", Path("/t/console"), {})

    command = command_line(QEMU, EmulatorOptions(ram_bytes=3 << 30, cpu_count=4), wiring)

    assert command[0] == "/q/qemu-system-aarch64"
    assert options_of(command, "-machine") == ["virt,virtualization=on,mte=on,gic-version=3"]
    assert options_of(command, "-smp") == ["4"]
    assert options_of(command, "-m") == [f"{3 << 20}k"]
    assert options_of(command, "-kernel") == ["/k/Image"]
    assert options_of(command, "-initrd") == ["/proc/self/fd/9"]
    assert "panic=-1" in options_of(command, "-append")[0]
    assert "-no-reboot" in command


def test_command_line_connects_each_port_by_its_name() -> None:
    wiring = Wiring(Path("k"), "i", Path("c"), {"stdout": 5, "status": 6})

    command = command_line(QEMU, EmulatorOptions(), wiring)

    assert options_of(command, "-chardev")[1:] == [
        "socket,id=stdout,fd=5",
        "socket,id=status,fd=6",
    ]
    assert options_of(command, "-device") == [
        "virtio-serial-pci",
        "virtserialport,chardev=stdout,name=stdout",
        "virtserialport,chardev=status,name=status",
    ]


def test_command_line_terminal_is_a_console() -> None:
    command = command_line(
        QEMU, EmulatorOptions(), Wiring(Path("k"), "i", Path("c"), {}, terminal=7)
    )

    assert options_of(command, "-chardev")[-1] == "socket,id=terminal,fd=7"
    assert options_of(command, "-device")[-1] == "virtconsole,chardev=terminal"


def test_command_line_comma_in_a_path_is_doubled() -> None:
    command = command_line(QEMU, EmulatorOptions(), Wiring(Path("k"), "i", Path("/a,b/c"), {}))

    assert options_of(command, "-chardev") == ["file,id=console,path=/a,,b/c"]


def test_fetched_command_uses_the_loader_beside_it(tmp_path: Path) -> None:
    for path in ("lib64/ld-linux-x86-64.so.2", "usr/bin/qemu-system-aarch64",
                 "lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libz.so"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()

    command = fetched_command(tmp_path)

    assert command[-6:] == (
        f"{tmp_path}/lib64/ld-linux-x86-64.so.2", "--library-path",
        f"{tmp_path}/lib/x86_64-linux-gnu:{tmp_path}/usr/lib/x86_64-linux-gnu",
        f"{tmp_path}/usr/bin/qemu-system-aarch64", "-L", f"{tmp_path}/usr/share/qemu",
    )  # fmt: skip


def test_fetched_command_without_a_qemu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabSetupError, match="cannot find qemu-system-aarch64 and its loader in"):
        fetched_command(tmp_path)
