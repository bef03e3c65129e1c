"""Puts a VM together in the order that KVM asks for: capabilities, RAM, vCPUs, the GIC."""

from __future__ import annotations

import errno
import mmap
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tagalong._native import library
from tagalong.errors import HostError, UsageError
from tagalong.kvm.abi import KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, Cap
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.gic import KvmGic
from tagalong.kvm.kvm_fd import KvmSystem
from tagalong.kvm.ram import create_region
from tagalong.kvm.vm_fd import KvmVm, Slot
from tagalong.machine import (
    DEFAULT_CONSOLE,
    DeviceDescription,
    GicDescription,
    MachineDescription,
    RegionDescription,
    RegisterId,
    register_ids,
)
from tagalong.machine.cpu_match import is_identification
from tagalong.memory import Gpa, GuestMemory
from tagalong.mte.version import version_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tagalong.kvm.vcpu_fd import VcpuDescriptor
    from tagalong.memory import Region, RegionSource

RAM_GPA: Final = Gpa(0x4000_0000)

_DEFAULT_IPA_BITS: Final = 40

_REQUIRED: Final = {
    Cap.KVM_CAP_ARM_MTE: (
        "its guests would have no tags (a CPU with MTE2 and Linux 5.13 are required)"
    ),
    Cap.KVM_CAP_ONE_REG: "the state of a vCPU cannot be read",
    Cap.KVM_CAP_IMMEDIATE_EXIT: "a vCPU cannot be stopped between instructions",
    Cap.KVM_CAP_ARM_PSCI_0_2: "guests cannot start vCPUs or power off",
    Cap.KVM_CAP_ARM_INJECT_EXT_DABT: "accesses to where nothing is cannot be answered",
}


@dataclass(frozen=True)
class Parts:
    """What a machine is made of; `close` releases all of it.

    `identity` is what the vCPUs' identification registers say once they run.
    """

    vm: KvmVm
    vcpus: tuple[VcpuDescriptor, ...]
    memory: GuestMemory
    slots: tuple[Slot, ...]
    identity: Mapping[RegisterId, int]
    description: MachineDescription
    gic: KvmGic | None
    _stack: ExitStack

    def close(self) -> None:
        """Close vCPUs and VM, then the memory that they used."""
        self._stack.close()


def build(
    regions: Sequence[RegionDescription],
    vcpu_count: int,
    *,
    page_size_bytes: int = mmap.PAGESIZE,
    devices: tuple[DeviceDescription, ...] = (DEFAULT_CONSOLE,),
    gic: GicDescription | None = None,
    sources: Sequence[RegionSource] | None = None,
) -> Parts:
    """Return a new VM with MTE whose vCPU 0 is on.

    `page_size_bytes`: the machine's unit of dirty logs and tags, of any host. `sources`: one per
    region; their data are mapped if KVM allows tags in such a mapping, else RAM is new
    (`Region.has_file_data`). Raises UsageError for what KVM or this host cannot be, HostError
    naming what is missing.
    """
    check_regions(regions)
    with ExitStack() as stack:
        system = stack.enter_context(_open_system())
        _check_vcpu_count(system, vcpu_count)
        vm_stack = stack.enter_context(ExitStack())
        vm = vm_stack.enter_context(system.create_vm(_ipa_bits(system, regions)))
        vm.enable(Cap.KVM_CAP_ARM_MTE)
        if vm.check(Cap.KVM_CAP_ARM_NISV_TO_USER):
            vm.enable(Cap.KVM_CAP_ARM_NISV_TO_USER)
        memory, slots = _add_ram(vm, regions, page_size_bytes, sources)
        vm_stack.callback(memory.close)
        vcpus = _add_vcpus(system, vm, vcpu_count, vm_stack)
        description = MachineDescription(
            page_size_bytes=page_size_bytes,
            vcpu_count=vcpu_count,
            mte_version=_mte_version(vcpus[0]),
            regions=tuple(regions),
            devices=devices,
            gic=gic,
        )
        own_gic = None if gic is None else vm_stack.enter_context(_add_gic(vm, gic, vcpus))
        if own_gic is not None:
            own_gic.note_power_on()
        identity = identity_of_host(gic)
        return Parts(vm, vcpus, memory, slots, identity, description, own_gic, vm_stack.pop_all())


def _open_system() -> KvmSystem:
    """Open KVM. Raises HostError naming what a guest with MTE needs and the host lacks."""
    system = KvmSystem()
    try:
        for cap, why in _REQUIRED.items():
            system.require(cap, why)
    except HostError:
        system.close()
        raise
    return system


def check_regions(
    regions: Sequence[RegionDescription], host_page_bytes: int = mmap.PAGESIZE
) -> None:
    """Raise UsageError for RAM that no VM on this host can have."""
    if not regions:
        raise UsageError("a machine needs at least one RAM region")
    for region in regions:
        if (region.gpa | region.size_bytes) % host_page_bytes:
            raise UsageError(
                f"RAM of {region.size_bytes:#x} bytes at gpa {region.gpa:#x}: KVM on this host "
                f"maps whole pages of {host_page_bytes:#x} bytes"
            )


def _check_vcpu_count(system: KvmSystem, vcpu_count: int) -> None:
    most = system.check(Cap.KVM_CAP_MAX_VCPUS)
    if not 1 <= vcpu_count <= most:
        raise UsageError(f"{vcpu_count} vCPUs: machine 'kvm' takes 1 to {most} on this host")


def _ipa_bits(system: KvmSystem, regions: Sequence[RegionDescription]) -> int:
    """Return the width of guest physical addresses to ask for; 0 is KVM's default."""
    needed = max(region.gpa + region.size_bytes - 1 for region in regions).bit_length()
    if needed <= _DEFAULT_IPA_BITS:
        return 0
    limit = system.check(Cap.KVM_CAP_ARM_VM_IPA_SIZE) or _DEFAULT_IPA_BITS
    if needed > limit:
        raise UsageError(f"RAM needs gpas of {needed} bits: KVM on this host has {limit}")
    return needed


def _add_ram(
    vm: KvmVm,
    regions: Sequence[RegionDescription],
    page_size_bytes: int,
    sources: Sequence[RegionSource] | None,
) -> tuple[GuestMemory, tuple[Slot, ...]]:
    """Create RAM and make it the VM's, of the first kind that KVM takes.

    That is private memory that `sources` fill, else shared, else anonymous memory.
    """
    none = [None] * len(regions)
    kinds: list[tuple[bool, Sequence[RegionSource | None]]] = [(True, none), (False, none)]
    if sources is not None:
        kinds.insert(0, (False, sources))
    for shared, chosen in kinds[:-1]:
        memory = _create(regions, page_size_bytes, chosen, shared=shared)
        if (slots := _try_slots(vm, memory)) is not None:
            return memory, slots
    memory = _create(regions, page_size_bytes, none, shared=False)
    try:
        return memory, _add_slots(vm, memory.regions)
    except HostError:
        memory.close()
        raise


def _create(
    regions: Sequence[RegionDescription],
    page_size_bytes: int,
    sources: Sequence[RegionSource | None],
    *,
    shared: bool,
) -> GuestMemory:
    return GuestMemory(
        [
            create_region(region, page_size_bytes, shared=shared, source=source)
            for region, source in zip(regions, sources, strict=True)
        ]
    )


def _try_slots(vm: KvmVm, memory: GuestMemory) -> tuple[Slot, ...] | None:
    """Make `memory` the VM's; None, and it is closed, if KVM does not take its kind."""
    try:
        return _add_slots(vm, memory.regions)
    except HostError as error:
        memory.close()
        if isinstance(error, IoctlError) and error.errno == errno.EINVAL:
            return None
        raise


def _add_slots(vm: KvmVm, regions: Sequence[Region]) -> tuple[Slot, ...]:
    slots = []
    for number, region in enumerate(regions):
        slot = Slot(number, region.gpa, region.size_bytes, region.data_address)
        vm.set_slot(slot)
        slots.append(slot)
    return tuple(slots)


def _add_vcpus(
    system: KvmSystem, vm: KvmVm, count: int, stack: ExitStack
) -> tuple[VcpuDescriptor, ...]:
    run_bytes = system.run_bytes()
    vcpus = tuple(stack.enter_context(vm.create_vcpu(index, run_bytes)) for index in range(count))
    initialise_vcpus(vm, vcpus)
    return vcpus


def initialise_vcpus(vm: KvmVm, vcpus: Sequence[VcpuDescriptor]) -> None:
    """Make new vCPUs, or those of a machine that is reset, what they are at power-on.

    None may be in KVM_RUN. Raises IoctlError.
    """
    kind = vm.preferred_target()
    for index, vcpu in enumerate(vcpus):
        off = (KVM_ARM_VCPU_POWER_OFF,) if index else ()
        vcpu.initialise(kind, (KVM_ARM_VCPU_PSCI_0_2, *off))


def _add_gic(vm: KvmVm, gic: GicDescription, vcpus: Sequence[VcpuDescriptor]) -> KvmGic:
    return KvmGic(vm, gic, [vcpu.get_register(register_ids.MPIDR_EL1) for vcpu in vcpus])


@cache
def identity_of_host(gic: GicDescription | None) -> Mapping[RegisterId, int]:
    """Return the identification registers of a vCPU that has run, of a VM made to ask it.

    The first entry settles them, and fixes them: the machine's own vCPUs must stay able to
    take another CPU's. One of them says whether there is a GIC. A process asks once: they are
    this host's. Raises HostError naming what is missing.
    """
    with ExitStack() as stack:
        system = stack.enter_context(_open_system())
        vm = stack.enter_context(system.create_vm())
        vm.enable(Cap.KVM_CAP_ARM_MTE)
        (vcpu,) = _add_vcpus(system, vm, 1, stack)
        if gic is not None:
            stack.enter_context(_add_gic(vm, gic, [vcpu]))
        vcpu.finish_exit()
        known = vcpu.get_registers([r for r in vcpu.register_ids() if is_identification(r)])
        # The guest reads the host's, and KVM has no id for it.
        identity = {register_ids.CNTFRQ_EL0: library().ta_counter_hz(), **known}
        return MappingProxyType(identity)


def mte_version_of_host(gic: GicDescription | None) -> int:
    """Return the MTE version of this host's guests. Raises HostError naming what is missing."""
    return int(version_in(identity_of_host(gic)[register_ids.ID_AA64PFR1_EL1]))


def _mte_version(vcpu: VcpuDescriptor) -> int:
    return int(version_in(vcpu.get_register(register_ids.ID_AA64PFR1_EL1)))
