"""A disk image between us and a real QEMU: whoever comes second is turned away, in both orders.

qemu-img is turned away as well; it holds an image for too short a time to be the first.
"""

import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

from bench.migrate.qemu import find_qemu
from tests.support.fetch_debuggers import QEMU_IMG, DebuggerMissingError
from tests.support.vm_processes import tagalong, until, vm_process

CHURN = ("--machine", "soft", "--guest", "churn", "--guest-args", "report=512", "--ram", "16M")
TIMEOUT_S = 120.0
COPY = ("-f", "raw", "-O", "raw", "{image}", "{image}.copy")


class QemuWithDisk:
    """A QEMU that stays paused with `image` as its disk, within a `with` block."""

    def __init__(self, image: Path, *, read_only: bool = False) -> None:
        try:
            program = find_qemu()
        except SystemExit as error:
            pytest.skip(f"missing QEMU: {error}")
        rights = "on" if read_only else "off"
        self._monitor = image.with_name("qemu.monitor")
        self._command = [
            *program, "-machine", "virt", "-cpu", "max", "-m", "64", "-S", "-display", "none",
            "-nodefaults", "-no-user-config",
            "-monitor", f"unix:{self._monitor},server=on,wait=off",
            "-drive", f"if=none,id=disk,file={image},format=raw,readonly={rights}",
            "-device", "virtio-blk-pci,drive=disk",
        ]  # fmt: skip

    def refused(self) -> str:
        """Run it to its end, and return what it says."""
        ran = subprocess.run(
            self._command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert ran.returncode == 1, ran.stderr
        return ran.stderr

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        # Its monitor is there before its devices, but answers once they have taken their locks.
        until(lambda: self._answers() or self._process.poll() is not None, "QEMU's monitor")
        assert self._process.poll() is None, "QEMU has ended"
        return self

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(TIMEOUT_S)
            try:
                monitor.connect(str(self._monitor))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return bool(monitor.recv(1))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def test_qemu_is_turned_away_from_an_image_that_a_vm_of_ours_writes(
    tmp_path: Path, image: Path
) -> None:
    with vm_process(tmp_path, "vm", *CHURN, "--disk", str(image)) as vm:
        vm.wait_for_console("churn: progress")

        said = QemuWithDisk(image).refused()

    assert 'Failed to get "write" lock' in said


def test_image_that_qemu_writes_is_refused_until_qemu_ends(image: Path) -> None:
    run = ("run", "--machine", "soft", "--guest", "selftest", "--disk", str(image))
    with QemuWithDisk(image):
        refused = tagalong(*run)
    accepted = tagalong(*run)

    assert refused.returncode == 10
    assert f"image {image} of disk 'disk0' is in use by another process" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


def test_image_that_both_only_read_is_shared(tmp_path: Path, image: Path) -> None:
    disk = ("--disk", f"{image},readonly")
    with (
        QemuWithDisk(image, read_only=True),
        vm_process(tmp_path, "vm", *CHURN, *disk) as vm,
    ):
        vm.wait_for_console("churn: progress")
        runs = not vm.has_ended()

    assert runs


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("resize", "-f", "raw", "{image}", "2M"), 'Failed to get "write" lock'),
        (("convert", *COPY), 'Failed to get shared "write" lock'),
        (("convert", "-U", *COPY), ""),
    ],
    ids=["resize", "convert", "convert-that-shares"],
)
def test_qemu_img_is_turned_away_from_an_image_that_a_vm_of_ours_writes(
    tmp_path: Path, image: Path, words: tuple[str, ...], refusal: str
) -> None:
    try:
        program = QEMU_IMG.find()
    except DebuggerMissingError as error:
        pytest.skip(f"missing qemu-img (python -m tests.support.fetch_debuggers): {error}")
    with vm_process(tmp_path, "vm", *CHURN, "--disk", str(image)) as vm:
        vm.wait_for_console("churn: progress")

        ran = subprocess.run(
            [*program, *(word.format(image=image) for word in words)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip

    assert (ran.returncode != 0) is bool(refusal), ran.stderr
    assert refusal in ran.stderr
    assert image.stat().st_size == 1 << 20
