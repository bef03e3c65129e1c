"""The root file system of the Linux guest, made of small stand-ins for its pieces."""

import io
import stat
from pathlib import Path

import pytest

from tagalong.lab.guest import LinuxGuest, write_for_lab, write_root
from tests.support.cpio_reader import read_by_path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "modules").mkdir()
    (tmp_path / "tools").mkdir()
    for name in (
        "busybox", "modules/01-b.ko", "modules/00-a.ko", "tagkeeper",
        "tools/libc.so.6", "tools/ld-linux-aarch64.so.1", "tools/e2fsck.static",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_write_root_has_what_the_guest_runs(parts: Path) -> None:
    out = io.BytesIO()

    write_root(out, parts, parts / "tools", [parts / "tagkeeper"])

    entries = read_by_path(out.getvalue())
    for path in (
        "bin/busybox",
        "bin/tagkeeper",
        "bin/e2fsck",
        "init",
        "lib/guest/dhcp",
        "lib/guest/session",
    ):
        assert entries[path].mode == stat.S_IFREG | 0o755, path
    assert entries["bin/tagkeeper"].data == b"tagkeeper"
    assert entries["lib/aarch64-linux-gnu/libc.so.6"].data == b"tools/libc.so.6"
    assert entries["lib/ld-linux-aarch64.so.1"].data == b"tools/ld-linux-aarch64.so.1"
    assert entries["bin/sh"].data == b"busybox"
    modules = [path for path in entries if path.endswith(".ko")]
    assert modules == ["lib/guest/00-a.ko", "lib/guest/01-b.ko"]
    assert stat.S_ISCHR(entries["dev/console"].mode)
    assert entries["init"].data.startswith(b"#!/bin/busybox sh\n")


def test_write_for_lab_puts_the_files_into_the_lab(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "Image", tmp_path / "initrd.cpio"
    kernel.write_bytes(b"kernel")
    initrd.write_bytes(b"root")

    write_for_lab(LinuxGuest(kernel, initrd, "6.12"), tmp_path / "guest.cpio")

    entries = read_by_path((tmp_path / "guest.cpio").read_bytes())
    assert entries["opt/guest/Image"].data == b"kernel"
    assert entries["opt/guest/initrd.cpio"].data == b"root"
