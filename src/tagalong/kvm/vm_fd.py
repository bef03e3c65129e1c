"""The descriptor of a VM: memory slots, dirty logs, tags, vCPUs, interrupt lines, devices."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.kvm.abi import (
    KVM_ARM_IRQ_CPU_IRQ,
    KVM_ARM_IRQ_TYPE_CPU,
    KVM_ARM_IRQ_TYPE_SHIFT,
    KVM_ARM_IRQ_TYPE_SPI,
    KVM_CREATE_DEVICE_TEST,
    Cap,
    IoeventfdFlag,
    KvmIoctl,
    kvm_arm_copy_mte_tags,
    kvm_clear_dirty_log,
    kvm_create_device,
    kvm_dirty_log,
    kvm_enable_cap,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_userspace_memory_region,
    kvm_vcpu_init,
)
from tagalong.kvm.descriptor import Descriptor, IoctlError
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.mte import GRANULE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tagalong.devices import Doorbell
else:
    np = module_when_used("numpy")


@dataclass(frozen=True)
class Slot:
    """A memory slot: `size_bytes` of guest RAM at `gpa`, which the host has at `hva`."""

    number: int
    gpa: int
    size_bytes: int
    hva: int


def spi_number(intid: int) -> int:
    """Return an SPI as KVM_IRQ_LINE takes it."""
    return KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | intid


class KvmVm(Descriptor):
    """One VM."""

    def check(self, cap: Cap) -> int:
        """Return what KVM says of a capability of this VM; 0 is no."""
        return self.ioctl(KvmIoctl.KVM_CHECK_EXTENSION, cap)

    def enable(self, cap: Cap, argument: int = 0) -> None:
        """Switch a capability on. Raises IoctlError."""
        request = kvm_enable_cap(cap=cap)
        request.args[0] = argument
        self.ioctl(KvmIoctl.KVM_ENABLE_CAP, request)

    def set_slot(self, slot: Slot, flags: int = 0) -> None:
        """Create a slot, or change its flags. Raises IoctlError."""
        self.ioctl(
            KvmIoctl.KVM_SET_USER_MEMORY_REGION,
            kvm_userspace_memory_region(
                slot=slot.number,
                flags=flags,
                guest_phys_addr=slot.gpa,
                memory_size=slot.size_bytes,
                userspace_addr=slot.hva,
            ),
        )

    def set_irq(self, level: bool) -> None:
        """Set the level of vCPU 0's IRQ input, of a VM without an interrupt controller.

        From any thread; a vCPU that runs is made to see it. Raises IoctlError.
        """
        irq = KVM_ARM_IRQ_TYPE_CPU << KVM_ARM_IRQ_TYPE_SHIFT | KVM_ARM_IRQ_CPU_IRQ
        self.ioctl(KvmIoctl.KVM_IRQ_LINE, kvm_irq_level(irq=irq, level=level))

    def set_spi(self, intid: int, level: bool) -> None:
        """Set the level of an SPI's input, of a VM with a GIC. From any thread. Raises IoctlError.

        Setting an edge-triggered SPI to high is an edge, whatever its level was.
        """
        self.ioctl(KvmIoctl.KVM_IRQ_LINE, kvm_irq_level(irq=spi_number(intid), level=level))

    def add_doorbell(self, doorbell: Doorbell) -> None:
        """Let a store that is a doorbell write to its eventfd; no vCPU exits for it any more.

        Raises IoctlError.
        """
        self.ioctl(
            KvmIoctl.KVM_IOEVENTFD,
            kvm_ioeventfd(
                datamatch=doorbell.value,
                addr=doorbell.gpa,
                len=doorbell.size_bytes,
                fd=doorbell.eventfd,
                flags=IoeventfdFlag.KVM_IOEVENTFD_FLAG_DATAMATCH,
            ),
        )

    def create_device(self, kind: int) -> int:
        """Return the descriptor of a new device of the VM. Raises IoctlError."""
        request = kvm_create_device(type=kind)
        self.ioctl(KvmIoctl.KVM_CREATE_DEVICE, request)
        return int(request.fd)

    def lacks_device(self, kind: int) -> bool:
        """Return whether KVM on this host has no such device; none is created."""
        request = kvm_create_device(type=kind, flags=KVM_CREATE_DEVICE_TEST)
        try:
            self.ioctl(KvmIoctl.KVM_CREATE_DEVICE, request)
        except IoctlError as error:
            if error.errno in (errno.ENODEV, errno.ENOTTY, errno.EINVAL):
                return True
            raise
        return False

    def create_vcpu(self, index: int, run_bytes: int) -> VcpuDescriptor:
        """Return a new vCPU, not yet initialised. Raises IoctlError."""
        return VcpuDescriptor(self.ioctl(KvmIoctl.KVM_CREATE_VCPU, index), run_bytes)

    def preferred_target(self) -> kvm_vcpu_init:
        """Return the kind of vCPU that suits this host. Raises IoctlError."""
        kind = kvm_vcpu_init()
        self.ioctl(KvmIoctl.KVM_ARM_PREFERRED_TARGET, kind)
        return kind

    def get_dirty_log(self, slot: Slot, words: NDArray[np.uint64]) -> None:
        """Fill `words`, one bit per page, with the dirty pages of a slot. Raises IoctlError.

        Clears the log unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on.
        """
        request = kvm_dirty_log(slot=slot.number, dirty_bitmap=words.ctypes.data)
        self.ioctl(KvmIoctl.KVM_GET_DIRTY_LOG, request)

    def clear_dirty_log(
        self, slot: Slot, first_page: int, page_count: int, words: NDArray[np.uint64]
    ) -> None:
        """Log the pages set in `words` anew; bit 0 is `first_page`, a multiple of 64.

        `page_count` is a multiple of 64 too, or ends the slot. Raises IoctlError.
        """
        request = kvm_clear_dirty_log(
            slot=slot.number,
            num_pages=page_count,
            first_page=first_page,
            dirty_bitmap=words.ctypes.data,
        )
        self.ioctl(KvmIoctl.KVM_CLEAR_DIRTY_LOG, request)

    def copy_tags_of_runs(
        self, runs: NDArray[np.int64], tags: NDArray[np.uint8], direction: int
    ) -> None:
        """Copy tags of `runs`, rows of gpa and size in bytes; `tags` has those of all in order.

        As `copy_tags` for each run, at the price of little more than the system calls; `runs` may
        be empty.
        """
        if not len(runs):
            return
        starts = np.cumsum(runs[:, 1]) - runs[:, 1]
        requests = (kvm_arm_copy_mte_tags * len(runs))()
        fields = np.frombuffer(memoryview(requests), np.uint64).reshape(len(runs), -1)
        fields[:, :2] = runs
        fields[:, 2] = tags.ctypes.data + starts // GRANULE_BYTES
        fields[:, 3] = direction
        results = self.ioctl_each(KvmIoctl.KVM_ARM_MTE_COPY_TAGS, requests)
        copied = np.frombuffer(memoryview(results), np.int32)
        for short in np.flatnonzero(copied < runs[:, 1]).tolist():
            gpa, size_bytes = runs[short].tolist()
            at, done = int(starts[short]), int(copied[short])
            rest = tags[(at + done) // GRANULE_BYTES : (at + size_bytes) // GRANULE_BYTES]
            self.copy_tags(gpa + done, rest, direction)

    def copy_tags(self, gpa: int, tags: NDArray[np.uint8], direction: int) -> None:
        """Copy tags, one per byte in `tags`, between it and the guest's pages from `gpa` on.

        KVM may stop early, at the end of a slot: it is asked again for the rest. Raises
        IoctlError; some of the tags may be copied then.
        """
        length = tags.size * GRANULE_BYTES
        done = 0
        while done < length:
            request = kvm_arm_copy_mte_tags(
                guest_ipa=gpa + done,
                length=length - done,
                addr=tags.ctypes.data + done // GRANULE_BYTES,
                flags=direction,
            )
            copied = self.ioctl(KvmIoctl.KVM_ARM_MTE_COPY_TAGS, request)
            if copied == 0:
                raise IoctlError(KvmIoctl.KVM_ARM_MTE_COPY_TAGS, request, errno.EFAULT)
            done += copied
