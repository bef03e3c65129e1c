"""The kernel's interface as it is: structs, ioctl numbers, capabilities, register ids.

All names are those of the kernel's headers (include/uapi/linux/kvm.h and
arch/arm64/include/uapi/asm/kvm.h). tests/unit/kvm/test_abi.py compiles assertions over
everything here against those headers, so nothing in this file is taken on trust.
"""

from ctypes import Structure, Union, c_int32, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from enum import IntEnum, IntFlag
from typing import Final

KVMIO: Final = 0xAE
KVM_API_VERSION: Final = 12


class kvm_userspace_memory_region(Structure):  # noqa: N801 (the kernel's names throughout)
    """A memory slot."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class kvm_enable_cap(Structure):  # noqa: N801
    """A capability to switch on."""

    _fields_ = (
        ("cap", c_uint32),
        ("flags", c_uint32),
        ("args", c_uint64 * 4),
        ("pad", c_uint8 * 64),
    )


class kvm_vcpu_init(Structure):  # noqa: N801
    """What kind of vCPU to make."""

    _fields_ = (("target", c_uint32), ("features", c_uint32 * 7))


class kvm_one_reg(Structure):  # noqa: N801
    """A register's id and where its value is."""

    _fields_ = (("id", c_uint64), ("addr", c_uint64))


class kvm_reg_list(Structure):  # noqa: N801
    """The head of a list of register ids, which follow it."""

    _fields_ = (("n", c_uint64),)


class kvm_mp_state(Structure):  # noqa: N801
    """Whether a vCPU is on."""

    _fields_ = (("mp_state", c_uint32),)


class _Exception(Structure):
    _fields_ = (
        ("serror_pending", c_uint8),
        ("serror_has_esr", c_uint8),
        ("ext_dabt_pending", c_uint8),
        ("pad", c_uint8 * 5),
        ("serror_esr", c_uint64),
    )


class kvm_vcpu_events(Structure):  # noqa: N801
    """Exceptions that a vCPU is still to take."""

    _fields_ = (("exception", _Exception), ("reserved", c_uint32 * 12))


class kvm_dirty_log(Structure):  # noqa: N801
    """A slot and where its bitmap goes."""

    _fields_ = (("slot", c_uint32), ("padding1", c_uint32), ("dirty_bitmap", c_uint64))


class kvm_clear_dirty_log(Structure):  # noqa: N801
    """The pages of a slot whose dirty bits are to be cleared."""

    _fields_ = (
        ("slot", c_uint32),
        ("num_pages", c_uint32),
        ("first_page", c_uint64),
        ("dirty_bitmap", c_uint64),
    )


class kvm_arm_copy_mte_tags(Structure):  # noqa: N801
    """A range of guest memory and a buffer with one byte a tag."""

    _fields_ = (
        ("guest_ipa", c_uint64),
        ("length", c_uint64),
        ("addr", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 2),
    )


class kvm_irq_level(Structure):  # noqa: N801
    """An interrupt input and its level; KVM_ARM_IRQ_TYPE_SHIFT and its kin say which input."""

    _fields_ = (("irq", c_uint32), ("level", c_uint32))


class kvm_ioeventfd(Structure):  # noqa: N801
    """A store of a guest that writes to an eventfd instead of leaving KVM_RUN."""

    _fields_ = (
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    )


class kvm_create_device(Structure):  # noqa: N801
    """A device of a VM to create; KVM fills in its descriptor."""

    _fields_ = (("type", c_uint32), ("fd", c_uint32), ("flags", c_uint32))


class kvm_device_attr(Structure):  # noqa: N801
    """An attribute of a device, by group and number, and where its value is."""

    _fields_ = (("flags", c_uint32), ("group", c_uint32), ("attr", c_uint64), ("addr", c_uint64))


class kvm_signal_mask(Structure):  # noqa: N801
    """The signals blocked in KVM_RUN; `sigset` is the kernel's own, 8 bytes."""

    _fields_ = (("len", c_uint32), ("sigset", c_uint8 * 8))


class _Mmio(Structure):
    _fields_ = (
        ("phys_addr", c_uint64),
        ("data", c_uint64),  # 8 bytes, the first of them the lowest
        ("len", c_uint32),
        ("is_write", c_uint8),
    )


class _SystemEvent(Structure):
    _fields_ = (("type", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class _FailEntry(Structure):
    _fields_ = (("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32))


class _Internal(Structure):
    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class _ArmNisv(Structure):
    _fields_ = (("esr_iss", c_uint64), ("fault_ipa", c_uint64))


class _Exit(Union):
    _fields_ = (
        ("fail_entry", _FailEntry),
        ("mmio", _Mmio),
        ("internal", _Internal),
        ("system_event", _SystemEvent),
        ("arm_nisv", _ArmNisv),
        ("padding", c_uint8 * 256),
    )


class kvm_run(Structure):  # noqa: N801
    """The page that a vCPU shares with its VMM, as far as this package reads it."""

    _anonymous_ = ("exit",)
    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit", _Exit),
    )


_WRITE: Final = 1  # the kernel reads the argument
_READ: Final = 2  # the kernel writes the argument


def _number(direction: int, number: int, argument: type[Structure] | None = None) -> int:
    """Return an ioctl's number (include/uapi/asm-generic/ioctl.h)."""
    size = 0 if argument is None else sizeof(argument)
    return direction << 30 | size << 16 | KVMIO << 8 | number


class KvmIoctl(IntEnum):
    """Numbers by the kernel's names."""

    KVM_GET_API_VERSION = _number(0, 0x00)
    KVM_CREATE_VM = _number(0, 0x01)
    KVM_CHECK_EXTENSION = _number(0, 0x03)
    KVM_GET_VCPU_MMAP_SIZE = _number(0, 0x04)
    KVM_CREATE_VCPU = _number(0, 0x41)
    KVM_GET_DIRTY_LOG = _number(_WRITE, 0x42, kvm_dirty_log)
    KVM_SET_USER_MEMORY_REGION = _number(_WRITE, 0x46, kvm_userspace_memory_region)
    KVM_IRQ_LINE = _number(_WRITE, 0x61, kvm_irq_level)
    KVM_IOEVENTFD = _number(_WRITE, 0x79, kvm_ioeventfd)
    KVM_RUN = _number(0, 0x80)
    # The header declares the mask without its bytes: the number holds the size of `len`.
    KVM_SET_SIGNAL_MASK = _WRITE << 30 | 4 << 16 | KVMIO << 8 | 0x8B
    KVM_GET_MP_STATE = _number(_READ, 0x98, kvm_mp_state)
    KVM_SET_MP_STATE = _number(_WRITE, 0x99, kvm_mp_state)
    KVM_GET_VCPU_EVENTS = _number(_READ, 0x9F, kvm_vcpu_events)
    KVM_SET_VCPU_EVENTS = _number(_WRITE, 0xA0, kvm_vcpu_events)
    KVM_ENABLE_CAP = _number(_WRITE, 0xA3, kvm_enable_cap)
    KVM_GET_ONE_REG = _number(_WRITE, 0xAB, kvm_one_reg)
    KVM_SET_ONE_REG = _number(_WRITE, 0xAC, kvm_one_reg)
    KVM_ARM_VCPU_INIT = _number(_WRITE, 0xAE, kvm_vcpu_init)
    KVM_ARM_PREFERRED_TARGET = _number(_READ, 0xAF, kvm_vcpu_init)
    KVM_GET_REG_LIST = _number(_READ | _WRITE, 0xB0, kvm_reg_list)
    KVM_ARM_MTE_COPY_TAGS = _number(_READ, 0xB4, kvm_arm_copy_mte_tags)
    KVM_CLEAR_DIRTY_LOG = _number(_READ | _WRITE, 0xC0, kvm_clear_dirty_log)
    KVM_CREATE_DEVICE = _number(_READ | _WRITE, 0xE0, kvm_create_device)
    KVM_SET_DEVICE_ATTR = _number(_WRITE, 0xE1, kvm_device_attr)
    KVM_GET_DEVICE_ATTR = _number(_WRITE, 0xE2, kvm_device_attr)


class Cap(IntEnum):
    """Capabilities by the kernel's names."""

    KVM_CAP_NR_VCPUS = 9
    KVM_CAP_NR_MEMSLOTS = 10
    KVM_CAP_MP_STATE = 14
    KVM_CAP_IOEVENTFD = 36
    KVM_CAP_VCPU_EVENTS = 41
    KVM_CAP_MAX_VCPUS = 66
    KVM_CAP_ONE_REG = 70
    KVM_CAP_DEVICE_CTRL = 89
    KVM_CAP_ARM_PSCI_0_2 = 102
    KVM_CAP_IMMEDIATE_EXIT = 136
    KVM_CAP_ARM_USER_IRQ = 144
    KVM_CAP_ARM_VM_IPA_SIZE = 165
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168
    KVM_CAP_ARM_NISV_TO_USER = 177
    KVM_CAP_ARM_INJECT_EXT_DABT = 178
    KVM_CAP_DIRTY_LOG_RING = 192
    KVM_CAP_ARM_MTE = 205
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL = 223
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP = 225
    KVM_CAP_GUEST_MEMFD = 234


class KvmExitReason(IntEnum):
    """Why KVM_RUN came back, as far as it can on arm64."""

    KVM_EXIT_UNKNOWN = 0
    KVM_EXIT_DEBUG = 4
    KVM_EXIT_MMIO = 6
    KVM_EXIT_SHUTDOWN = 8
    KVM_EXIT_FAIL_ENTRY = 9
    KVM_EXIT_INTR = 10
    KVM_EXIT_INTERNAL_ERROR = 17
    KVM_EXIT_SYSTEM_EVENT = 24
    KVM_EXIT_ARM_NISV = 28
    KVM_EXIT_MEMORY_FAULT = 39


class SystemEvent(IntEnum):
    """What KVM_EXIT_SYSTEM_EVENT is about."""

    KVM_SYSTEM_EVENT_SHUTDOWN = 1
    KVM_SYSTEM_EVENT_RESET = 2
    KVM_SYSTEM_EVENT_CRASH = 3


class MpState(IntEnum):
    """Whether a vCPU is on."""

    KVM_MP_STATE_RUNNABLE = 0
    KVM_MP_STATE_STOPPED = 5


class MemoryFlag(IntFlag):
    """What is special about a memory slot."""

    KVM_MEM_LOG_DIRTY_PAGES = 1
    KVM_MEM_READONLY = 2


class IoeventfdFlag(IntFlag):
    """What is special about an ioeventfd."""

    KVM_IOEVENTFD_FLAG_DATAMATCH = 1


class VgicGroup(IntEnum):
    """Groups of attributes of KVM's GIC."""

    KVM_DEV_ARM_VGIC_GRP_ADDR = 0
    KVM_DEV_ARM_VGIC_GRP_DIST_REGS = 1
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS = 3
    KVM_DEV_ARM_VGIC_GRP_CTRL = 4
    KVM_DEV_ARM_VGIC_GRP_REDIST_REGS = 5
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS = 6
    KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO = 7


class VgicAddress(IntEnum):
    """Which frame of a GICv3 an address is of."""

    KVM_VGIC_V3_ADDR_TYPE_DIST = 2
    KVM_VGIC_V3_ADDR_TYPE_REDIST = 3


KVM_ARM_VCPU_POWER_OFF: Final = 0
KVM_ARM_VCPU_PSCI_0_2: Final = 2
KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: Final = 1
KVM_ARM_IRQ_TYPE_SHIFT: Final = 24
KVM_ARM_IRQ_TYPE_CPU: Final = 0
KVM_ARM_IRQ_CPU_IRQ: Final = 0
KVM_ARM_IRQ_TYPE_SPI: Final = 1
KVM_DEV_TYPE_ARM_VGIC_V3: Final = 7
KVM_CREATE_DEVICE_TEST: Final = 1
KVM_DEV_ARM_VGIC_CTRL_INIT: Final = 0
KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT: Final = 10
VGIC_LEVEL_INFO_LINE_LEVEL: Final = 0
KVM_ARM_TAGS_TO_GUEST: Final = 0
KVM_ARM_TAGS_FROM_GUEST: Final = 1

KVM_REG_ARM64: Final = 0x6000_0000_0000_0000
KVM_REG_SIZE_SHIFT: Final = 52
KVM_REG_SIZE_MASK: Final = 0x00F0_0000_0000_0000
KVM_REG_ARM_COPROC_MASK: Final = 0x0000_0000_0FFF_0000
KVM_REG_ARM_CORE: Final = 0x0010_0000
KVM_REG_ARM_DEMUX: Final = 0x0011_0000
KVM_REG_ARM64_SYSREG: Final = 0x0013_0000
KVM_REG_ARM_FW: Final = 0x0014_0000
KVM_REG_ARM_FW_FEAT_BMAP: Final = 0x0016_0000

KVM_REG_ARM_TIMER_CNT: Final = 0x6030_0000_0013_DF1A
KVM_REG_ARM_PTIMER_CNT: Final = 0x6030_0000_0013_DF01

PROT_MTE: Final = 0x20
