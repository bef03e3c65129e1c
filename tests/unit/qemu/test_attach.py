"""QEMUs that run, by their process id: what is read, and what is refused and how."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tagalong.core import Space, open_core
from tagalong.core.check import check_core
from tagalong.errors import CoreError, HostError, TagalongError, UsageError
from tagalong.machine import MemoryMap, MemoryRange
from tagalong.qemu import dump_process
from tagalong.qemu.process import folder_of, open_process
from tagalong.qemu.shared_ram import map_ram
from tagalong.snapshot import SaveOptions

PLAYER = Path(__file__).parents[2] / "support" / "play_vmm.py"
RAM = 0x4000_0000
MIB = 1 << 20


@contextmanager
def playing(folder: Path, *memory: str, program: str = "qemu-system-aarch64") -> Iterator[int]:
    """Yield the process id of one who plays a VMM with this program and memory."""
    path = folder / program
    path.write_bytes(b"\x7fELF\x02" + bytes(100))
    with subprocess.Popen(
        [sys.executable, str(PLAYER), str(path), *memory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


def test_dump_of_a_process_has_its_memory_and_no_registers(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    with playing(tmp_path, "shared", str(4 * MIB)) as pid:
        attached = dump_process(pid, path)

    with open_core(path) as core:
        assert core.data(RAM, 4 * MIB).tobytes() == (bytes(0x1000) + b"guest").ljust(4 * MIB, b"\0")
        assert not core.tag_segments
        assert core.vcpus == ()
        assert "no-registers" in {each.rule.value for each in check_core(core).findings}
    assert attached.registers == "none: no monitor of QEMU was given (--qmp)"
    assert "assumed without a monitor" in attached.layout
    assert "of different moments" in attached.pause
    assert "QEMU emulates the guest (TCG)" in attached.tags


def test_dump_of_a_process_fills_no_hole_of_its_memory(tmp_path: Path) -> None:
    with playing(tmp_path, "shared", str(4 * MIB)) as pid, open_process(pid) as process:
        before = os.fstat(process.ram_fd).st_blocks

        dump_process(pid, tmp_path / "vm.core")

        assert os.fstat(process.ram_fd).st_blocks == before


@pytest.mark.parametrize(
    ("memory", "program", "words"),
    [
        (("private", "4194304"), "qemu-system-aarch64", r"but mapped privately \(share=off\)"),
        ((), "qemu-system-aarch64", "is private memory, which others cannot read; start it with"),
        (("shared", "4194304", "shared", "2097152"), "qemu-kvm", "has mapped several memfds"),
        (("shared", "4194304"), "qemu-system-x86_64", "its guest is not one of arm64"),
        (("shared", "4194304"), "crosvm", "is no QEMU: its program is"),
    ],
)  # fmt: skip
def test_process_that_cannot_be_read_is_refused_by_name(
    memory: tuple[str, ...], program: str, words: str, tmp_path: Path
) -> None:
    with (
        playing(tmp_path, *memory, program=program) as pid,
        pytest.raises(CoreError, match=words),
    ):
        dump_process(pid, tmp_path / "vm.core")

    assert not (tmp_path / "vm.core").exists()


def test_process_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()

    with pytest.raises(HostError, match=f"there is no process {process.pid}") as caught:
        dump_process(process.pid, tmp_path / "vm.core")

    assert str(caught.value.__cause__).endswith(f"'/proc/{process.pid}'")


def test_process_that_has_ended_and_was_not_waited_for_is_no_qemu(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        with pytest.raises(CoreError, match="is no QEMU: its program is none"):
            dump_process(process.pid, tmp_path / "vm.core")


def test_folder_of_a_process_that_has_ended_is_no_other_process_s() -> None:
    with subprocess.Popen(["sleep", "60"]) as process, folder_of(process.pid) as folder:
        assert (folder / "maps").read_text()
        process.kill()
        process.wait()

        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            (folder / "maps").read_text()


def test_ram_that_its_process_cuts_short_is_an_error_and_no_signal() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, MIB)
    os.pwrite(fd, bytes(MIB), 0)
    memory = MemoryMap(4096, (MemoryRange(RAM, MIB, has_tags=False),))
    with map_ram(fd, MIB, memory, (0,)) as pages:
        os.ftruncate(fd, 4096)

        with pytest.raises(HostError, match="the guest's RAM ends at 0x1000"):
            pages.data(0, np.array([[0, MIB // 4096]]))

    os.close(fd)


def test_dump_of_a_process_by_virtual_addresses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only physical addresses can be dumped"):
        dump_process(os.getpid(), tmp_path / "vm.core", SaveOptions(space=Space.KERNEL))


def test_monitor_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        playing(tmp_path, "shared", str(4 * MIB)) as pid,
        pytest.raises(TagalongError, match=r"QEMU's monitor at \S+nobody failed"),
    ):
        dump_process(pid, tmp_path / "vm.core", monitor=tmp_path / "nobody")
