"""The interrupt controller of a machine, a GICv3, as values: where it is, and all of its state.

The state is the architecture's registers, so that what KVM's vGIC saves means the same to the
embedded machine, and the reverse (docs/formats/gic.md is normative). A state has every register of
`distributor_registers`, `REDISTRIBUTOR` and `cpu_interface_registers`, and no other. These list
them in the order in which a machine restores them:

    GICD_IIDR, GICD_CTLR
    per vCPU: IGROUPR0, ISENABLER0, ICFGR1, the PPIs' levels, ISPENDR0, ISACTIVER0, IPRIORITYR
    IGROUPR, ISENABLER, IROUTER, ICFGR, the SPIs' levels, ISPENDR, ISACTIVER, IPRIORITYR
    per vCPU: SRE, CTLR, IGRPEN0, IGRPEN1, PMR, BPR0, BPR1, AP0R, AP1R

Then the vCPUs' registers, timers included. What the registers mean in a state:

- ISENABLER and ISACTIVER are the enabled and the active interrupts, as a guest reads them. A
  restore clears all bits first (ICENABLER, ICACTIVER), then sets those of the state.
- ISPENDR is the pending *latch*: of an edge-triggered interrupt, an SGI included, whether it is
  pending; of a level-sensitive one, whether a guest wrote ISPENDR. A line that is high is not in
  it: a guest reads the latch or the level. A restore sets the latch to exactly these bits.
- The levels are those of the input lines of level-sensitive interrupts; bits of edge-triggered
  ones, and of SGIs, are 0. The level of a timer's PPI follows from the timer's registers: a
  machine that computes it may ignore the bit.
- GICD_IIDR is written first: its revision says which behaviour the guest was promised. A machine
  refuses a product or a revision that it cannot be.
- ICC_CTLR_EL1's PRIbits say how many active-priority registers each group has (1, 2 or 4 for 5, 6
  or 7 bits); all of its read-only fields must suit the machine that loads it.
- ICC_BPR1_EL1 is as read: with CBPR set it follows from ICC_BPR0_EL1.

The GIC has one security state (GICD_CTLR.DS), affinity routing for ever, and no LPIs: what these
leave without meaning (GICD_ITARGETSR, IGRPMODR, GICR_CTLR, WAKER, STATUSR, PROPBASER and their kin)
reads as constants and is no state.

Sources: Arm IHI 0069 (GICv3), chapter 12; Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst and
arch/arm64/kvm/vgic/vgic-mmio-v3.c.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tagalong.errors import UsageError

FIRST_PPI: Final = 16
FIRST_SPI: Final = 32
"""INTIDs below are private to a vCPU: SGIs 0 to 15, PPIs from FIRST_PPI on."""

MIN_SPIS: Final = 32
MAX_SPIS: Final = 960
SPIS_PER_WORD: Final = 32

VIRTUAL_TIMER_INTID: Final = 27
PHYSICAL_TIMER_INTID: Final = 30
"""PPIs of the EL1 timers, as KVM and the base system architecture (Arm BSA) number them."""

DISTRIBUTOR_BYTES: Final = 0x1_0000
REDISTRIBUTOR_BYTES: Final = 0x2_0000
_ALIGNMENT: Final = 0x1_0000
SGI_FRAME: Final = 0x1_0000
"""Offset of a redistributor's second frame, which has its SGIs and PPIs."""

_WORD_BYTES: Final = 4
_MAX_GPA: Final = 1 << 52


@dataclass(frozen=True)
class GicDescription:
    """Where the GICv3 of a machine is, and how many SPIs it has: what the guest sees of it.

    `distributor`: gpa of its 64 KiB frame. `redistributors`: gpa of vCPU 0's two frames of 64 KiB,
    those of the other vCPUs follow. Both are multiples of 64 KiB. `spi_count`: INTIDs from 32 on,
    a multiple of 32, 32 to 960. Raises UsageError that names what cannot be.
    """

    distributor: int
    redistributors: int
    spi_count: int

    def __post_init__(self) -> None:
        for name in ("distributor", "redistributors"):
            gpa = getattr(self, name)
            if gpa % _ALIGNMENT or not 0 <= gpa < _MAX_GPA:
                raise UsageError(
                    f"the GIC has its {name} at {gpa:#x}: give a multiple of {_ALIGNMENT:#x} below "
                    f"{_MAX_GPA:#x}"
                )
        if self.spi_count % SPIS_PER_WORD or not MIN_SPIS <= self.spi_count <= MAX_SPIS:
            raise UsageError(
                f"a GIC with {self.spi_count} SPIs: give a multiple of {SPIS_PER_WORD} from "
                f"{MIN_SPIS} to {MAX_SPIS}"
            )

    def windows(self, vcpu_count: int) -> dict[str, range]:
        """Return the ranges of gpas that it takes, by name."""
        end = self.redistributors + vcpu_count * REDISTRIBUTOR_BYTES
        return {
            "distributor": range(self.distributor, self.distributor + DISTRIBUTOR_BYTES),
            "redistributors": range(self.redistributors, end),
        }

    def has_spi(self, intid: int) -> bool:
        """Return whether an INTID is that of an SPI of this GIC."""
        return FIRST_SPI <= intid < FIRST_SPI + self.spi_count


@dataclass(frozen=True)
class RegisterGroup:
    """Registers of one kind: the 32-bit words at `offsets` from a frame's start, ascending.

    GICD_IROUTER, of 64 bits each, is two words per SPI, the low one first.
    """

    name: str
    offsets: range

    def name_of(self, offset: int) -> str:
        """Return a register's name for messages."""
        is_one = len(self.offsets) == 1
        return self.name if is_one else f"{self.name}[{self.offsets.index(offset)}]"


def _words(name: str, offset: int, count: int) -> RegisterGroup:
    return RegisterGroup(name, range(offset, offset + count * _WORD_BYTES, _WORD_BYTES))


def _per_spi(name: str, offset: int, bits: int, spi_count: int) -> RegisterGroup:
    """Return the registers with `bits` bits per INTID, from the first SPI on."""
    return _words(name, offset + FIRST_SPI * bits // 8, spi_count * bits // 32)


def distributor_registers(spi_count: int) -> tuple[RegisterGroup, ...]:
    """Return the distributor's registers of a state, in the order of a restore."""
    return (
        _words("GICD_IIDR", 0x0008, 1),
        _words("GICD_CTLR", 0x0000, 1),
        _per_spi("GICD_IGROUPR", 0x0080, 1, spi_count),
        _per_spi("GICD_ISENABLER", 0x0100, 1, spi_count),
        _per_spi("GICD_IROUTER", 0x6000, 64, spi_count),
        _per_spi("GICD_ICFGR", 0x0C00, 2, spi_count),
        _per_spi("GICD_ISPENDR", 0x0200, 1, spi_count),
        _per_spi("GICD_ISACTIVER", 0x0300, 1, spi_count),
        _per_spi("GICD_IPRIORITYR", 0x0400, 8, spi_count),
    )


REDISTRIBUTOR: Final = (
    _words("GICR_IGROUPR0", SGI_FRAME + 0x0080, 1),
    _words("GICR_ISENABLER0", SGI_FRAME + 0x0100, 1),
    _words("GICR_ICFGR1", SGI_FRAME + 0x0C04, 1),
    _words("GICR_ISPENDR0", SGI_FRAME + 0x0200, 1),
    _words("GICR_ISACTIVER0", SGI_FRAME + 0x0300, 1),
    _words("GICR_IPRIORITYR", SGI_FRAME + 0x0400, 8),
)
"""A redistributor's registers of a state, in the order of a restore."""


class Icc(IntEnum):
    """CPU interface registers by their MRS encoding: op0, op1, CRn, CRm, op2 in 16 bits.

    In the order of a restore. KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS has the same numbers.
    """

    ICC_SRE_EL1 = 0xC665
    ICC_CTLR_EL1 = 0xC664
    ICC_IGRPEN0_EL1 = 0xC666
    ICC_IGRPEN1_EL1 = 0xC667
    ICC_PMR_EL1 = 0xC230
    ICC_BPR0_EL1 = 0xC643
    ICC_BPR1_EL1 = 0xC663
    ICC_AP0R0_EL1 = 0xC644
    ICC_AP0R1_EL1 = 0xC645
    ICC_AP0R2_EL1 = 0xC646
    ICC_AP0R3_EL1 = 0xC647
    ICC_AP1R0_EL1 = 0xC648
    ICC_AP1R1_EL1 = 0xC649
    ICC_AP1R2_EL1 = 0xC64A
    ICC_AP1R3_EL1 = 0xC64B


_ALWAYS: Final = tuple(Icc)[: tuple(Icc).index(Icc.ICC_AP0R0_EL1)]
_ACTIVE_PRIORITIES: Final = (
    (Icc.ICC_AP0R0_EL1, Icc.ICC_AP0R1_EL1, Icc.ICC_AP0R2_EL1, Icc.ICC_AP0R3_EL1),
    (Icc.ICC_AP1R0_EL1, Icc.ICC_AP1R1_EL1, Icc.ICC_AP1R2_EL1, Icc.ICC_AP1R3_EL1),
)
_PRI_BITS_SHIFT: Final = 8
_PRI_BITS_MASK: Final = 0x7
_COUNTS: Final[Mapping[int, int]] = {5: 1, 6: 2, 7: 4}


def priority_bits(icc_ctlr: int) -> int:
    """Return how many bits of a priority an interface with this ICC_CTLR_EL1 implements."""
    return (icc_ctlr >> _PRI_BITS_SHIFT & _PRI_BITS_MASK) + 1


def cpu_interface_registers(icc_ctlr: int) -> tuple[Icc, ...]:
    """Return the registers of an interface in a state, in the order of a restore.

    Raises UsageError if ICC_CTLR_EL1.PRIbits is none that GICv3 has at EL1 without EL3: 5 to 7.
    """
    bits = priority_bits(icc_ctlr)
    if bits not in _COUNTS:
        raise UsageError(
            f"ICC_CTLR_EL1 = {icc_ctlr:#x} has {bits} bits of priority: 5 to 7 are possible"
        )
    return (*_ALWAYS, *(each for group in _ACTIVE_PRIORITIES for each in group[: _COUNTS[bits]]))


@dataclass(frozen=True)
class GicState:
    """All of a GIC between two instructions; the module says what each register means.

    `distributor`: values of 32 bits by offset from the distributor's start. `redistributors`: the
    same per vCPU, from its redistributor's start. `cpu_interfaces`: per vCPU, values of 64 bits by
    `Icc`. `spi_levels`: a word per 32 SPIs, bit n of word k is INTID 32 + 32 * k + n.
    `ppi_levels`: a word per vCPU, bit n is INTID n.
    """

    distributor: Mapping[int, int]
    redistributors: tuple[Mapping[int, int], ...]
    cpu_interfaces: tuple[Mapping[int, int], ...]
    spi_levels: tuple[int, ...]
    ppi_levels: tuple[int, ...]


_WORD_LIMIT: Final = 1 << 32
_LONG_LIMIT: Final = 1 << 64
_SGI_MASK: Final = (1 << FIRST_PPI) - 1


def gic_objections(
    state: GicState | None, description: GicDescription | None, vcpu_count: int
) -> Iterator[str]:
    """Yield, for each part at fault, why `state` is not one of a GIC with this description.

    Whether a value is one that a machine can take, only that machine knows.
    """
    if state is None or description is None:
        if state is not None:
            yield "the state has a GIC, which this machine has not"
        elif description is not None:
            yield "the state has no GIC, which this machine has"
        return
    yield from _register_objections(
        "GIC distributor", state.distributor, distributor_registers(description.spi_count)
    )
    for name, parts in (
        ("redistributors", state.redistributors),
        ("CPU interfaces", state.cpu_interfaces),
        ("words of PPI levels", state.ppi_levels),
    ):
        if len(parts) != vcpu_count:
            yield f"the GIC's state has {len(parts)} {name}, this machine has {vcpu_count} vCPUs"
    for vcpu, registers in enumerate(state.redistributors):
        yield from _register_objections(f"GIC redistributor {vcpu}", registers, REDISTRIBUTOR)
    for vcpu, registers in enumerate(state.cpu_interfaces):
        yield from _interface_objections(f"GIC CPU interface {vcpu}", registers)
    yield from _level_objections(state, description)


def _register_objections(
    who: str, given: Mapping[int, int], groups: tuple[RegisterGroup, ...]
) -> Iterator[str]:
    names = {offset: group.name_of(offset) for group in groups for offset in group.offsets}
    yield from _objections(who, given, names, _WORD_LIMIT)


def _interface_objections(who: str, given: Mapping[int, int]) -> Iterator[str]:
    try:
        registers = cpu_interface_registers(given.get(Icc.ICC_CTLR_EL1, 0))
    except UsageError as error:
        yield f"{who}: {error}"
        return
    yield from _objections(who, given, {each: each.name for each in registers}, _LONG_LIMIT)


def _objections(
    who: str, given: Mapping[int, int], names: Mapping[int, str], limit: int
) -> Iterator[str]:
    if absent := [name for register, name in names.items() if register not in given]:
        yield f"{who} needs {', '.join(absent)}, which the state lacks"
    if unknown := [f"{register:#x}" for register in sorted(given) if register not in names]:
        yield f"{who} has no register {', '.join(unknown)}"
    for register, value in given.items():
        if register in names and not 0 <= value < limit:
            yield f"{who} cannot take {names[register]} = {value:#x}"


def _level_objections(state: GicState, description: GicDescription) -> Iterator[str]:
    words = description.spi_count // SPIS_PER_WORD
    if len(state.spi_levels) != words:
        yield f"the GIC's state has {len(state.spi_levels)} words of SPI levels, expected {words}"
    for level in (*state.spi_levels, *state.ppi_levels):
        if not 0 <= level < _WORD_LIMIT:
            yield f"the GIC's levels have a word {level:#x}"
    for vcpu, level in enumerate(state.ppi_levels):
        if level & _SGI_MASK:
            yield f"the GIC's levels of vCPU {vcpu}, {level:#x}, have bits of SGIs: these have none"
