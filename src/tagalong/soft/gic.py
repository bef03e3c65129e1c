"""The embedded machine's GICv3: its inputs, and its state in the form of `machine/gic.py`.

The interrupt controller itself is native (native/cpu/gic.h), its frames included: a guest's access
to them changes which interrupt the interpreter takes next, so it is carried out there and then,
and never leaves as the accesses to devices do.
"""

from collections.abc import Callable, Iterator

from tagalong.machine import GicDescription, GicState
from tagalong.machine.gic import (
    FIRST_SPI,
    REDISTRIBUTOR,
    SPIS_PER_WORD,
    Icc,
    cpu_interface_registers,
    distributor_registers,
    gic_objections,
)
from tagalong.soft.native import GicPart, NativeMachine

_Place = tuple[GicPart, int, int]


class SoftGic:
    """The GIC of one machine; called while no vCPU runs, but for `set_line`.

    `wake` is called when a line has changed, from the thread that changed it.
    """

    def __init__(
        self,
        native: NativeMachine,
        description: GicDescription,
        vcpu_count: int,
        wake: Callable[[], None],
    ) -> None:
        """Add it to the interpreter. Raises UsageError, HostError."""
        native.add_gic(description)
        self._native = native
        self._description = description
        self._vcpu_count = vcpu_count
        self._wake = wake
        self._lines: dict[int, bool] = {}

    def set_line(self, intid: int, level: bool) -> None:
        """Follow a device's line; from any thread."""
        self._lines[intid] = level
        self._native.set_line(intid, level=level)
        self._wake()

    def reset(self) -> None:
        """Become what it is at power-on, with the devices' lines as they are."""
        self._native.reset_gic()

    def save(self) -> GicState:
        """Return the state."""
        vcpus, get = range(self._vcpu_count), self._native.get_gic
        return GicState(
            distributor={
                offset: get(GicPart.DISTRIBUTOR, 0, offset) for offset in self._distributor()
            },
            redistributors=tuple(
                {
                    offset: get(GicPart.REDISTRIBUTOR, vcpu, offset)
                    for group in REDISTRIBUTOR
                    for offset in group.offsets
                }
                for vcpu in vcpus
            ),
            cpu_interfaces=tuple(self._interface(vcpu) for vcpu in vcpus),
            spi_levels=tuple(
                get(GicPart.SPI_LEVELS, 0, word)
                for word in range(self._description.spi_count // SPIS_PER_WORD)
            ),
            ppi_levels=tuple(get(GicPart.PPI_LEVELS, vcpu, 0) for vcpu in vcpus),
        )

    def objections(self, state: GicState | None) -> Iterator[str]:
        """Yield why load() must not be called with `state`; nothing has changed afterwards."""
        malformed = list(gic_objections(state, self._description, self._vcpu_count))
        if malformed or state is None:
            yield from malformed
            return
        before = self.save()
        yield from self._write(state)
        self.load(before)

    def load(self, state: GicState) -> None:
        """Take over a state to which there are no objections.

        The devices must have been loaded: the levels of their lines are theirs to say.
        """
        for _ in self._write(state):
            pass

    def _distributor(self) -> Iterator[int]:
        for group in distributor_registers(self._description.spi_count):
            yield from group.offsets

    def _interface(self, vcpu: int) -> dict[int, int]:
        ctlr = self._native.get_gic(GicPart.INTERFACE, vcpu, Icc.ICC_CTLR_EL1)
        registers = cpu_interface_registers(ctlr)
        return {each: self._native.get_gic(GicPart.INTERFACE, vcpu, each) for each in registers}

    def _with_lines(self, word: int, levels: int) -> int:
        """Return a word of a state's levels, with those of the devices' lines as they are now."""
        first = FIRST_SPI + SPIS_PER_WORD * word
        for intid, level in self._lines.items():
            if first <= intid < first + SPIS_PER_WORD:
                bit = 1 << (intid - first)
                levels = levels | bit if level else levels & ~bit
        return levels

    def _write(self, state: GicState) -> Iterator[str]:
        """Write all registers; yield the names of those whose values are rejected."""
        for name, (part, index, number), value in self._registers(state):
            if not self._native.set_gic(part, index, number, value):
                yield f"the GIC rejects {name} = {value:#x}"

    def _registers(self, state: GicState) -> Iterator[tuple[str, _Place, int]]:
        for vcpu, redistributor in enumerate(state.redistributors):
            for group in REDISTRIBUTOR:
                for offset in group.offsets:
                    name = f"{group.name_of(offset)} of vCPU {vcpu}"
                    yield name, (GicPart.REDISTRIBUTOR, vcpu, offset), redistributor[offset]
        for group in distributor_registers(self._description.spi_count):
            for offset in group.offsets:
                place = GicPart.DISTRIBUTOR, 0, offset
                yield group.name_of(offset), place, state.distributor[offset]
        for word, levels in enumerate(state.spi_levels):
            place = GicPart.SPI_LEVELS, 0, word
            yield f"levels of SPIs, word {word}", place, self._with_lines(word, levels)
        for vcpu, levels in enumerate(state.ppi_levels):
            place = GicPart.PPI_LEVELS, vcpu, 0
            yield f"levels of PPIs of vCPU {vcpu}", place, levels
        for vcpu, interface in enumerate(state.cpu_interfaces):
            for register in cpu_interface_registers(interface[Icc.ICC_CTLR_EL1]):
                name = f"{register.name} of vCPU {vcpu}"
                yield name, (GicPart.INTERFACE, vcpu, register), interface[register]
