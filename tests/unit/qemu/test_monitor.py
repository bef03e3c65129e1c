"""What QEMU's monitor says for people is read strictly."""

import fcntl
from pathlib import Path
from types import SimpleNamespace

import pytest

from tagalong.errors import ControlError, CoreError
from tagalong.qemu.monitor import QemuMonitor

# As QEMU 10.0.2 prints them, shortened.
BLOCKS = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                     ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f8633e00000  rw
             virt.flash0    2 MiB  0x0000000004000000 0x0000000004000000 0x0000000004000000 0x00007f862fc00000  rw
    /rom@etc/acpi/tables    4 KiB  0x000000000c200000 0x0000000000020000 0x0000000000200000 0x00007f863e600000  ro
"""  # noqa: E501
RANGES = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, i/o): io

FlatView #1
 AS "memory", root: system
 Root memory region: system
  0000000000000000-0000000003ffffff (prio 0, romd): virt.flash0
  0000000009000000-0000000009000fff (prio 0, i/o): pl011
  0000000040000000-0000000047ffffff (prio 0, ram): ram KVM
  0000000048000000-000000004fffffff (prio 0, ram): ram @0000000008000000 KVM
"""
ADDRESS, SIZE = 0x7F86_33E0_0000, 0x1000_0000


class CannedMonitor(QemuMonitor):
    """Answers from texts instead of asking."""

    def __init__(self, **answers: object) -> None:
        self._answers = answers
        self._path = Path("qemu.sock")

    def execute(self, command: str, **arguments: object) -> object:
        line = str(arguments.get("command-line", command))
        return self._answers[line.split()[-1 if "mtree" not in line else 1].replace("-", "_")]


def test_monitor_ranges_are_those_of_the_ram_at_an_address() -> None:
    monitor = CannedMonitor(ramblock=BLOCKS, mtree=RANGES)

    assert monitor.ranges_of(ADDRESS, SIZE) == [
        (0x4000_0000, 0x800_0000, 0),
        (0x4800_0000, 0x800_0000, 0x800_0000),
    ]


@pytest.mark.parametrize(
    ("blocks", "ranges", "address"),
    [
        (BLOCKS, RANGES, ADDRESS + 0x1000),
        (BLOCKS.replace("ram ", "other "), RANGES, ADDRESS),
        (BLOCKS, RANGES.replace("ram KVM", "ram2 KVM").replace("ram @", "ram2 @"), ADDRESS),
        ("", "", ADDRESS),
    ],
    ids=["another address", "another name", "not mapped", "nothing"],
)
def test_monitor_of_another_qemu_is_refused(blocks: str, ranges: str, address: int) -> None:
    with pytest.raises(CoreError, match="does not know the RAM of the process"):
        CannedMonitor(ramblock=blocks, mtree=ranges).ranges_of(address, SIZE)


def test_monitor_answers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ControlError, match="answers info ramblock with no text"):
        CannedMonitor(ramblock=5, mtree=RANGES).ranges_of(ADDRESS, SIZE)
    with pytest.raises(ControlError, match="gives a status that makes no sense"):
        CannedMonitor(query_status={"running": "yes"}).is_running()


def test_monitor_that_seals_the_file_for_registers_is_refused() -> None:
    monitor = CannedMonitor(getfd={}, dump_guest_memory={})
    monitor._client = SimpleNamespace(send_fd_scm=None)  # type: ignore[assignment]
    monitor._loop = SimpleNamespace(  # type: ignore[assignment]
        call_soon=lambda _, fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    )

    with pytest.raises(ControlError, match="has sealed the file that registers go into"):
        monitor.registers(0x4000_0000)
