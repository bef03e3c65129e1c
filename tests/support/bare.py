"""A machine with a few instructions in it, the MMU on and the vectors in place.

RAM is identity mapped with 1 GiB blocks: Normal Tagged at RAM_GPA, Device below it. An
exception ends in a loop at its vector, where tests find it.
"""

import time
from collections.abc import Callable, Sequence

from tagalong.machine import Machine, RegisterId, register_ids
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA, SoftMachine
from tests.support import a64

VECTORS = RAM_GPA + 0x800
TABLES = RAM_GPA + 0x1000
CODE = RAM_GPA + 0x2000
DATA = RAM_GPA + 0x10000
RAM_BYTES = 1 << 20

CURRENT_EL_VECTOR = VECTORS + 0x200

SCTLR_MMU = 0x30D01805 & ~(1 << 3)
SCTLR_ATA = 1 << 43
SCTLR_ATA0 = 1 << 42
TCR = 32 | 32 << 16 | 1 << 23 | 5 << 32 | 1 << 37 | 1 << 38
MAIR = 0xFF00F0
GCR = 0x10001

_BLOCK_TAGGED = 0x40000000 | 1 << 10 | 3 << 8 | 0 << 2 | 1
_BLOCK_DEVICE = 0x00000000 | 1 << 10 | 1 << 2 | 1
BLOCKS = (_BLOCK_DEVICE, _BLOCK_TAGGED)


def sctlr(mode: TagCheckMode) -> int:
    return SCTLR_MMU | SCTLR_ATA | mode.value << 40


def machine_with(
    words: Sequence[int],
    *,
    mode: TagCheckMode = TagCheckMode.SYNC,
    vcpu_count: int = 1,
    seed: int = 0,
    console: Callable[[bytes], None] | None = None,
) -> SoftMachine:
    """Return a paused machine whose vCPU 0 is about to execute `words`, at CODE."""
    machine = SoftMachine.create(
        ram_bytes=RAM_BYTES, vcpu_count=vcpu_count, seed=seed, console=console
    )
    prepare(machine, words, mode)
    return machine


def prepare(
    machine: Machine,
    words: Sequence[int],
    mode: TagCheckMode = TagCheckMode.SYNC,
    handler: Sequence[int] = (a64.b(0),),
) -> None:
    """Put tables, vectors and `words` into a paused machine and set vCPU 0 before them.

    `handler` is what every exception runs.
    """
    memory = machine.memory
    for vector in range(VECTORS, VECTORS + 0x800, 0x80):
        memory.write(Gpa(vector), encoded(handler))
    for index, entry in enumerate(BLOCKS):
        memory.write(Gpa(TABLES + 8 * index), entry.to_bytes(8, "little"))
    memory.write(Gpa(CODE), encoded(words))
    enable(machine, 0, mode)


def encoded(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def enable(machine: Machine, vcpu: int, mode: TagCheckMode) -> None:
    """Give a vCPU the tables, the vectors and the checking mode, and set it at CODE."""
    values: dict[RegisterId, int] = {
        register_ids.MAIR_EL1: MAIR,
        register_ids.TCR_EL1: TCR,
        register_ids.TTBR0_EL1: TABLES,
        register_ids.VBAR_EL1: VECTORS,
        register_ids.GCR_EL1: GCR,
        register_ids.SCTLR_EL1: sctlr(mode),
        register_ids.SP_EL1: RAM_GPA + RAM_BYTES,
        register_ids.PSTATE: 0x3C5,
        register_ids.PC: CODE,
    }
    for register, value in values.items():
        machine.vcpus[vcpu].set_register(register, value)


def set_x(machine: Machine, values: dict[int, int], vcpu: int = 0) -> None:
    for number, value in values.items():
        machine.vcpus[vcpu].set_register(register_ids.x(number), value)


def get_x(machine: Machine, number: int, vcpu: int = 0) -> int:
    return machine.vcpus[vcpu].get_register(register_ids.x(number))


def get(machine: Machine, register: RegisterId, vcpu: int = 0) -> int:
    return machine.vcpus[vcpu].get_register(register)


def tagged(address: int, tag: int) -> int:
    return address | tag << 56


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until a running guest has come so far."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the guest made no progress"
        time.sleep(0.001)
