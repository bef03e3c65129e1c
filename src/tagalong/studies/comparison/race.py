"""A strategy against the guest `retag`, which changes tags and data as fast as it can."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.access import Host, Strategy
from tagalong.boot import boot_guest, guest_image_path
from tagalong.errors import MachineError
from tagalong.memory import Gpa
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO
from tagalong.mte.registers import TagCheckMode
from tagalong.mte.tags import unpack
from tagalong.studies.comparison.machines import HostedMachine, MachineMaker
from tagalong.studies.comparison.measure import Truth, checking
from tagalong.studies.comparison.report import Looks

_GRANULES: Final = 256
_LOOK_BYTES: Final = _GRANULES * GRANULE_BYTES
_RAM_BYTES: Final = 16 << 20
_START_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.01
_ROUND_TAGS: Final = 15  # guests/retag: in round n the tag is n % 15 + 1
_BUFFER: Final = re.compile(rb"retag: buffer=(0x[0-9a-f]+) granules=(\d+)\n")

Granules = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Data and packed tags."""


class Retagger:
    """The guest `retag` on a machine, running; `gpa` is where its buffer is."""

    def __init__(self, machine: HostedMachine, gpa: Gpa) -> None:
        self.machine = machine
        self.host: Host = machine.host
        self.gpa = gpa
        self._page_bytes = machine.description.page_size_bytes

    def look_for(self, strategy: Strategy, seconds: float) -> Looks:
        """Look with synchronous checks until the time is up, at least once."""
        counts = np.zeros(5, np.int64)
        end = time.monotonic() + seconds
        with checking(self.host, TagCheckMode.SYNC):
            while True:
                counts += self._look(strategy)
                if time.monotonic() >= end:
                    break
        return Looks(*counts.tolist())

    def now(self) -> Granules:
        """Return data and packed tags of the buffer, read without any strategy."""
        data, packed = Truth(self.host).read(self.gpa, self._page_bytes)
        return data[:_LOOK_BYTES], packed[: _LOOK_BYTES // PACKED_RATIO]

    def _look(self, strategy: Strategy) -> NDArray[np.int64]:
        """Return looks, faults, and the torn, stale and right granules of one look."""
        data = np.empty(_LOOK_BYTES, np.uint8)
        page = np.empty(self._page_bytes // PACKED_RATIO, np.uint8)
        if strategy.read_tags(self.gpa, page) or strategy.read(self.gpa, data):
            return np.array([1, 1, 0, 0, 0])
        packed, now = page[: _LOOK_BYTES // PACKED_RATIO], self.now()
        torn, same = are_torn(data, packed), are_same((data, packed), now)
        right = same & ~torn
        stale = ~(torn | same)
        return np.array([1, 0, np.count_nonzero(~(right | stale)), stale.sum(), right.sum()])


def are_torn(data: NDArray[np.uint8], packed: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return per granule whether its tag and data never existed together.

    In round n the guest `retag` stores the tag of round n, then the word n twice. Between the two
    stores the granule has the tag of round n and the data of round n - 1; both are legitimate.
    """
    first, second = data.view("<u8").reshape(-1, 2).T
    tags = unpack(packed).astype(np.uint64) - np.uint64(1)
    rounds = np.uint64(_ROUND_TAGS)
    of_this_round = tags == first % rounds
    of_next_round = tags == (first + np.uint64(1)) % rounds
    torn: NDArray[np.bool_] = (first != second) | ~(of_this_round | of_next_round)
    return torn


def are_same(then: Granules, now: Granules) -> NDArray[np.bool_]:
    """Return per granule whether data and tag are unchanged."""
    words = then[0].view("<u8").reshape(-1, 2) == now[0].view("<u8").reshape(-1, 2)
    same: NDArray[np.bool_] = words.all(axis=1) & (unpack(then[1]) == unpack(now[1]))
    return same


@contextmanager
def retagger(make: MachineMaker) -> Iterator[Retagger]:
    """Boot the guest and wait for its first round. Raises MachineError if that takes too long."""
    console = _Console()
    machine = make(ram_bytes=_RAM_BYTES, console=console.hear)
    try:
        image = guest_image_path("retag").read_bytes()
        boot_guest(machine, image, command_line=f"granules={_GRANULES}")
        machine.resume()
        found = Retagger(machine, console.wait_for_buffer(machine))
        _wait_for_first_round(found)
        yield found
    finally:
        machine.close()


@dataclass
class _Console:
    """Console output of the guest, delivered by the machine's thread."""

    def __post_init__(self) -> None:
        self._said = bytearray()
        self._changed = threading.Condition()

    def hear(self, data: bytes) -> None:
        """Append some output."""
        with self._changed:
            self._said += data
            self._changed.notify_all()

    def wait_for_buffer(self, machine: HostedMachine) -> Gpa:
        """Return where the guest's buffer is."""
        with self._changed:
            self._changed.wait_for(lambda: _BUFFER.search(self._said), _START_TIMEOUT_S)
            found = _BUFFER.search(self._said)
        if found is None:
            raise MachineError(
                f"the guest retag printed no buffer address within {_START_TIMEOUT_S:.0f} s: "
                f"it printed {bytes(self._said)!r}; the machine is {machine.run_state.value} "
                f"({machine.failure or 'no failure'})"
            )
        return Gpa(int(found[1], 16))


def _wait_for_first_round(found: Retagger) -> None:
    """Return when every granule has a tag."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not unpack(found.now()[1]).all():
        if time.monotonic() > deadline:
            raise MachineError(
                f"the guest retag did not finish its first round within {_START_TIMEOUT_S:.0f} s: "
                f"granules at gpa {found.gpa:#x} have no tag yet"
            )
        time.sleep(_POLL_S)
