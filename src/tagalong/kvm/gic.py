"""KVM's GICv3: made for a VM, and its registers there and back.

A state is several hundred registers, and KVM has a system call for each: one call of the native
library makes all of them, because the guest is paused meanwhile.

Source: Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst.
"""

from __future__ import annotations

import errno
from ctypes import Array, addressof, c_uint64, sizeof
from typing import TYPE_CHECKING, Final, NamedTuple

from tagalong.errors import HostError, StateError
from tagalong.kvm.abi import (
    KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT,
    KVM_DEV_TYPE_ARM_VGIC_V3,
    VGIC_LEVEL_INFO_LINE_LEVEL,
    KvmIoctl,
    VgicAddress,
    VgicGroup,
    kvm_device_attr,
)
from tagalong.kvm.descriptor import Descriptor, IoctlError
from tagalong.kvm.vm_fd import KvmVm, spi_number
from tagalong.machine.gic import (
    FIRST_SPI,
    REDISTRIBUTOR,
    SPIS_PER_WORD,
    GicDescription,
    GicState,
    Icc,
    RegisterGroup,
    cpu_interface_registers,
    distributor_registers,
    gic_objections,
    priority_bits,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tagalong.devices import InterruptStatus

_ALL: Final = (1 << 32) - 1
_VCPU_SHIFT: Final = 32
_LEVELS: Final = VGIC_LEVEL_INFO_LINE_LEVEL << KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT

_SET_BY_BIT: Final = ("ISENABLER", "ISACTIVER")
_CLEAR_FROM_SET: Final = 0x80
_PENDING: Final = "ISPENDR"
_HEAD: Final = ("GICD_IIDR", "GICD_CTLR")

_IIDR: Final = 0x0008
_IIDR_REVISION: Final = 0xF000
_SRE: Final = 1
_ID_BITS: Final = 0x3800
_SEIS_A3V: Final = 0xC000

_DIST: Final = VgicGroup.KVM_DEV_ARM_VGIC_GRP_DIST_REGS
_REDIST: Final = VgicGroup.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS
_ICC: Final = VgicGroup.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS
_LEVEL: Final = VgicGroup.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO


class _Register(NamedTuple):
    """An attribute of the device that holds a register or a word of levels; a name for messages."""

    group: VgicGroup
    attr: int
    name: str


_Write = tuple[_Register, int]


class KvmGic(Descriptor):
    """The GICv3 of a VM; owns the device's descriptor.

    Its registers can be reached while no vCPU is in KVM_RUN.
    """

    _at_power_on: GicState

    def __init__(self, vm: KvmVm, description: GicDescription, mpidrs: Sequence[int]) -> None:
        """Create it for vCPUs that exist, with these MPIDR_EL1, and none of which has run.

        Raises HostError if KVM on this host has no GICv3, or does not take the description.
        """
        if vm.lacks_device(KVM_DEV_TYPE_ARM_VGIC_V3):
            raise HostError(
                "KVM on this host has no GICv3 for guests (KVM_DEV_TYPE_ARM_VGIC_V3): a host whose "
                "own interrupt controller is a GICv3 or newer is required"
            )
        super().__init__(vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V3))
        self._vm = vm
        self._lines: dict[int, bool] = {}
        self._connected: dict[int, InterruptStatus] = {}
        self._description = description
        self._vcpus = [_vcpu_part(mpidr) for mpidr in mpidrs]
        try:
            self._initialise()
        except HostError:
            self.close()
            raise

    def _initialise(self) -> None:
        described = self._description
        place, count, control = (
            VgicGroup.KVM_DEV_ARM_VGIC_GRP_ADDR,
            VgicGroup.KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
            VgicGroup.KVM_DEV_ARM_VGIC_GRP_CTRL,
        )
        for group, attr, value in (
            (place, VgicAddress.KVM_VGIC_V3_ADDR_TYPE_DIST, described.distributor),
            (place, VgicAddress.KVM_VGIC_V3_ADDR_TYPE_REDIST, described.redistributors),
            (count, 0, FIRST_SPI + described.spi_count),
            (control, KVM_DEV_ARM_VGIC_CTRL_INIT, 0),
        ):
            self._set([(_Register(group, attr, group.name), value)])
        (self._own_iidr,) = self._get([_Register(_DIST, _IIDR, "GICD_IIDR")])
        self._own_ctlr = self._icc_ctlr(self._vcpus[0])

    def note_power_on(self) -> None:
        """Note the state that `reset` returns to. Raises IoctlError."""
        self._at_power_on = self.save()

    def set_line(self, intid: int, level: bool) -> None:
        """Follow a device's line; from any thread. Raises IoctlError."""
        self._lines[intid] = level
        self._vm.set_spi(intid, level)

    def connect(self, status: InterruptStatus, intid: int, gpa: int) -> None:
        """Let the line `intid` follow a device's interrupt status. Raises HostError."""
        status.connect(self._vm.fd, spi_number(intid), gpa)
        self._connected[intid] = status

    def reset(self) -> None:
        """Become what it was at `note_power_on`, with the devices' lines as they are.

        Raises IoctlError.
        """
        self._set(list(self._writes(self._at_power_on)))

    def save(self) -> GicState:
        """Return all of it. Raises IoctlError."""
        spis = self._description.spi_count
        interfaces = [cpu_interface_registers(self._icc_ctlr(vcpu)) for vcpu in self._vcpus]
        wanted = [each for group in distributor_registers(spis) for each in _of(_DIST, 0, group)]
        wanted += _spi_levels(spis)
        for vcpu, interface in zip(self._vcpus, interfaces, strict=True):
            wanted += [each for group in REDISTRIBUTOR for each in _of(_REDIST, vcpu, group)]
            wanted.append(_ppi_levels(vcpu))
            wanted += [_Register(_ICC, vcpu | each, each.name) for each in interface]
        values = iter(self._get(wanted))
        distributor = [at for group in distributor_registers(spis) for at in group.offsets]
        redistributor = [at for group in REDISTRIBUTOR for at in group.offsets]

        def taken(keys: Iterable[int]) -> dict[int, int]:
            return {int(key): next(values) for key in keys}

        shared = taken(distributor)
        spi_levels = tuple(taken(range(spis // SPIS_PER_WORD)).values())
        private = [
            (taken(redistributor), next(values), taken(interface)) for interface in interfaces
        ]
        return GicState(
            distributor=shared,
            redistributors=tuple(registers for registers, _, _ in private),
            cpu_interfaces=tuple(interface for _, _, interface in private),
            spi_levels=spi_levels,
            ppi_levels=tuple(levels for _, levels, _ in private),
        )

    def load(self, state: GicState) -> None:
        """Take over a state to which there are no objections. Raises StateError by name.

        The devices must have been loaded: a rising line is an edge, and whether the guest took it,
        this state says. The levels of their lines are theirs to say. After an error a part of the
        state may have been taken.
        """
        writes = list(self._writes(state))
        try:
            self._set(writes)
        except IoctlError as error:
            if error.errno in (errno.EINVAL, errno.ENXIO):
                refused = _refused(writes, error)
                raise StateError(f"the GIC cannot take {refused}: {error}") from error
            raise

    def objections(self, state: GicState | None) -> Iterator[str]:
        """Yield, for each part at fault, why load() must not be called with `state`."""
        found = list(gic_objections(state, self._description, len(self._vcpus)))
        yield from found
        if state is None or found:
            return
        iidr = state.distributor[_IIDR]
        if (iidr ^ self._own_iidr) & ~_IIDR_REVISION:
            yield f"the GIC is another product: GICD_IIDR is {iidr:#x}, here {self._own_iidr:#x}"
        elif iidr > self._own_iidr:
            yield (
                f"the GIC is of a newer kernel: GICD_IIDR is {iidr:#x}, here {self._own_iidr:#x}"
            )
        for vcpu, interface in enumerate(state.cpu_interfaces):
            if not interface[Icc.ICC_SRE_EL1] & _SRE:
                yield f"vCPU {vcpu} has no GIC system registers: ICC_SRE_EL1.SRE is 0"
            if self._exceeds_own(interface[Icc.ICC_CTLR_EL1]):
                yield (
                    f"vCPU {vcpu} has another GIC CPU interface: ICC_CTLR_EL1 is "
                    f"{interface[Icc.ICC_CTLR_EL1]:#x}, here {self._own_ctlr:#x}"
                )

    def _exceeds_own(self, ctlr: int) -> bool:
        """Return whether ICC_CTLR_EL1 has a read-only field that this host cannot have."""
        own = self._own_ctlr
        return (
            priority_bits(ctlr) > priority_bits(own)
            or ctlr & _ID_BITS > own & _ID_BITS
            or bool((ctlr ^ own) & _SEIS_A3V)
        )

    def _writes(self, state: GicState) -> Iterator[_Write]:
        """Yield what to write, in the order of docs/formats/gic.md."""
        groups = distributor_registers(self._description.spi_count)
        head = [group for group in groups if group.name in _HEAD]
        for group in head:
            yield from _group_writes(_DIST, 0, group, state.distributor)
        for vcpu, registers, levels in zip(
            self._vcpus, state.redistributors, state.ppi_levels, strict=True
        ):
            for group in REDISTRIBUTOR:
                if _PENDING in group.name:
                    yield _ppi_levels(vcpu), levels
                yield from _group_writes(_REDIST, vcpu, group, registers)
        for group in groups:
            if _PENDING in group.name:
                levels_of = _spi_levels(self._description.spi_count)
                yield from zip(levels_of, self._levels(state), strict=True)
            if group not in head:
                yield from _group_writes(_DIST, 0, group, state.distributor)
        for vcpu, interface in zip(self._vcpus, state.cpu_interfaces, strict=True):
            for each in cpu_interface_registers(interface[Icc.ICC_CTLR_EL1]):
                yield _Register(_ICC, vcpu | each, each.name), interface[each]

    def _levels(self, state: GicState) -> list[int]:
        """Return the words of SPI levels of a state, with those of the devices' lines as they are.

        A state may have been taken while a device changed its line: an interrupt would be lost, or
        never end.
        """
        words = list(state.spi_levels)
        connected = {intid: bool(each.reasons) for intid, each in self._connected.items()}
        for intid, level in (self._lines | connected).items():
            word, bit = divmod(intid - FIRST_SPI, SPIS_PER_WORD)
            words[word] = words[word] & ~(1 << bit) | level << bit
        return words

    def _icc_ctlr(self, vcpu: int) -> int:
        (value,) = self._get([_Register(_ICC, vcpu | Icc.ICC_CTLR_EL1, "ICC_CTLR_EL1")])
        return value

    def _get(self, registers: Sequence[_Register]) -> list[int]:
        # Words of 32 bits leave the upper half of their place as it is: zero.
        values = (c_uint64 * len(registers))()
        self._transfer(KvmIoctl.KVM_GET_DEVICE_ATTR, registers, values)
        return list(values)

    def _set(self, writes: Sequence[_Write]) -> None:
        values = (c_uint64 * len(writes))(*(value for _, value in writes))
        self._transfer(KvmIoctl.KVM_SET_DEVICE_ATTR, [each for each, _ in writes], values)

    def _transfer(
        self, request: KvmIoctl, registers: Sequence[_Register], values: Array[c_uint64]
    ) -> None:
        requests = (kvm_device_attr * len(registers))()
        at = addressof(values)
        for number, (each, register) in enumerate(zip(requests, registers, strict=True)):
            each.group, each.attr = register.group, register.attr
            each.addr = at + number * sizeof(c_uint64)
        self.ioctl_each(request, requests)


def _of(device: VgicGroup, vcpu: int, group: RegisterGroup) -> list[_Register]:
    return [_Register(device, vcpu | at, group.name_of(at)) for at in group.offsets]


def _group_writes(
    device: VgicGroup, vcpu: int, group: RegisterGroup, values: Mapping[int, int]
) -> Iterator[_Write]:
    """Yield what to write for a group, from which bits that are not set are cleared first."""
    registers = _of(device, vcpu, group)
    if any(name in group.name for name in _SET_BY_BIT):
        for each in registers:
            yield each._replace(attr=each.attr + _CLEAR_FROM_SET), _ALL
    for offset, each in zip(group.offsets, registers, strict=True):
        yield each, values[offset]


def _spi_levels(spi_count: int) -> list[_Register]:
    spis = range(FIRST_SPI, FIRST_SPI + spi_count, SPIS_PER_WORD)
    return [_Register(_LEVEL, _LEVELS | intid, f"levels from INTID {intid}") for intid in spis]


def _ppi_levels(vcpu: int) -> _Register:
    return _Register(_LEVEL, vcpu | _LEVELS, "levels of PPIs")


def _refused(writes: Sequence[_Write], error: IoctlError) -> str:
    """Return the register and the value that KVM refused, for a message."""
    attribute = error.argument
    assert isinstance(attribute, kvm_device_attr)  # noqa: S101 (what was asked with)
    place = attribute.group, attribute.attr
    register, value = next(each for each in writes if each[0][:2] == place)
    return f"{register.name} = {value:#x}"


def _vcpu_part(mpidr: int) -> int:
    """Return the part of an attribute that names a vCPU: Aff3 to Aff0, a byte each."""
    affinity = (mpidr >> 32 & 0xFF) << 24 | mpidr & 0xFF_FFFF
    return affinity << _VCPU_SHIFT
