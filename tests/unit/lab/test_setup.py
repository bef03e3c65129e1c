"""What a set-up refuses, before it fetches anything."""

from pathlib import Path

import pytest

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab import LabRequest, SilentObserver, forget, set_up
from tagalong.lab.cache import Cache


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    return program(tmp_path / "qemu", "QEMU emulator version 10.0.2 (of our own)")


def program(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def test_old_qemu_is_refused_at_once(tmp_path: Path) -> None:
    old = program(tmp_path / "old", "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)")

    with pytest.raises(SelfCheckError, match=r"^cannot use QEMU 7\.2\.22: before 8\.0"):
        set_up(LabRequest(tmp_path / "lab", qemu=str(old)), SilentObserver())


def test_qemu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LabSetupError, match=r"^cannot use --qemu no-such-qemu: no such program is on the PATH$"
    ):
        set_up(LabRequest(tmp_path / "lab", qemu="no-such-qemu"), SilentObserver())


def test_qemu_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "qemu-of-mine", "QEMU emulator version 6.0.0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    with pytest.raises(SelfCheckError, match=r"^cannot use QEMU 6\.0\.0"):
        set_up(LabRequest(tmp_path / "lab", qemu="qemu-of-mine"), SilentObserver())


def test_kernel_that_is_neither_version_nor_file_is_refused(tmp_path: Path, qemu: Path) -> None:
    with pytest.raises(LabSetupError) as caught:
        set_up(LabRequest(tmp_path / "lab", kernel="newest", qemu=str(qemu)), SilentObserver())

    assert str(caught.value) == (
        "cannot use --kernel newest: it is neither one of Debian's (6.1, 6.12, 7.3, 7.3-16k) nor a "
        "file"
    )


def test_rootfs_without_python_is_refused(tmp_path: Path, qemu: Path) -> None:
    image = tmp_path / "Image"
    image.touch()
    (tmp_path / "root").mkdir()
    request = LabRequest(
        tmp_path / "lab", kernel=str(image), qemu=str(qemu), rootfs=tmp_path / "root"
    )

    with pytest.raises(LabSetupError, match=r"has no /usr/bin/python3\.N$"):
        set_up(request, SilentObserver())


def test_forget_leaves_what_was_built_and_removes_what_was_fetched(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name in ("qemu", "kernel", "userland", "packages", "native"):
        cache.piece(name, {}, lambda _: {})

    forget(tmp_path)

    left = [name for name in ("qemu", "kernel", "userland", "packages", "native")
            if cache.find(name, {})]  # fmt: skip
    assert left == ["native"]
