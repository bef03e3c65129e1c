"""Generates the oracle's random programs: reproducible from kind and seed alone."""

from collections.abc import Sequence

from tests.support.oracle_draw import Draw
from tests.support.oracle_forms_data import (
    BRANCHES,
    DATA_PROCESSING,
    SYSTEM,
    Form,
    counted_loop,
)
from tests.support.oracle_forms_memory import ATOMICS, LOADS_AND_STORES, MTE
from tests.support.oracle_layout import MAX_PROGRAM_WORDS, SLOTS, slot_address
from tests.support.oracle_program import Program

CHUNKS = 70
_LOOP_PERCENT = 2

# kind -> weights of the groups of forms, in percent.
KINDS: dict[str, tuple[tuple[Sequence[Form], int], ...]] = {
    "data": ((DATA_PROCESSING, 88), (BRANCHES, 10), (SYSTEM, 2)),
    "memory": ((LOADS_AND_STORES, 70), (DATA_PROCESSING, 15), (MTE, 10), (SYSTEM, 5)),
    "atomics": ((ATOMICS, 75), (DATA_PROCESSING, 10), (MTE, 10), (SYSTEM, 5)),
    "tags": ((MTE, 65), (LOADS_AND_STORES, 20), (SYSTEM, 5), (DATA_PROCESSING, 10)),
    "mixed": (
        (MTE, 30),
        (LOADS_AND_STORES, 25),
        (ATOMICS, 12),
        (DATA_PROCESSING, 20),
        (BRANCHES, 8),
        (SYSTEM, 5),
    ),
}


def generate(kind: str, seed: int, slot: int = 0) -> Program:
    """Return the program that `kind` and `seed` stand for, made for `slot`."""
    draw = Draw(f"{kind} {seed}")
    draw.privileged = bool(draw.bits(1))
    state = draw.state()
    groups = [forms for forms, _ in KINDS[kind]]
    weights = [weight for _, weight in KINDS[kind]]
    chunks: list[tuple[int, ...]] = []
    size = 0
    draw.pc = slot_address(slot)
    for forms in draw.choices(groups, weights, k=CHUNKS):
        chunk = tuple(_chunk(draw, forms))
        size += len(chunk)
        if size > MAX_PROGRAM_WORDS:
            break
        chunks.append(chunk)
        draw.pc += 4 * len(chunk)
    return Program(f"{kind} seed {seed}", tuple(chunks), state, draw.privileged)


def batch(kind: str, first_seed: int, count: int = SLOTS) -> list[Program]:
    """Return `count` programs with successive seeds, one for each slot from 0 on."""
    return [generate(kind, first_seed + slot, slot) for slot in range(count)]


def _chunk(draw: Draw, forms: Sequence[Form]) -> list[int]:
    chunk = draw.pick(forms)(draw)
    if forms is BRANCHES or not draw.chance(_LOOP_PERCENT):
        return chunk
    return counted_loop(draw, chunk)
