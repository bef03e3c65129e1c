"""QEMU and its guest inside the lab: which libraries come along, and what the archives hold."""

import stat
from pathlib import Path

import pytest

from tagalong.beside.command import library_path
from tagalong.binary.layout import MalformedError
from tagalong.errors import LabSetupError
from tagalong.lab import vmm
from tagalong.lab.deb import ArchiveMember
from tagalong.lab.elf import needed_libraries
from tests.support.cpio_reader import read_by_path

# It is linked with libc, and libc with nothing that a test could find here.
PROGRAM = library_path().read_bytes()


def member(path: str, data: bytes, mode: int = stat.S_IFREG | 0o755) -> ArchiveMember:
    return ArchiveMember(path, mode, data, 0)


def packages(*members: ArchiveMember, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a package that holds `members`, as the module sees it."""
    monkeypatch.setattr(vmm, "members_of", lambda _: iter(members))
    return [Path("qemu.deb")]


def test_needed_libraries_are_those_that_the_linker_wrote() -> None:
    assert "libc.so.6" in needed_libraries(PROGRAM)


def test_needed_libraries_of_a_file_cut_anywhere_fail_by_name() -> None:
    for size in range(0, min(len(PROGRAM), 4096), 7):
        try:
            needed_libraries(PROGRAM[:size])
        except MalformedError:
            continue


def test_archive_has_qemu_its_loader_and_the_libraries_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = "usr/lib/aarch64-linux-gnu"
    debs = packages(
        member("usr/bin/qemu-system-aarch64", PROGRAM),
        member(f"{lib}/libc.so.6", b"libc.so.6.real", stat.S_IFLNK | 0o777),
        member(f"{lib}/libc.so.6.real", PROGRAM),
        member("lib/ld-linux-aarch64.so.1", b"aarch64/ld-linux-aarch64.so.1", stat.S_IFLNK | 0o777),
        member(f"{lib}/ld-linux-aarch64.so.1", PROGRAM),
        member(f"{lib}/libunused.so.1", PROGRAM),
        monkeypatch=monkeypatch,
    )

    vmm.write(debs, tmp_path / "vmm.cpio")

    entries = read_by_path((tmp_path / "vmm.cpio").read_bytes())
    libraries = {Path(path).name for path in entries if path.startswith("opt/vmm/lib/")}
    assert libraries == {"ld-linux-aarch64.so.1", "libc.so.6"}
    assert "opt/vmm/qemu" in entries


def test_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debs = packages(member("usr/bin/qemu-system-aarch64", PROGRAM), monkeypatch=monkeypatch)

    with pytest.raises(LabSetupError, match=r"cannot find (libc\.so\.6|ld-linux)"):
        vmm.write(debs, tmp_path / "vmm.cpio")


def test_package_without_qemu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabSetupError, match="cannot find /usr/bin/qemu-system-aarch64"):
        vmm.write(packages(monkeypatch=monkeypatch), tmp_path / "vmm.cpio")


def test_guest_has_a_kernel_and_a_root_with_tagkeeper(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("Image", "busybox", "tagkeeper")]
    for part in parts:
        part.write_bytes(part.name.encode())

    image, busybox, keeper = parts
    vmm.write_guest(image, busybox, keeper, tmp_path / "guest.cpio")

    entries = read_by_path((tmp_path / "guest.cpio").read_bytes())
    assert entries["opt/vmm/Image"].data == b"Image"
    root = read_by_path(entries["opt/vmm/initrd"].data)
    assert root["tagkeeper"].data == b"tagkeeper"
    assert root["bin/busybox"].data == b"busybox"
    assert b"keeper=" in root["init"].data
