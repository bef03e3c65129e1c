"""The interpreter with a GIC, driven by one instruction at a time as a guest would drive it."""

from collections.abc import Iterator
from contextlib import contextmanager

from tagalong._native import InterpreterExit
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Region
from tagalong.soft import RAM_GPA
from tagalong.soft.native import NativeMachine, StopReason
from tests.support import a64, bare
from tests.support.gic_state import GIC

Encoding = tuple[int, int, int, int, int]

GICD, GICR = GIC.distributor, GIC.redistributors
SGI_FRAME = 0x1_0000
CODE = RAM_GPA + 0x4000
VECTORS = RAM_GPA + 0x800
SYNC, IRQ, FIQ = 0x200, 0x280, 0x300
EL1_MASKED, EL1_OPEN, EL0_MASKED = 0x3C5, 0x305, 0x3C0
ISR_IRQ, ISR_FIQ = 0x80, 0x40

ISR = (3, 0, 12, 1, 0)
PMR = (3, 0, 4, 6, 0)
IAR0, EOIR0, HPPIR0, BPR0, AP0R0 = ((3, 0, 12, 8, op2) for op2 in range(5))
AP1R0, AP1R1 = (3, 0, 12, 9, 0), (3, 0, 12, 9, 1)
DIR, RPR = (3, 0, 12, 11, 1), (3, 0, 12, 11, 3)
SGI1R, ASGI1R, SGI0R = ((3, 0, 12, 11, op2) for op2 in (5, 6, 7))
IAR1, EOIR1, HPPIR1, BPR1, CTLR, SRE, IGRPEN0, IGRPEN1 = ((3, 0, 12, 12, op2) for op2 in range(8))
SPURIOUS = 1023

_LOADS = {1: (0, 1), 2: (1, 1), 4: a64.LDR_W, 8: a64.LDR_X}
_STORES = {1: (0, 0), 2: (1, 0), 4: a64.STR_W, 8: a64.STR_X}


class UndefinedInstructionError(Exception):
    """The guest took an exception in place of the instruction; `esr` is its syndrome."""

    def __init__(self, esr: int) -> None:
        super().__init__(f"exception {esr:#x}")
        self.esr = esr


class GicGuest:
    """vCPUs at EL1 with interrupts masked and the MMU off, before any code."""

    def __init__(self, *, vcpus: int = 1, gic: bool = True) -> None:
        self.native = NativeMachine(vcpus, 0)
        self.region = Region.create(RAM_GPA, 0x10000)
        self.native.add_ram(self.region)
        if gic:
            self.native.add_gic(GIC)
        for vector in range(VECTORS, VECTORS + 0x800, 0x80):
            self.put(vector, a64.b(0))
        for vcpu in range(vcpus):
            self.native.set_power(vcpu, on=True)
            self.set(register_ids.VBAR_EL1, VECTORS, vcpu)
            self.set(register_ids.PSTATE, EL1_MASKED, vcpu)
            self.set(register_ids.PC, CODE, vcpu)

    def close(self) -> None:
        self.native.close()
        self.region.close()

    def put(self, gpa: int, *words: int) -> None:
        self.region.raw_data[gpa - RAM_GPA :][: 4 * len(words)] = memoryview(bare.encoded(words))

    def get(self, register: RegisterId, vcpu: int = 0) -> int:
        value = self.native.get_register(vcpu, register)
        assert value is not None
        return value

    def set(self, register: RegisterId, value: int, vcpu: int = 0) -> None:
        assert self.native.set_register(vcpu, register, value)

    def execute(self, word: int, vcpu: int = 0) -> None:
        """Execute one instruction. Raises UndefinedInstructionError for an exception."""
        self.put(CODE, word)
        self.set(register_ids.PC, CODE, vcpu)
        self.native.step(vcpu, 1, InterpreterExit())
        if self.get(register_ids.PC, vcpu) != CODE + 4:
            raise UndefinedInstructionError(self.get(register_ids.ESR_EL1, vcpu))

    def run(self, budget: int) -> InterpreterExit:
        leave = InterpreterExit()
        self.native.run(budget, leave)
        return leave

    def step(self, count: int, vcpu: int = 0) -> StopReason:
        leave = InterpreterExit()
        self.native.step(vcpu, count, leave)
        return StopReason(leave.reason)

    def mrs(self, register: Encoding, vcpu: int = 0) -> int:
        self.execute(a64.mrs(0, register), vcpu)
        return self.get(register_ids.x(0), vcpu)

    def msr(self, register: Encoding, value: int, vcpu: int = 0) -> None:
        self.set(register_ids.x(0), value, vcpu)
        self.execute(a64.msr(register, 0), vcpu)

    def load(self, gpa: int, size: int = 4, vcpu: int = 0) -> int:
        self.set(register_ids.x(1), gpa, vcpu)
        self.execute(a64.ldst(_LOADS[size], 0, 1), vcpu)
        return self.get(register_ids.x(0), vcpu)

    def store(self, gpa: int, value: int, size: int = 4, vcpu: int = 0) -> None:
        self.set(register_ids.x(0), value, vcpu)
        self.set(register_ids.x(1), gpa, vcpu)
        self.execute(a64.ldst(_STORES[size], 0, 1), vcpu)

    def open(self, *, priority: int = 0xA0, vcpu: int = 0) -> None:
        """Enable both groups and all interrupts of vCPU `vcpu` and the SPIs, at one priority."""
        own = redistributor(vcpu)
        self.store(GICD, 2)
        self.store(own + 0x100, 0xFFFF_FFFF)
        for base, intids in ((own, range(0, 32, 4)), (GICD, range(32, 128, 4))):
            for intid in intids:
                self.store(base + 0x400 + intid, priority * 0x0101_0101)
        for word in range(1, 4):
            self.store(GICD + 0x100 + 4 * word, 0xFFFF_FFFF)
        self.msr(PMR, 0xFF, vcpu)
        self.msr(IGRPEN0, 1, vcpu)
        self.msr(IGRPEN1, 1, vcpu)

    def set_priority(self, intid: int, priority: int, vcpu: int = 0) -> None:
        base = GICD if intid >= 32 else redistributor(vcpu)
        self.store(base + 0x400 + intid, priority, size=1)

    def set_edge(self, intid: int) -> None:
        at = GICD + 0xC00 + intid // 16 * 4
        self.store(at, self.load(at) | 2 << intid % 16 * 2)

    def line(self, intid: int, level: bool) -> None:
        self.native.set_line(intid, level=level)


def redistributor(vcpu: int) -> int:
    """Return the gpa of a redistributor's second frame, which has its interrupts."""
    return GICR + 0x2_0000 * vcpu + SGI_FRAME


@contextmanager
def gic_guest(*, vcpus: int = 1, gic: bool = True) -> Iterator[GicGuest]:
    """Yield a new guest."""
    guest = GicGuest(vcpus=vcpus, gic=gic)
    try:
        yield guest
    finally:
        guest.close()
