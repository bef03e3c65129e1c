"""Run rubbish as guest code between pages that must never be touched.

    python -m tests.support.fuzz_interpreter --seed 1 --rounds 50 [--library FILE]

RAM and tags lie between inaccessible pages, so that the first byte read or written outside
ends this process by SIGSEGV; the test looks at how the process ended. Devices, interrupts, the GIC
with states that make no sense, timers and debug registers take part, drawn as the code is.
`--library` is a build with a sanitiser (native/toolchain.py).
"""

import argparse
import ctypes
import mmap
import random
import struct
from pathlib import Path

from tagalong._native import InterpreterExit, library, load
from tagalong.machine import register_ids
from tagalong.machine.gic import Icc
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA
from tagalong.soft.native import StopReason
from tests.support import bare
from tests.support.oracle_draw import Draw

PAGE = mmap.PAGESIZE
STEPS = 3000
UART = 0x0900_0000
GICD, GICR = 0x0800_0000, 0x080A_0000
SPIS = 960
ICC = tuple(map(int, Icc)) + tuple(
    register_ids.sysreg(3, 0, 12, crm, op2) & 0xFFFF for crm in (8, 11, 12) for op2 in range(8)
)
TIMERS = (
    register_ids.TIMER_CONTROL,
    register_ids.TIMER_COMPARE,
    register_ids.PTIMER_CONTROL,
    register_ids.PTIMER_COMPARE,
    register_ids.PTIMER_COUNT,
)


class Guarded:
    """`size` bytes with an inaccessible page on either side."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (base, base + PAGE + size):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.address = base + PAGE

    def fill(self, offset: int, contents: bytes) -> None:
        ctypes.memmove(self.address + offset, contents, len(contents))


def random_word(rng: random.Random) -> int:
    """Mostly loads and stores, SIMD and system instructions, with some of everything."""
    word = rng.getrandbits(32)
    kind = rng.random()
    if kind < 0.5:
        return word & ~0x0A000000 | 0x08000000  # loads and stores
    if kind < 0.6:
        return word & 0x003FFFFF | 0xD5000000  # system
    if kind < 0.65:
        return word & 0x00DFFFFF | 0xD9200000  # tags in memory
    if kind < 0.7:
        return 0xD5000000 | word & 1 << 21 | rng.choice(ICC) << 5 | word & 0x1F
    if kind < 0.85:
        return word | 0x0E000000  # SIMD and floating point
    return word


def interesting_address(rng: random.Random) -> int:
    edges = (RAM_GPA, RAM_GPA + bare.RAM_BYTES, bare.DATA, UART, UART + 0x1000, 0, 1 << 48, 1 << 63)
    frames = (GICD, GICR, GICR + 0x1_0000, GICR + 0x2_0000, GICR + 0x3_0000)
    edge = rng.choice(edges)
    if rng.random() < 0.2:
        edge = rng.choice(frames) + 4 * rng.randrange(0x4000)
    return (edge + rng.randint(-600, 600)) & (1 << 64) - 1 | rng.choice(
        (0, rng.getrandbits(4) << 56)
    )


def debug_registers(rng: random.Random) -> dict[int, int]:
    """Return breakpoints and watchpoints, mostly enabled, somewhere in what the code uses."""
    drawn: dict[int, int] = {register_ids.sysreg(2, 0, 0, 2, 2): 0xA000 | rng.getrandbits(1)}
    for number in range(4):
        control = rng.getrandbits(64) | 0x1FE7
        address = rng.choice((bare.CODE, bare.DATA, UART)) + rng.randrange(4096)
        drawn[register_ids.sysreg(2, 0, 0, number, 4)] = address & ~3
        drawn[register_ids.sysreg(2, 0, 0, number, 5)] = control & 0x00FF_E1E7
        drawn[register_ids.sysreg(2, 0, 0, number, 6)] = interesting_address(rng) & ~3
        drawn[register_ids.sysreg(2, 0, 0, number, 7)] = control & 0x1F1F_FFFF
    return drawn


def run_round(native: ctypes.CDLL, rng: random.Random, data: Guarded, tags: Guarded) -> int:
    machine = native.ta_machine_new(2, rng.getrandbits(64))
    assert (
        native.ta_machine_add_ram(machine, RAM_GPA, bare.RAM_BYTES, data.address, tags.address) == 0
    )
    assert native.ta_machine_add_mmio(machine, UART, 0x1000) == 0
    if rng.random() < 0.8:
        assert native.ta_machine_add_gic(machine, GICD, GICR, SPIS) == 0
    words = [random_word(rng) for _ in range(1024)]
    data.fill(0x2000, struct.pack("<1024I", *words))
    table = [rng.getrandbits(64) if rng.random() < 0.2 else 0x40000701 for _ in range(512)]
    table[:2] = [0x40000000 | 0x701 | rng.randrange(3) << 2, 0x40000000 | 0x701]
    if rng.random() < 0.7:  # where the devices are: Device, Normal or Tagged memory
        table[0] = 0x401 | rng.randrange(3) << 2
    data.fill(0x1000, struct.pack("<512Q", *table))
    registers = {
        register_ids.MAIR_EL1: bare.MAIR,
        register_ids.TCR_EL1: rng.choice((bare.TCR, rng.getrandbits(64))),
        register_ids.TTBR0_EL1: bare.TABLES,
        register_ids.TTBR1_EL1: interesting_address(rng),
        register_ids.VBAR_EL1: bare.CODE & ~0x7FF,
        register_ids.CPACR_EL1: (3 if rng.random() < 0.9 else rng.randrange(4)) << 20,
        register_ids.SCTLR_EL1: bare.sctlr(rng.choice(list(TagCheckMode))) & ~(rng.random() < 0.3),
        register_ids.PC: bare.CODE + 4 * rng.randrange(1024),
        **(debug_registers(rng) if rng.random() < 0.3 else {}),
    }
    for vcpu in range(2):
        native.ta_vcpu_set_power(machine, vcpu, 1)
        for register, value in registers.items():
            set_register(native, machine, vcpu, register, value)
        for number in range(31):
            set_register(native, machine, vcpu, register_ids.x(number), interesting_address(rng))
        set_fp_registers(native, machine, vcpu, rng)
    done = run_machine(native, machine, rng)
    native.ta_machine_free(machine)
    return done


def set_register(native: ctypes.CDLL, machine: int, vcpu: int, register: int, value: int) -> None:
    native.ta_vcpu_set(machine, vcpu, register, value.to_bytes(8, "little"), 8)


def set_fp_registers(native: ctypes.CDLL, machine: int, vcpu: int, rng: random.Random) -> None:
    """Set V0 to V31 and FPCR to what the oracle's programs start from."""
    draw = Draw(rng.getrandbits(64))
    for number in range(32):
        value = b"".join(draw.lanes().to_bytes(8, "little") for _ in range(2))
        native.ta_vcpu_set(machine, vcpu, register_ids.v(number), value, len(value))
    native.ta_vcpu_set(machine, vcpu, register_ids.FPCR, draw.fpcr().to_bytes(4, "little"), 4)


def disturb_gic(native: ctypes.CDLL, machine: int, rng: random.Random) -> None:
    """Move a line, and write to a register of the GIC's state or of a timer."""
    native.ta_gic_set_line(machine, rng.randrange(1024), rng.randrange(2))
    part, number = rng.randrange(6), rng.choice((4 * rng.randrange(0x8000), rng.choice(ICC), 0))
    word = rng.choice((0, 1, 0x50, 0x4B00243B, 0x8400, 0x8600, ~0, rng.getrandbits(32)))
    native.ta_gic_set(machine, part, rng.randrange(3), number, word & (1 << 32) - 1)
    value = native.ta_machine_counter(machine) + rng.randrange(100)
    set_register(native, machine, rng.randrange(2), rng.choice(TIMERS), rng.choice((1, 3, value)))


def run_machine(native: ctypes.CDLL, machine: int, rng: random.Random) -> int:
    leave = InterpreterExit()
    for _ in range(STEPS // 50):
        vcpu = rng.randrange(2)
        native.ta_vcpu_set_interrupt(machine, vcpu, rng.randrange(2), int(rng.random() < 0.2))
        if rng.random() < 0.5:
            disturb_gic(native, machine, rng)
        native.ta_machine_run(machine, 50, ctypes.byref(leave))
        if leave.reason == StopReason.MMIO:
            answer = native.ta_machine_complete_mmio
            while answer(machine, leave.vcpu, rng.getrandbits(64), ctypes.byref(leave)):
                pass
        elif leave.reason == StopReason.IDLE:
            native.ta_machine_advance(machine, min(leave.idle_ticks, 1000))
        elif leave.reason == StopReason.UNSUPPORTED:
            pc = bare.CODE + 4 * rng.randrange(1024)
            set_register(native, machine, leave.vcpu, register_ids.PC, pc)
    return sum(native.ta_vcpu_instructions(machine, vcpu) for vcpu in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--library", type=Path)
    arguments = parser.parse_args()
    native = load(arguments.library) if arguments.library else library()
    rng = random.Random(arguments.seed)
    data, tags = Guarded(bare.RAM_BYTES), Guarded(bare.RAM_BYTES // 32)
    print(sum(run_round(native, rng, data, tags) for _ in range(arguments.rounds)))


if __name__ == "__main__":
    main()
