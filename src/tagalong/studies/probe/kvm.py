"""Probes what KVM on this host can do, with VMs that never run a guest."""

import errno
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np

from tagalong.errors import HostError
from tagalong.kvm import KvmMachine
from tagalong.kvm.abi import (
    KVM_ARM_TAGS_FROM_GUEST,
    KVM_ARM_TAGS_TO_GUEST,
    KVM_ARM_VCPU_PSCI_0_2,
    Cap,
    MemoryFlag,
)
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.dirty_log import KvmDirtyLog
from tagalong.kvm.kvm_fd import KvmSystem
from tagalong.kvm.ram import create_region
from tagalong.kvm.vm_fd import KvmVm, Slot
from tagalong.machine import RegionDescription, register_ids
from tagalong.memory import Gpa, Region
from tagalong.mte.registers import IdAa64pfr1
from tagalong.studies.probe.findings import Answer, CannotTryError, ProbeFinding, attempt

_GPA: Final = Gpa(0x4000_0000)
_PAGES: Final = 4
_RING_BYTES: Final = 1 << 16
_MFD_HUGETLB: Final = 4
_SPEED_BYTES: Final = 16 << 20


def kvm_findings() -> list[ProbeFinding]:
    """Return the findings on KVM; only the reason if /dev/kvm cannot be opened."""
    opened = attempt("kvm", _open)
    findings = [opened]
    if opened.answer is Answer.YES:
        findings += [attempt(cap.name.lower(), _capability(cap)) for cap in Cap]
        findings += [attempt(name, trial) for name, trial in _TRIALS.items()]
    findings.append(attempt("machine_kvm", _machine))
    return findings


def _open() -> str:
    with KvmSystem() as system:
        return f"API version 12, vCPU pages {system.run_bytes()} bytes"


def _capability(cap: Cap) -> Callable[[], str]:
    def ask() -> str:
        with KvmSystem() as system:
            value = system.check(cap)
        if not value:
            raise HostError("KVM_CHECK_EXTENSION returns 0")
        return str(value)

    return ask


@contextmanager
def _vm() -> Iterator[tuple[KvmSystem, KvmVm]]:
    with KvmSystem() as system, system.create_vm() as vm:
        vm.enable(Cap.KVM_CAP_ARM_MTE)
        yield system, vm


@contextmanager
def _vm_with_ram(size_bytes: int = _PAGES * mmap.PAGESIZE) -> Iterator[tuple[KvmVm, Slot, Region]]:
    """Make a VM with MTE, and with shared RAM if this kernel accepts that, else private RAM."""
    with ExitStack() as stack:
        _, vm = stack.enter_context(_vm())
        for shared in (True, False):
            region = create_region(
                RegionDescription(_GPA, size_bytes), mmap.PAGESIZE, shared=shared
            )
            stack.callback(region.close)
            slot = Slot(0, _GPA, size_bytes, region.data.ctypes.data)
            try:
                vm.set_slot(slot)
            except IoctlError as error:
                if not shared or error.errno != errno.EINVAL:
                    raise
                continue
            break
        yield vm, slot, region


def _mte_version() -> str:
    with _vm() as (system, vm), vm.create_vcpu(0, system.run_bytes()) as vcpu:
        vcpu.initialise(vm.preferred_target(), (KVM_ARM_VCPU_PSCI_0_2,))
        found = IdAa64pfr1.from_bits(vcpu.get_register(register_ids.ID_AA64PFR1_EL1))
    if not found.version:
        raise HostError(f"ID_AA64PFR1_EL1 is {found.to_bits():#x}: no MTE")
    asynchronous = "with" if found.has_async else "without"
    return f"MTE{found.version.value}, {asynchronous} asynchronous checks"


def _slot_of(shared: bool) -> str:
    size_bytes = _PAGES * mmap.PAGESIZE
    region = create_region(RegionDescription(_GPA, size_bytes), mmap.PAGESIZE, shared=shared)
    with region, _vm() as (_, vm):
        vm.set_slot(Slot(0, _GPA, size_bytes, region.data.ctypes.data))
    return "memfd, mapped shared" if shared else "private anonymous memory"


def _hugetlb_slot() -> str:
    try:
        fd = os.memfd_create("probe", os.MFD_CLOEXEC | _MFD_HUGETLB)
    except OSError as error:
        raise CannotTryError(f"cannot create a hugetlb memfd: {error.strerror}") from error
    size_bytes = _default_huge_page_bytes()
    try:
        os.ftruncate(fd, size_bytes)
        mapping = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED)
    except OSError as error:
        raise CannotTryError(f"cannot map a huge page: {error.strerror}") from error
    finally:
        os.close(fd)
    view = np.frombuffer(mapping, np.uint8)
    with _vm() as (_, vm):
        vm.set_slot(Slot(0, _GPA, size_bytes, view.ctypes.data))
    return f"{size_bytes >> 10} kB pages"


def _default_huge_page_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Hugepagesize:"):
                return int(line.split()[1]) * 1024
    raise CannotTryError("/proc/meminfo names no huge page size")


def _dirty_ring() -> str:
    with _vm() as (_, vm):
        vm.enable(Cap.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, _RING_BYTES)
    return f"{_RING_BYTES} bytes per vCPU"


def _dirty_log() -> str:
    with _vm_with_ram() as (vm, slot, region):
        log = KvmDirtyLog(vm, (slot,), (region,))
        log.start()
        count = log.harvest()[0].count()
        log.stop()
    if count:
        raise HostError(f"{count} pages are marked dirty although nothing was written")
    return "with manual protection" if log.is_manual else "plain"


def _copy_tags() -> str:
    granules = _PAGES * mmap.PAGESIZE // 16
    wanted = (np.arange(granules) * 7 % 16).astype(np.uint8)
    found = np.empty_like(wanted)
    with _vm_with_ram() as (vm, _, _):
        vm.copy_tags(_GPA, wanted, KVM_ARM_TAGS_TO_GUEST)
        vm.copy_tags(_GPA, found, KVM_ARM_TAGS_FROM_GUEST)
    wrong = np.flatnonzero(found != wanted)
    if wrong.size:
        raise HostError(
            f"{wrong.size} of {granules} tags read back wrong, the first at granule {wrong[0]:#x}"
        )
    return f"{granules} tags written and read back"


def _copy_tags_speed() -> str:
    tags = np.zeros(_SPEED_BYTES // 16, np.uint8)
    with _vm_with_ram(_SPEED_BYTES) as (vm, _, region):
        region.raw_data[:] = 1
        vm.copy_tags(_GPA, tags, KVM_ARM_TAGS_TO_GUEST)
        began = time.monotonic()
        vm.copy_tags(_GPA, tags, KVM_ARM_TAGS_FROM_GUEST)
        took = time.monotonic() - began
    return f"{_SPEED_BYTES / took / 1e6:.0f} MB of guest RAM a second read"


def _tags_while_logging() -> str:
    tags = np.ones(mmap.PAGESIZE // 16, np.uint8)
    with _vm_with_ram() as (vm, slot, _):
        vm.set_slot(slot, MemoryFlag.KVM_MEM_LOG_DIRTY_PAGES)
        vm.copy_tags(_GPA, tags, KVM_ARM_TAGS_TO_GUEST)
        words = np.zeros(1, np.uint64)
        vm.get_dirty_log(slot, words)
    return "the page is marked dirty" if words[0] & 1 else "the page is not marked dirty"


def _machine() -> str:
    machine = KvmMachine.create(ram_bytes=_PAGES * mmap.PAGESIZE)
    machine.close()
    return "tagalong run --machine kvm works here"


_TRIALS: Final[dict[str, Callable[[], str]]] = {
    "mte_version": _mte_version,
    "slots_shared": lambda: _slot_of(shared=True),
    "slots_anonymous": lambda: _slot_of(shared=False),
    "slots_hugetlb": _hugetlb_slot,
    "dirty_log": _dirty_log,
    "dirty_ring": _dirty_ring,
    "copy_tags_both_ways": _copy_tags,
    "copy_tags_speed": _copy_tags_speed,
    "copy_tags_to_guest_while_dirty_logging": _tags_while_logging,
}
