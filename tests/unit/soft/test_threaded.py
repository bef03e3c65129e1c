"""Threaded code does, to the bit and to the instruction, what the plain interpreter does."""

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tagalong.machine import register_ids
from tests.support import a64, bare
from tests.support.twin_machines import Twin, random_place, random_program, random_registers

PROGRAMS, STOPS = 5, 150
Twins = tuple[Twin, Twin]


@pytest.fixture
def twins() -> Iterator[Twins]:
    with ExitStack() as undo:
        made = Twin(plain=False), Twin(plain=True)
        for twin in made:
            undo.callback(twin.close)
        yield made


def differences(twins: Twins) -> dict[str, tuple[object, object]]:
    threaded, plain = (twin.outcome() for twin in twins)
    return {name: (threaded[name], plain[name]) for name in plain if threaded[name] != plain[name]}


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_stop_in_the_same_state_wherever_they_are_stopped(
    twins: Twins, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(PROGRAMS):
        program, registers = random_program(rng), random_registers(rng)
        data, tags = rng.randbytes(0x2000), rng.choice((b"\0", rng.randbytes(1))) * 0x100
        for twin in twins:
            twin.begin(program, data, tags, registers)
        for _ in range(STOPS):
            budget, harvest = rng.choice((1, 2, 7, 50, 50, 500)), rng.random() < 0.1
            place = random_place(rng) if rng.random() < 0.7 else None  # or it loops for ever
            for twin in twins:
                twin.run(budget)

            assert not differences(twins), f"seed {seed}, {budget} instructions"

            for twin in twins:
                if harvest:
                    twin.forget_dirty_pages()
                if place is not None:
                    twin.native.set_register(0, register_ids.PC, place)


def begin(twins: Twins, words: list[int], x: dict[int, int] | None = None) -> None:
    rng = random.Random(0)
    registers = random_registers(rng)
    registers[register_ids.PC] = bare.CODE
    for number, value in (x or {}).items():
        registers[register_ids.x(number)] = value
    for twin in twins:
        twin.begin(bare.encoded(words).ljust(0x2000, b"\0"), b"", b"", registers)
        twin.run(10_000)


def test_code_that_changes_the_next_instruction_executes_the_new_one(twins: Twins) -> None:
    words = [
        a64.ldst(a64.STR_W, 1, 2),
        a64.movz(0, 1),  # becomes the word in x1
        a64.b(0),
    ]

    begin(twins, words, {1: a64.movz(0, 2), 2: bare.CODE + 4})

    assert [twin.native.get_register(0, register_ids.x(0)) for twin in twins] == [2, 2]
    assert not differences(twins)


def test_code_that_the_host_changes_is_executed_as_it_is_now(twins: Twins) -> None:
    begin(twins, [a64.movz(0, 1), a64.b(0)])
    for twin in twins:
        twin.put(bare.CODE, bare.encoded([a64.movz(0, 3)]))
        twin.native.set_register(0, register_ids.PC, bare.CODE)
        twin.run(100)

    assert [twin.native.get_register(0, register_ids.x(0)) for twin in twins] == [3, 3]
    assert not differences(twins)


def test_a_branch_to_an_odd_address_is_an_exception_from_there(twins: Twins) -> None:
    begin(twins, [a64.br(1)], {1: 1})

    assert not differences(twins)
