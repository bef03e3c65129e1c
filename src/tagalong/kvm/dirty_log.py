"""The dirty logs of a VM's slots, as one log of the machine.

Where the kernel has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, getting a log leaves the pages
writable, and only those that were dirty are protected again, a stretch at a time; else
getting it does everything under one lock. Either way a page that the guest writes to after
the harvest has read its bit is in this harvest or in the next.

KVM has a bit per page of the host. A machine that came from elsewhere may have pages of another
size: of its larger ones any part counts, and smaller ones are marked together.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.errors import RunStateError
from tagalong.kvm.abi import KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, Cap, MemoryFlag
from tagalong.memory import PageBitmap, Region
from tagalong.memory.bitmap import WORD_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from tagalong.kvm.vm_fd import KvmVm, Slot
else:
    np = module_when_used("numpy")

# Words of the bitmap that are cleared in one call: the kernel holds its lock meanwhile.
_WORDS_AT_ONCE: Final = 1 << 10


class KvmDirtyLog:
    """One log of all `slots`, and of what the host stores to `regions`, which lie in them.

    KVM logs the stores of vCPUs and nothing else; the region's own log has the others.
    `host_page_bytes`: a page in KVM's logs.
    """

    def __init__(
        self,
        vm: KvmVm,
        slots: Sequence[Slot],
        regions: Sequence[Region],
        host_page_bytes: int = mmap.PAGESIZE,
    ) -> None:
        self._vm = vm
        self._slots = slots
        self._regions = regions
        self._host_page_bytes = host_page_bytes
        self._lock = threading.Lock()
        self._pending: list[PageBitmap] | None = None
        cap = Cap.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
        # Not INITIALLY_SET: a log that begins with every page set says nothing.
        self.is_manual = bool(vm.check(cap) & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
        if self.is_manual:
            vm.enable(cap, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)

    def start(self) -> None:
        """Record changed pages from now on."""
        with self._lock:
            if self._pending is not None:
                self._take()
            self._set_flags(MemoryFlag.KVM_MEM_LOG_DIRTY_PAGES)
            for region in self._regions:
                region.stores.start()
            self._pending = self._empty()

    def harvest(self) -> list[PageBitmap]:
        """Return the pages changed since the last harvest. Raises RunStateError."""
        with self._lock:
            if self._pending is None:
                raise RunStateError("the dirty log was not started: call start_dirty_log first")
            pending, self._pending = self._pending, self._empty()
            stored = [region.stores.harvest() for region in self._regions]
            taken = self._take()
            return [old | new | host for old, new, host in zip(pending, taken, stored, strict=True)]

    def stop(self) -> None:
        """Stop recording and forget."""
        with self._lock:
            if self._pending is not None:
                self._set_flags(0)
                for region in self._regions:
                    region.stores.stop()
                self._pending = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Record nothing within the block; vCPUs must be stopped. Nothing is lost."""
        with self._lock:
            if self._pending is None:
                yield
                return
            taken = self._take()
            self._pending = [old | new for old, new in zip(self._pending, taken, strict=True)]
            self._set_flags(0)
            try:
                yield
            finally:
                self._set_flags(MemoryFlag.KVM_MEM_LOG_DIRTY_PAGES)

    def _empty(self) -> list[PageBitmap]:
        return [PageBitmap(region.page_count) for region in self._regions]

    def _set_flags(self, flags: int) -> None:
        for slot in self._slots:
            self._vm.set_slot(slot, flags)

    def _take(self) -> list[PageBitmap]:
        """Get every slot's log and make it begin anew; return it in pages of the machine."""
        host, bitmaps = self._host_page_bytes, []
        for slot, region in zip(self._slots, self._regions, strict=True):
            bitmap = PageBitmap(slot.size_bytes // host)
            self._vm.get_dirty_log(slot, bitmap.words)
            if self.is_manual:
                self._clear(slot, bitmap)
            bitmaps.append(bitmap.in_pages_of(region.page_size_bytes, host))
        return bitmaps

    def _clear(self, slot: Slot, bitmap: PageBitmap) -> None:
        for start in range(0, bitmap.words.size, _WORDS_AT_ONCE):
            words = np.ascontiguousarray(bitmap.words[start : start + _WORDS_AT_ONCE])
            if words.any():
                first = start * WORD_BITS
                count = min(words.size * WORD_BITS, bitmap.page_count - first)
                self._vm.clear_dirty_log(slot, first, count, words)
