"""KVM's GIC by its attributes: which are read and written, in which order, and what fails how."""

import errno
import os
from ctypes import Array, c_int32, c_uint64
from dataclasses import replace
from typing import Any

import pytest

from tagalong.devices import InterruptStatus
from tagalong.errors import HostError, StateError
from tagalong.kvm.abi import KvmIoctl, VgicGroup, kvm_device_attr
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.gic import KvmGic
from tagalong.kvm.vm_fd import KvmVm
from tagalong.machine import GicState
from tagalong.machine.gic import Icc
from tests.support.gic_state import GIC, ICC_CTLR, gic_state

DIST = VgicGroup.KVM_DEV_ARM_VGIC_GRP_DIST_REGS
REDIST = VgicGroup.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS
SYSREGS = VgicGroup.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS
LEVELS = VgicGroup.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO
IIDR = 0x4B00_343B
VCPU_1 = 1 << 32
KVM_DEV_TYPE_ARM_VGIC_V3 = 7


class GicVm(KvmVm):
    """A VM on a host that has a GICv3, or has not."""

    def __init__(self, *, has_gic: bool = True) -> None:
        super().__init__(-1)
        self._has_gic = has_gic

    def lacks_device(self, kind: int) -> bool:
        assert kind == KVM_DEV_TYPE_ARM_VGIC_V3
        return not self._has_gic

    def set_spi(self, intid: int, level: bool) -> None:
        pass

    def create_device(self, kind: int) -> int:
        assert kind == KVM_DEV_TYPE_ARM_VGIC_V3
        return os.memfd_create("gic")


class WordsOnly(KvmGic):
    """A GIC that keeps what is written; a clear-register clears the bits of its set-register."""

    def __init__(self, mpidrs: tuple[int, ...] = (0, 1), refused: int | None = None) -> None:
        self.words: dict[tuple[int, int], int] = {(DIST, 0x8): IIDR}
        self.words |= {
            (SYSREGS, (n & 0xFF_FFFF) << 32 | Icc.ICC_CTLR_EL1): ICC_CTLR for n in mpidrs
        }
        self.written: list[tuple[int, int, int]] = []
        self._refused = refused
        super().__init__(GicVm(), GIC, mpidrs)

    def ioctl_each(self, request: KvmIoctl, arguments: Array[Any]) -> Array[c_int32]:
        for each in arguments:
            word = c_uint64.from_address(each.addr)
            if request is KvmIoctl.KVM_GET_DEVICE_ATTR:
                word.value = self.words.get((each.group, each.attr), 0)
            elif each.attr == self._refused:
                raise IoctlError(request, each, errno.EINVAL)
            else:
                self._write(each, word.value)
        return (c_int32 * len(arguments))()

    def _write(self, each: kvm_device_attr, value: int) -> None:
        self.written.append((each.group, each.attr, value))
        at = each.attr & 0xFFFF
        if each.group in (DIST, REDIST) and (0x180 <= at < 0x200 or 0x380 <= at < 0x400):
            assert value == 0xFFFF_FFFF
            self.words[each.group, each.attr - 0x80] = 0
        else:
            self.words[each.group, each.attr] = value


def sound_state() -> GicState:
    """Return a state that this GIC can take."""
    state = gic_state(vcpus=2)
    return replace(
        state,
        distributor={**state.distributor, 0x8: IIDR},
        cpu_interfaces=tuple({**each, Icc.ICC_SRE_EL1: 7} for each in state.cpu_interfaces),
    )


def test_gic_that_was_loaded_saves_the_same_state() -> None:
    with WordsOnly() as gic:
        gic.load(sound_state())

        assert gic.save() == sound_state()
        assert list(gic.objections(sound_state())) == []


def test_gic_is_placed_sized_and_initialised_in_this_order() -> None:
    with WordsOnly() as gic:
        assert gic.written == [
            (VgicGroup.KVM_DEV_ARM_VGIC_GRP_ADDR, 2, GIC.distributor),
            (VgicGroup.KVM_DEV_ARM_VGIC_GRP_ADDR, 3, GIC.redistributors),
            (VgicGroup.KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 32 + GIC.spi_count),
            (VgicGroup.KVM_DEV_ARM_VGIC_GRP_CTRL, 0, 0),
        ]


def test_gic_is_loaded_in_the_order_of_the_document() -> None:
    with WordsOnly() as gic:
        gic.written.clear()
        gic.load(sound_state())
        order = [(group, attr) for group, attr, _ in gic.written]

    def at(group: int, attr: int) -> int:
        return order.index((group, attr))

    assert order[:2] == [(DIST, 0x8), (DIST, 0x0)]
    # Cleared, then set; configured, then levels, then latches; the vCPUs' own, then the shared.
    assert at(REDIST, 0x1_0180) < at(REDIST, 0x1_0100) < at(REDIST, 0x1_0C04)
    assert at(REDIST, 0x1_0C04) < at(LEVELS, 0) < at(REDIST, 0x1_0200) < at(REDIST, 0x1_0380)
    assert at(REDIST, VCPU_1 | 0x1_041C) < at(DIST, 0x84)
    assert at(DIST, 0x184) < at(DIST, 0x104) < at(DIST, 0x6100) < at(DIST, 0xC08) < at(LEVELS, 32)
    assert at(LEVELS, 96) < at(DIST, 0x204) < at(DIST, 0x384) < at(DIST, 0x304) < at(DIST, 0x420)
    assert at(DIST, 0x47C) < at(SYSREGS, Icc.ICC_SRE_EL1) < at(SYSREGS, Icc.ICC_CTLR_EL1)
    assert order[-1] == (SYSREGS, VCPU_1 | Icc.ICC_AP1R0_EL1)
    assert not {attr & 0xFFF80 for group, attr in order if group in (DIST, REDIST)} & {
        0x280,  # GICD_ICPENDR: KVM ignores it, and nothing has to
        0x1_0280,
    }


def test_gic_addresses_a_vcpu_by_all_of_its_affinity() -> None:
    with WordsOnly(mpidrs=(0x8000_0000, 0x8000_0103)) as gic:
        gic.save()
        gic.load(replace(sound_state()))
        reached = {attr >> 32 for group, attr, _ in gic.written if group == REDIST}

    assert reached == {0, 0x103}


def test_gic_loaded_has_the_levels_of_the_devices_lines() -> None:
    with WordsOnly() as gic:
        gic.set_line(33, True)
        gic.set_line(64, False)
        gic.set_line(96, True)
        for intid, reasons in ((34, 1), (66, 0)):
            status = InterruptStatus()
            gic.connect(status, intid, 0x0A00_0000)
            status.change(add=reasons)
        gic.load(replace(sound_state(), spi_levels=(0x10, 0x7, 0x0)))

        assert gic.save().spi_levels == (0x16, 0x2, 0x1)


def test_gic_that_refuses_a_register_names_it() -> None:
    with WordsOnly(refused=VCPU_1 | Icc.ICC_PMR_EL1) as gic:
        value = sound_state().cpu_interfaces[1][Icc.ICC_PMR_EL1]

        with pytest.raises(StateError, match=f"the GIC cannot take ICC_PMR_EL1 = {value:#x}: KVM_"):
            gic.load(sound_state())


@pytest.mark.parametrize(
    ("iidr", "message"),
    [
        (0x0200_043B, "the GIC is another product: GICD_IIDR is 0x200043b, here 0x4b00343b"),
        (IIDR + 0x1000, "the GIC is of a newer kernel: GICD_IIDR is 0x4b00443b, here 0x4b00343b"),
        (IIDR - 0x1000, ""),
    ],
)
def test_objections_to_another_product_or_a_newer_kernel_say_so(iidr: int, message: str) -> None:
    state = sound_state()
    with WordsOnly() as gic:
        found = gic.objections(replace(state, distributor={**state.distributor, 0x8: iidr}))

        assert "; ".join(found) == message


@pytest.mark.parametrize(
    ("register", "value", "is_refused"),
    [
        (Icc.ICC_SRE_EL1, 6, True),
        (Icc.ICC_CTLR_EL1, ICC_CTLR | 3, False),  # CBPR, EOImode
        (Icc.ICC_CTLR_EL1, ICC_CTLR | 1 << 11, True),  # more bits of an INTID
        (Icc.ICC_CTLR_EL1, ICC_CTLR ^ 1 << 15, True),  # A3V
        (Icc.ICC_CTLR_EL1, ICC_CTLR | 1 << 14, True),  # SEIS
    ],
)
def test_objections_to_an_interface_that_this_host_lacks_name_it(
    register: Icc, value: int, is_refused: bool
) -> None:
    state = sound_state()
    first, second = state.cpu_interfaces
    changed = replace(state, cpu_interfaces=(first, {**second, register: value}))
    with WordsOnly() as gic:
        found = list(gic.objections(changed))

    assert [register.name in text and "vCPU 1" in text for text in found] == [True] * is_refused


def test_objections_to_a_state_without_a_gic_are_those_of_the_form() -> None:
    with WordsOnly() as gic:
        assert list(gic.objections(None)) == ["the state has no GIC, which this machine has"]


def test_gic_on_a_host_without_one_is_refused_by_name() -> None:
    with pytest.raises(HostError, match=r"has no GICv3 for guests \(KVM_DEV_TYPE_ARM_VGIC_V3\)"):
        KvmGic(GicVm(has_gic=False), GIC, (0,))
