"""The ways to the tags of pages that are no holes: an access strategy, or its equal in bulk.

`use_access` puts a strategy in the way of every copy of guest RAM. Data take a route
(`Region.route`), tags a port; both see pages only that are no holes, because a strategy's look
at a hole would allocate it. Where a strategy copies data without checks (`ioctl` and `alias`, by
the mapping without PROT_MTE), the data plane is used directly, without a copy.
"""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING, Protocol

from tagalong._lazy import module_when_used
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.descriptor import IoctlError
from tagalong.machine.tag_ranges import is_whole_pages
from tagalong.memory import page_runs, run_pages
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    import tagalong.mte.tags as mte_tags
    from tagalong.kvm.vm_fd import KvmVm
else:
    mte_tags = module_when_used("tagalong.mte.tags")
    np = module_when_used("numpy")


class TagPort(Protocol):
    """Copies packed tags of `runs`, rows of gpa and size in bytes, one after the other.

    An access.Accessor is one. Raises HostError or AccessFaultError; an unknown part is done then.
    """

    def read_runs(self, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the packed tags of all runs, in one row."""
        ...

    def write_runs(self, runs: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set the tags of all runs from one row."""
        ...


class IoctlPort:
    """Strategy `ioctl` for many runs at once.

    `suspend_log` is entered where KVM sets no tags with the dirty log on. Here is the
    edge between KVM's form, one tag a byte, and ours.

    KVM copies the tags of whole pages of the host, `host_page_bytes`. Where a run begins or ends
    inside one, as runs of a machine with smaller pages do, the tags around are read, too, and
    written back: the caller sees to it that no vCPU changes them meanwhile, and no other thread.
    """

    def __init__(
        self,
        vm: KvmVm,
        suspend_log: Callable[[], AbstractContextManager[None]],
        host_page_bytes: int = mmap.PAGESIZE,
    ) -> None:
        self._vm = vm
        self._suspend_log = suspend_log
        self._host_page_bytes = host_page_bytes

    def read_runs(self, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Ask KVM."""
        if (runs % self._host_page_bytes).any():
            around = self._pages_around(runs)
            return self._read(around)[_places(runs, around)]
        return self._read(runs)

    def write_runs(self, runs: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Tell KVM."""
        if (runs % self._host_page_bytes).any():
            around = self._pages_around(runs)
            whole = self._read(around)
            whole[_places(runs, around)] = packed
            runs, packed = around, whole
        self._write(runs, packed)

    def is_whole(self, gpa: int, length_bytes: int) -> bool:
        """Return whether KVM takes the range as it is, and no tag around it is written."""
        return is_whole_pages(gpa, length_bytes, self._host_page_bytes)

    def copy(self, gpa: int, tags: NDArray[np.uint8], direction: int) -> None:
        """Do KVM_ARM_MTE_COPY_TAGS, one tag per byte, also of parts of pages of the host.

        `direction` is KVM_ARM_TAGS_FROM_GUEST or KVM_ARM_TAGS_TO_GUEST. What begins or ends inside
        a byte of packed tags is KVM's to refuse. Raises IoctlError.
        """
        length = tags.size * GRANULE_BYTES
        if self.is_whole(gpa, length) or (gpa | length) % PACKED_RATIO:
            self._vm.copy_tags(gpa, tags, direction)
            return
        runs = np.array([[gpa, length]], np.int64)
        if direction == KVM_ARM_TAGS_FROM_GUEST:
            tags[:] = mte_tags.unpack(self.read_runs(runs))
        else:
            self.write_runs(runs, mte_tags.pack(tags))

    def _pages_around(self, runs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the runs of whole pages of the host that `runs`, which ascend, touch."""
        host = self._host_page_bytes
        first, last = runs[:, 0] // host, (runs.sum(axis=1) - 1) // host
        pages = run_pages(np.stack((first, last - first + 1), axis=1))
        return page_runs(np.unique(pages)) * host

    def _read(self, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        tags = np.empty(int(runs[:, 1].sum()) // GRANULE_BYTES, np.uint8)
        self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_FROM_GUEST)
        return mte_tags.pack(tags)

    def _write(self, runs: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        tags = mte_tags.unpack(packed)
        try:
            self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_TO_GUEST)
        except IoctlError as error:
            # Newer kernels, and 6.12 with the fix, take no tags while the dirty log is on.
            if error.errno != errno.EBUSY:
                raise
            with self._suspend_log():
                self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_TO_GUEST)


def _places(runs: NDArray[np.int64], around: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the packed tags of `runs` are in those of `around`, runs that cover them."""
    holders = np.searchsorted(around[:, 0], runs[:, 0], "right") - 1
    starts = np.cumsum(around[:, 1]) - around[:, 1]
    places = runs.copy()
    places[:, 0] += starts[holders] - around[holders, 0]
    return run_pages(places // PACKED_RATIO)
