"""The ways to the tags of pages that are no holes: an access strategy, or its equal in bulk.

`use_access` puts a strategy in the way of every copy of guest RAM. Data take a route
(`Region.route`), tags a port; both see pages only that are no holes, because a strategy's look
at a hole would allocate it. Where a strategy copies data without checks (`ioctl` and `alias`, by
the mapping without PROT_MTE), the data plane is used directly, without a copy.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from tagalong._lazy import module_when_used
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.descriptor import IoctlError
from tagalong.mte import GRANULE_BYTES

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
    """

    def __init__(self, vm: KvmVm, suspend_log: Callable[[], AbstractContextManager[None]]) -> None:
        self._vm = vm
        self._suspend_log = suspend_log

    def read_runs(self, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Ask KVM."""
        tags = np.empty(int(runs[:, 1].sum()) // GRANULE_BYTES, np.uint8)
        self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_FROM_GUEST)
        return mte_tags.pack(tags)

    def write_runs(self, runs: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Tell KVM."""
        tags = mte_tags.unpack(packed)
        try:
            self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_TO_GUEST)
        except IoctlError as error:
            # Newer kernels, and 6.12 with the fix, take no tags while the dirty log is on.
            if error.errno != errno.EBUSY:
                raise
            with self._suspend_log():
                self._vm.copy_tags_of_runs(runs, tags, KVM_ARM_TAGS_TO_GUEST)
