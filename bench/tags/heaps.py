"""The tags of three heaps, as their guests left them."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import zstandard
from numpy.typing import NDArray

from bench.migrate.churn import Workload, rig
from tagalong.boot.linux import LINUX_CONSOLE, LINUX_GIC, LinuxBoot, boot_linux
from tagalong.core import open_core
from tagalong.errors import LabError
from tagalong.lab import GuestRequest, SilentObserver, default_folder, set_up_guest
from tagalong.soft import SoftMachine

PAGE_TAG_BYTES = 128
CRASH = Path(__file__).parents[2] / "tests/golden/crashes/linux-uaf.core.zst"

_LINUX_RAM_BYTES = 256 << 20
_LINUX_WORDS = (
    "console=ttyAMA0 quiet cryptomgr.notests GLIBC_TUNABLES=glibc.mem.tagging=3 "
    "-- heapkeeper threads=4 blocks=2048"
)
_AT_WORK = b"heapkeeper: progress"
_TIMEOUT_S = 120


def churn() -> NDArray[np.uint8]:
    """Return the tagged pages of churn's heap of 32 MiB."""
    with rig(Workload()) as made:
        made.machine.pause()
        return tagged_pages(made.machine.memory.regions[0].tags)


def crash() -> NDArray[np.uint8]:
    """Return the tagged pages of a small program that used memory after it was freed."""
    with TemporaryDirectory() as folder, CRASH.open("rb") as file:
        path = Path(folder) / "core"
        path.write_bytes(zstandard.ZstdDecompressor().stream_reader(file).read())
        with open_core(path) as core:
            planes = [core.tags(each.address, each.size_bytes) for each in core.tag_segments]
            return tagged_pages(np.concatenate(planes))


def linux() -> NDArray[np.uint8]:
    """Return the tagged pages of a Linux guest whose C library tags a heap.

    Raises SystemExit as `linux_machine`.
    """
    machine = linux_machine()
    pages = tagged_pages(machine.memory.regions[0].tags)
    machine.close()
    return pages


def linux_machine() -> SoftMachine:
    """Return a paused Linux guest of 256 MiB with busybox and a program that uses a tagged heap.

    Raises SystemExit if the guest cannot be had, or does not come to its work.
    """
    try:
        files = set_up_guest(GuestRequest(default_folder()), SilentObserver())
    except LabError as error:
        raise SystemExit(f"no Linux guest: {error}") from error
    said = bytearray()
    description = SoftMachine.describe(
        ram_bytes=_LINUX_RAM_BYTES, devices=(LINUX_CONSOLE,), gic=LINUX_GIC
    )
    machine = SoftMachine(description, console=said.extend)
    machine.activate()
    boot_linux(machine, LinuxBoot(files.kernel, files.initrd, _LINUX_WORDS))
    machine.resume()
    deadline = time.monotonic() + _TIMEOUT_S
    while said.count(_AT_WORK) < 2:
        if time.monotonic() > deadline:
            raise SystemExit(f"heapkeeper did not come to work: {bytes(said[-300:])!r}")
        time.sleep(0.1)
    machine.pause()
    return machine


def tagged_pages(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of the packed tags of the pages of 4 KiB that have any, side by side."""
    rows = packed[: packed.size // PAGE_TAG_BYTES * PAGE_TAG_BYTES].reshape(-1, PAGE_TAG_BYTES)
    return rows[rows.any(axis=1)].ravel()
