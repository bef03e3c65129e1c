from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tagalong.errors import AddressError, HostError, MachineError
from tagalong.memory import Gpa, Region
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.host.process import (
    CODE_BYTES,
    CODE_VA,
    PLAIN_VA,
    RETURN_VA,
    SCRATCH_VA,
    STACK_TOP_VA,
    TAGGED_VA,
    VECTORS_VA,
    ExceptionClass,
    Process,
)
from tagalong.soft.native import NativeMachine
from tests.support import a64, bare

RAM = Gpa(0x4000_0000)


@contextmanager
def process(words: list[int]) -> Iterator[tuple[Process, Region]]:
    native = NativeMachine(1, 0)
    region = Region.create(RAM, 0x10000)
    native.add_ram(region)
    made = Process(native, 0, [region], bare.encoded(words), 4096)
    try:
        yield made, region
    finally:
        native.close()
        made.close()
        region.close()


def test_function_gets_its_arguments_and_a_stack_and_returns() -> None:
    words = [a64.pair(a64.STP_X, a64.PAIR_PRE, 0, 7, a64.SP, -16), a64.ldr(0, a64.SP, 8), a64.ret()]
    with process(words) as (made, _):
        made.enter(CODE_VA, range(8))
        trap = made.run()

        assert trap.is_return
        assert made.x(0) == 7
        assert made.stack_pointer == STACK_TOP_VA - 16
        assert not made.take_async_fault()


def test_step_executes_one_instruction() -> None:
    with process([a64.movz(0, 5), a64.ret()]) as (made, _):
        made.enter(CODE_VA, ())
        entered = [made.step() for _ in range(2)]

        assert (entered, made.pc, made.x(0)) == ([False, False], RETURN_VA, 5)
        assert made.step()
        assert made.in_kernel
        assert made.trap().is_return


@pytest.mark.parametrize(
    ("word", "argument", "exception", "status"),
    [
        (a64.ldr(0, 0), 0x40, ExceptionClass.DATA_ABORT, 0x06),
        (a64.ldr(0, 0), VECTORS_VA, ExceptionClass.DATA_ABORT, 0x0F),
        (a64.str_(0, 0), CODE_VA, ExceptionClass.DATA_ABORT, 0x0F),
        (a64.br(0), SCRATCH_VA, ExceptionClass.INSTRUCTION_ABORT, 0x0F),
        (a64.br(0), TAGGED_VA + RAM, ExceptionClass.INSTRUCTION_ABORT, 0x0F),
        (a64.br(0), VECTORS_VA, ExceptionClass.INSTRUCTION_ABORT, 0x0F),
        (a64.br(0), CODE_VA + 2, ExceptionClass.PC_ALIGNMENT, 0),
        (a64.ldxr(3, 1, 0), SCRATCH_VA + 1, ExceptionClass.DATA_ABORT, 0x21),
        (a64.udf(), 0, ExceptionClass.UNKNOWN, 0),
        (a64.hvc(), 0, ExceptionClass.UNKNOWN, 0),
        (a64.mrs(0, a64.SCTLR_EL1), 0, ExceptionClass.UNKNOWN, 0),
        (a64.brk(), 0, ExceptionClass.BREAKPOINT, 0),
        (a64.svc(), 0, ExceptionClass.SVC, 0),
    ],
)
def test_process_is_confined_to_what_linux_would_give_it(
    word: int, argument: int, exception: ExceptionClass, status: int
) -> None:
    with process([word]) as (made, _):
        made.enter(CODE_VA, (argument,))
        trap = made.run()

    assert (trap.exception_class, trap.fault_status) == (exception, status)
    assert not trap.is_return


@pytest.mark.parametrize("mode", list(TagCheckMode))
def test_tagged_mapping_is_checked_as_the_mode_says_and_the_plain_one_never(
    mode: TagCheckMode,
) -> None:
    results = {}
    for base in (PLAIN_VA, TAGGED_VA):
        with process([a64.str_(1, 0), a64.ret()]) as (made, region):
            region.raw_tags[0] = 0x66
            made.set_tag_check_mode(mode)
            made.enter(CODE_VA, (base + RAM, 1))
            trap = made.run()
            results[base] = trap.is_return, made.take_async_fault(), int(region.data[0])

    assert results[PLAIN_VA] == (True, False, 1)
    assert (
        results[TAGGED_VA]
        == {
            TagCheckMode.NONE: (True, False, 1),
            TagCheckMode.SYNC: (False, False, 0),
            TagCheckMode.ASYNC: (True, True, 1),
            TagCheckMode.ASYMMETRIC: (True, True, 1),
        }[mode]
    )


def test_tags_are_reached_through_the_tagged_mapping_alone() -> None:
    words = [a64.ldg(2, 0), a64.ldg(3, 1), a64.stg(4, 1), a64.ret()]
    with process(words) as (made, region):
        region.raw_tags[0] = 0x66
        made.enter(CODE_VA, (TAGGED_VA + RAM, PLAIN_VA + RAM, 0, 0, bare.tagged(0, 9)))
        made.run()

        assert (made.x(2), made.x(3), int(region.tags[0])) == (bare.tagged(0, 6), 0, 0x66)


def test_forbidden_page_takes_a_permission_fault_in_both_mappings_and_its_neighbours_do_not() -> (
    None
):
    faults = []
    for base in (PLAIN_VA, TAGGED_VA):
        for page in (0, 1, 2):
            with process([a64.ldr(1, 0), a64.ret()]) as (made, _):
                made.enter(CODE_VA, (base + RAM + 0x1000,))
                made.run()  # the TLB has it now
                made.forbid(Gpa(RAM + 0x1000), 0x1000)
                made.enter(CODE_VA, (base + RAM + page * 0x1000,))
                trap = made.run()
                faults.append(trap.fault_status if not trap.is_return else None)

    assert faults == [None, 0x0F, None] * 2


def test_code_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagalong.soft.host.process._BUDGET", 1000)
    with process([a64.b(0)]) as (made, _):
        made.enter(CODE_VA, ())
        with pytest.raises(MachineError, match="host code at 0x400000 does not end: BUDGET"):
            made.run()


def test_word_outside_the_code_is_no_instruction() -> None:
    with process([a64.ret()]) as (made, _):
        words = [made.word(va) for va in (CODE_VA, CODE_VA - 4, CODE_VA + CODE_BYTES, 1 << 60)]

    assert words == [a64.ret(), 0, 0, 0]


def test_too_much_code_and_ram_out_of_reach_are_refused() -> None:
    native = NativeMachine(1, 0)
    far = Region.create(Gpa(PLAIN_VA), 0x1000)

    with pytest.raises(HostError, match="0x10004 bytes of code: at most 0x10000 fit"):
        Process(native, 0, [], bytes(CODE_BYTES + 4), 4096)
    with pytest.raises(AddressError, match="guest RAM up to 0x100000001000 does not fit the host"):
        Process(native, 0, [far], b"", 4096)
    native.close()
    far.close()
