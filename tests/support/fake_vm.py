"""A KVM VM descriptor's methods over plain memory: its tags, its dirty logs, its refusals."""

import errno
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, Cap, KvmIoctl, MemoryFlag
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vm_fd import Slot
from tagalong.memory import PageBitmap

PAGE = 4096


class FakeVm:
    """One slot of `pages` pages of the host at gpa `base`; `calls` has what was asked for."""

    def __init__(
        self, pages: int, base: int = 0x4000_0000, *, manual: int = 3, page_bytes: int = PAGE
    ) -> None:
        self.tags = np.zeros(pages * page_bytes // 16, np.uint8)
        self._page_bytes = page_bytes
        self.calls: list[tuple[str, int, int]] = []
        self.dirty = PageBitmap(pages)
        self.protected = PageBitmap(pages)
        self.flags = 0
        self.refuses_tags_while_logging = False
        self._base = base
        self._manual = manual

    def check(self, cap: Cap) -> int:
        return self._manual if cap == Cap.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 else 0

    def enable(self, cap: Cap, argument: int = 0) -> None:
        self.calls.append(("enable", cap, argument))

    def set_slot(self, slot: Slot, flags: int = 0) -> None:
        self.calls.append(("set_slot", slot.number, flags))
        self.flags = flags

    def guest_writes(self, pages: Sequence[int]) -> None:
        if self.flags & MemoryFlag.KVM_MEM_LOG_DIRTY_PAGES:
            self.dirty.words |= PageBitmap.from_pages(self.dirty.page_count, pages).words

    def get_dirty_log(self, slot: Slot, words: NDArray[np.uint64]) -> None:
        self.calls.append(("get", slot.number, 0))
        words[:] = self.dirty.words
        if not self._manual:
            self.dirty.clear()

    def clear_dirty_log(
        self, slot: Slot, first_page: int, page_count: int, words: NDArray[np.uint64]
    ) -> None:
        self.calls.append(("clear", first_page, page_count))
        assert first_page % 64 == 0
        assert page_count % 64 == 0 or first_page + page_count == self.dirty.page_count
        assert slot.number == 0
        self.dirty.words[first_page // 64 :][: words.size] &= ~words

    def copy_tags_of_runs(
        self, runs: NDArray[np.int64], tags: NDArray[np.uint8], direction: int
    ) -> None:
        at = 0
        for gpa, size_bytes in runs.tolist():
            self.copy_tags(gpa, tags[at : at + size_bytes // 16], direction)
            at += size_bytes // 16

    def copy_tags(self, gpa: int, tags: NDArray[np.uint8], direction: int) -> None:
        self.calls.append(("copy", gpa - self._base, tags.size))
        if (gpa | tags.size * 16) % self._page_bytes:
            raise IoctlError(KvmIoctl.KVM_ARM_MTE_COPY_TAGS, 0, errno.EINVAL)
        place = self.tags[(gpa - self._base) // 16 :][: tags.size]
        if direction == KVM_ARM_TAGS_FROM_GUEST:
            tags[:] = place
            return
        if self.refuses_tags_while_logging and self.flags:
            raise IoctlError(KvmIoctl.KVM_ARM_MTE_COPY_TAGS, 0, errno.EBUSY)
        place[:] = tags
