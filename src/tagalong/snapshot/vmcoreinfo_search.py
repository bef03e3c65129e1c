"""Finds a Linux guest's VMCOREINFO in the memory that goes into a core.

Nothing says where it is, but it begins a page of its own. So the pages that are copied anyway are
looked at on their way, ten bytes of each, and what looks like it is read again at the end, when
the guest is paused: a live snapshot copies pages that change afterwards. A guest's memory can hold
other texts of this kind, in a file of crash tools or of a kernel before this one, and it can lie;
so a candidate must make sense, and the tables that it names must be in RAM. If several do, those
count whose tables a vCPU uses; if these still differ, none is taken. What needs it before anything
is copied has all pages looked at.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.layout import MalformedError
from tagalong.core.vmcoreinfo import MAX_BYTES, START, Vmcoreinfo
from tagalong.errors import AddressError, CoreError
from tagalong.machine import MachineState, PageSource, register_ids
from tagalong.machine.page_source import CHUNK_BYTES, read_bytes
from tagalong.memory import run_pages
from tagalong.mte import PAGE_SIZES_BYTES

_MAX_CANDIDATES: Final = 1024
_STEP: Final = PAGE_SIZES_BYTES[0]
_HEAD: Final = np.frombuffer(START, np.uint8)
_TABLE_ADDRESS: Final = (1 << 48) - _STEP  # TTBRx_EL1.BADDR, without CnP and the ASID


class VmcoreinfoSearch:
    """Candidates for a guest's VMCOREINFO, collected while the pages of `source` are copied.

    At most 1024 are remembered: only a guest that wants to hide its kernel has more.
    """

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._candidates: dict[int, None] = {}

    def look(self, number: int, runs: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """Look at the data of pages of range `number`; `runs` and `data` as PageSource.data."""
        heads = data.reshape(-1, _STEP)
        likely = np.flatnonzero(heads[:, 0] == _HEAD[0])
        found = likely[(heads[likely, : _HEAD.size] == _HEAD).all(axis=1)]
        if not found.size:
            return
        memory = self._source.memory
        page, pages = memory.page_size_bytes, run_pages(runs)
        for at in (found * _STEP).tolist():
            if len(self._candidates) < _MAX_CANDIDATES:
                offset = int(pages[at // page]) * page + at % page
                self._candidates[memory.ranges[number].address + offset] = None

    def look_everywhere(self) -> None:
        """Look at all pages that the guest has used. Raises HostError as the source does."""
        most = CHUNK_BYTES // self._source.memory.page_size_bytes
        for number, pages in enumerate(self._source.populated_pages()):
            for runs in _batches(pages.runs(), most):
                self.look(number, runs, self._source.data(number, runs))

    def result(self, state: MachineState) -> bytes | None:
        """Return the text of the guest's VMCOREINFO as it is now, None if there is none.

        `state`: of the guest, which is paused.
        """
        chosen = self.chosen(state)
        return chosen.text if chosen is not None else None

    def chosen(self, state: MachineState) -> Vmcoreinfo | None:
        """Return what `result` returns the text of."""
        found = {info.text: info for info in map(self._read, self._candidates) if info}
        in_use = set(_tables_in_use(state))
        used = [info for info in found.values() if info.kernel_table in in_use]
        chosen = used or [*found.values()]
        return chosen[0] if len(chosen) == 1 else None

    def _read(self, gpa: int) -> Vmcoreinfo | None:
        try:
            number, offset = self._source.memory.locate(gpa, 1)
            left = self._source.memory.ranges[number].size_bytes - offset
            info = Vmcoreinfo.parse(read_bytes(self._source, gpa, min(left, MAX_BYTES)))
            self._source.memory.locate(info.kernel_table, info.page_size_bytes)
        except (MalformedError, AddressError, CoreError):
            return None
        return info


def _tables_in_use(state: MachineState) -> Iterable[int]:
    for vcpu in state.vcpus:
        if register_ids.TTBR1_EL1 in vcpu.registers:
            yield vcpu.registers[register_ids.TTBR1_EL1] & _TABLE_ADDRESS


def _batches(runs: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Yield runs (first page, pages) in groups of at most `most` pages."""
    batch: list[tuple[int, int]] = []
    room = most
    for first, count in runs.tolist():
        at, end = first, first + count
        while at < end:
            part = min(end - at, room)
            batch.append((at, part))
            at, room = at + part, room - part
            if not room:
                yield np.array(batch)
                batch, room = [], most
    if batch:
        yield np.array(batch)
