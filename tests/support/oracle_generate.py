"""Generates the oracle's random programs: reproducible from kind and seed alone."""

from collections.abc import Sequence
from functools import partial

from tests.support.oracle_draw import Draw
from tests.support.oracle_encodings import fuzz
from tests.support.oracle_forms_data import (
    BRANCHES,
    DATA_PROCESSING,
    SYSTEM,
    Form,
    counted_loop,
)
from tests.support.oracle_forms_fp import FLOATING_POINT
from tests.support.oracle_forms_memory import ATOMICS, LOADS_AND_STORES, MTE
from tests.support.oracle_forms_simd import SIMD
from tests.support.oracle_forms_simd_memory import SIMD_MEMORY
from tests.support.oracle_layout import MAX_PROGRAM_WORDS, SLOTS, slot_address
from tests.support.oracle_program import Program

CHUNKS = 70
ENCODINGS = "encodings"  # the kind whose programs oracle_encodings makes
_LOOP_PERCENT = 2

# kind -> weights of the groups of forms, in percent.
KINDS: dict[str, tuple[tuple[Sequence[Form], int], ...]] = {
    "data": ((DATA_PROCESSING, 88), (BRANCHES, 10), (SYSTEM, 2)),
    "memory": ((LOADS_AND_STORES, 70), (DATA_PROCESSING, 15), (MTE, 10), (SYSTEM, 5)),
    "atomics": ((ATOMICS, 75), (DATA_PROCESSING, 10), (MTE, 10), (SYSTEM, 5)),
    "tags": ((MTE, 65), (LOADS_AND_STORES, 20), (SYSTEM, 5), (DATA_PROCESSING, 10)),
    "float": ((FLOATING_POINT, 96), (DATA_PROCESSING, 3), (BRANCHES, 1)),
    "simd": ((SIMD, 96), (DATA_PROCESSING, 3), (BRANCHES, 1)),
    "vectors": ((SIMD_MEMORY, 75), (SIMD, 10), (MTE, 10), (SYSTEM, 5)),
    "mixed": (
        (MTE, 30),
        (LOADS_AND_STORES, 25),
        (ATOMICS, 12),
        (DATA_PROCESSING, 20),
        (BRANCHES, 8),
        (SYSTEM, 5),
    ),
}


def generate(kind: str, seed: int) -> Program:
    """Return the program that `kind` and `seed` stand for; its slot is seed modulo SLOTS."""
    draw = Draw(f"{kind} {seed}")
    draw.privileged = bool(draw.bits(1))
    state = draw.state()
    groups = [forms for forms, _ in KINDS[kind]]
    weights = [weight for _, weight in KINDS[kind]]
    chunks: list[tuple[int, ...]] = []
    size = 0
    draw.pc = slot_address(seed % SLOTS)
    for forms in draw.choices(groups, weights, k=CHUNKS):
        chunk = tuple(_chunk(draw, forms))
        size += len(chunk)
        if size > MAX_PROGRAM_WORDS:
            break
        chunks.append(chunk)
        draw.pc += 4 * len(chunk)
    return Program(f"{kind} seed {seed}", tuple(chunks), state, draw.privileged)


def batch(kind: str, number: int) -> list[Program]:
    """Return a program for each slot; batch n has the seeds from n * SLOTS on."""
    make = fuzz if kind == ENCODINGS else partial(generate, kind)
    return [make(seed) for seed in range(number * SLOTS, (number + 1) * SLOTS)]


def _chunk(draw: Draw, forms: Sequence[Form]) -> list[int]:
    chunk = draw.pick(forms)(draw)
    if forms is BRANCHES or not draw.chance(_LOOP_PERCENT):
        return chunk
    return counted_loop(draw, chunk)
