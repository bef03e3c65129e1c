"""A race of two short sequences, ready to be explored; the guest's may be interrupted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tagalong.machine import register_ids
from tagalong.machine.gic import SGI_FRAME, Icc
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.native import GicPart
from tagalong.studies.race.code import GuestCode, Side, VmmCode
from tagalong.studies.race.explore import Reading
from tagalong.studies.race.run import own_code, own_reading
from tagalong.studies.race.world import Saved, World
from tests.support import bare
from tests.support.gic_state import GIC

GUEST_VCPU = 0
UNMASKED = 0x345  # at EL1, with IRQs let through
IRQ = 0x280
_ALL = 0xFFFF_FFFF


class InterruptedWorld(World):
    """A world whose guest has a GIC and a handler of its interrupts.

    `fires_at`: the tick of its virtual timer; each instruction of either side is one. None: never.
    No instruction is local: whatever either side executes brings the timer's tick nearer, and what
    the guest executes next is its handler's if an interrupt is pending.
    """

    def __init__(
        self, guest: GuestCode, vmm: VmmCode, handler: Sequence[int], fires_at: int | None
    ) -> None:
        super().__init__(guest, vmm)
        native = self._native
        vectors = native.get_register(GUEST_VCPU, register_ids.VBAR_EL1) or 0
        self._handler = range(vectors + IRQ, vectors + IRQ + 4 * len(handler))
        at = self._handler.start - self._private.gpa
        self._private.raw_data[at : at + len(self._handler)] = memoryview(bare.encoded(handler))
        native.add_gic(GIC)
        for part, number, value in (
            (GicPart.DISTRIBUTOR, 0x0, 0x52),  # GICD_CTLR: ARE, DS, EnableGrp1
            (GicPart.REDISTRIBUTOR, SGI_FRAME + 0x80, _ALL),  # GICR_IGROUPR0
            (GicPart.REDISTRIBUTOR, SGI_FRAME + 0x100, _ALL),  # GICR_ISENABLER0
            (GicPart.INTERFACE, Icc.ICC_PMR_EL1, 0xF8),
            (GicPart.INTERFACE, Icc.ICC_IGRPEN1_EL1, 1),
        ):
            assert native.set_gic(part, GUEST_VCPU, number, value)
        native.set_register(GUEST_VCPU, register_ids.PSTATE, UNMASKED)
        if fires_at is not None:
            native.set_register(GUEST_VCPU, register_ids.TIMER_COMPARE, native.counter() + fires_at)
            native.set_register(GUEST_VCPU, register_ids.TIMER_CONTROL, 1)

    def is_done(self, side: Side) -> bool:
        if side is Side.GUEST:
            pc = self._native.get_register(GUEST_VCPU, register_ids.PC)
            return pc not in self._handler and super().is_done(side)
        return super().is_done(side)

    def is_local(self, _: Side) -> bool:
        return False


@dataclass
class Own:
    """A world and its start."""

    world: World
    start: Saved

    @property
    def lengths(self) -> tuple[int, int]:
        """Return how many instructions of guest and VMM are executed when each is alone."""
        return self._length(Side.GUEST), self._length(Side.VMM)

    def _length(self, side: Side) -> int:
        self.world.restore(self.start)
        length, fault = 0, None
        while fault is None and not self.world.is_done(side):
            length += 1
            fault = self.world.step(side)
        self.world.restore(self.start)
        return length

    def look(self, world: World) -> Reading:
        return own_reading(world)


@contextmanager
def own(
    guest: Sequence[int], vmm: Sequence[int], mode: TagCheckMode = TagCheckMode.SYNC
) -> Iterator[Own]:
    """Give a world in which both sides stand before their first instruction."""
    world = World(GuestCode("own", tuple(guest)), own_code(tuple(vmm), mode))
    try:
        yield Own(world, world.save())
    finally:
        world.close()


@contextmanager
def interrupted(
    guest: Sequence[int], vmm: Sequence[int], handler: Sequence[int], fires_at: int | None
) -> Iterator[Own]:
    """Give a world as own() does, whose guest is interrupted."""
    code = GuestCode("interrupted", tuple(guest)), own_code(tuple(vmm), TagCheckMode.SYNC)
    world = InterruptedWorld(*code, handler, fires_at)
    try:
        yield Own(world, world.save())
    finally:
        world.close()
