"""Measures one strategy on a paused machine: correctness, system calls, cost."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tagalong.access import Fault, Host, Strategy, tagged_addr_ctrl
from tagalong.access.ioctl import Ioctl
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.comparison.report import Operation, SystemCalls

MODES = (TagCheckMode.NONE, TagCheckMode.SYNC, TagCheckMode.ASYNC)

_GIB = 1 << 30
_PAGES_TRIED = 8
_LENT_BYTES = 1024
_MEASURED_S = 0.25
_MEASURED_BYTES = 1 << 20


@contextmanager
def checking(host: Host, mode: TagCheckMode) -> Iterator[None]:
    """Check this thread's accesses in `mode` for the length of a `with` block."""
    before = host.get_tagged_addr_ctrl()
    try:
        host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
        yield
    finally:
        host.set_tagged_addr_ctrl(before)


class Truth:
    """Guest RAM without any strategy: KVM's ioctl, and a mapping with checking off.

    A strategy is judged by what this class reads and writes, so it uses nothing that a
    strategy under test uses with checking on.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tags = Ioctl(host)

    def read(self, gpa: Gpa, size_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return data and packed tags of whole pages; the tags are read first."""
        packed = np.empty(size_bytes // PACKED_RATIO, np.uint8)
        with checking(self._host, TagCheckMode.NONE):
            self._tags.read_tags(gpa, packed)
            region, offset = self._host.memory.locate(gpa, size_bytes)
            return region.read_data(offset, size_bytes), packed

    def write(self, gpa: Gpa, data: NDArray[np.uint8], packed: NDArray[np.uint8]) -> None:
        """Set data and tags of whole pages."""
        with checking(self._host, TagCheckMode.NONE):
            self._host.memory.write(gpa, data)
            self._tags.write_tags(gpa, packed)


def random_pages(size_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return random data and packed tags; no granule has tag 0."""
    random = np.random.default_rng(1)
    data = random.integers(0, 256, size_bytes, np.uint8)
    low, high = random.integers(1, 16, (2, size_bytes // PACKED_RATIO), np.uint8)
    return data, low | high << 4


@dataclass
class Tries:
    """How many operations were tried, faulted, and gave or left wrong bytes."""

    attempts: int = 0
    faults: int = 0
    wrong: int = 0

    def count(self, fault: Fault | None, *, is_right: Callable[[], bool]) -> None:
        """Count one operation."""
        self.attempts += 1
        if fault is not None:
            self.faults += 1
        elif not is_right():
            self.wrong += 1


def try_all(host: Host, strategy: Strategy, gpa: Gpa, mode: TagCheckMode) -> Tries:
    """Read and write data and tags of eight pages from `gpa` on, with checks in `mode`."""
    page, truth, tries = host.memory.regions[0].page_size_bytes, Truth(host), Tries()
    for number in range(_PAGES_TRIED):
        _try_page(host, strategy, Page(truth, Gpa(gpa + number * page), page), mode, tries)
    return tries


@dataclass(frozen=True)
class Page:
    """A page of guest RAM, seen without any strategy."""

    truth: Truth
    gpa: Gpa
    size_bytes: int

    def holds(self, data: NDArray[np.uint8], packed: NDArray[np.uint8]) -> bool:
        """Return whether the guest would read these data and tags."""
        found = self.truth.read(self.gpa, self.size_bytes)
        return np.array_equal(found[0], data) and np.array_equal(found[1], packed)


def _try_page(host: Host, strategy: Strategy, page: Page, mode: TagCheckMode, tries: Tries) -> None:
    data, packed = random_pages(page.size_bytes)
    new, new_packed = data[::-1].copy(), packed[::-1].copy()
    got, tags = np.zeros_like(data), np.zeros_like(packed)
    page.truth.write(page.gpa, data, packed)
    with checking(host, mode):
        tries.count(strategy.read(page.gpa, got), is_right=lambda: np.array_equal(got, data))
        fault = strategy.read_tags(page.gpa, tags)
        tries.count(fault, is_right=lambda: np.array_equal(tags, packed))
        fault = strategy.write(page.gpa, new)
        tries.count(fault, is_right=lambda: page.holds(new, packed))
        page.truth.write(page.gpa, new, packed)
        fault = strategy.write_tags(page.gpa, new_packed)
        tries.count(fault, is_right=lambda: page.holds(new, new_packed))


def try_system_calls(host: Host, strategy: Strategy, gpa: Gpa, mode: TagCheckMode) -> SystemCalls:
    """Pass the memory that the strategy lends at `gpa` to write(2) and read(2)."""
    page = host.memory.regions[0].page_size_bytes
    Truth(host).write(gpa, *random_pages(page))
    with checking(host, mode), strategy.lend(gpa, _LENT_BYTES) as address:
        codes = (
            host.write_syscall(address, _LENT_BYTES),
            host.read_syscall(address, bytes(_LENT_BYTES)),
        )
    return SystemCalls(*(errno.errorcode[code] if code else "ok" for code in codes))


def measure_all(host: Host, strategy: Strategy, gpa: Gpa) -> dict[str, Operation]:
    """Measure the four copies over 1 MiB from `gpa` on, with synchronous checks."""
    data, packed = random_pages(_MEASURED_BYTES)
    Truth(host).write(gpa, data, packed)
    copies: dict[str, Callable[[], Fault | None]] = {
        "read_data": lambda: strategy.read(gpa, data),
        "write_data": lambda: strategy.write(gpa, data),
        "read_tags": lambda: strategy.read_tags(gpa, packed),
        "write_tags": lambda: strategy.write_tags(gpa, packed),
    }
    with checking(host, TagCheckMode.SYNC):
        return {name: _measure(host, copy) for name, copy in copies.items()}


def _measure(host: Host, copy: Callable[[], Fault | None]) -> Operation:
    copy()
    calls, ioctls = host.counts.system_calls, host.counts.ioctls
    began = time.perf_counter()
    rounds, elapsed = 0, 0.0
    while elapsed < _MEASURED_S:
        copy()
        rounds += 1
        elapsed = time.perf_counter() - began
    gib = rounds * _MEASURED_BYTES / _GIB
    return Operation(
        gib_per_s=gib / elapsed,
        system_calls_per_gib=(host.counts.system_calls - calls) / gib,
        ioctls_per_gib=(host.counts.ioctls - ioctls) / gib,
    )
