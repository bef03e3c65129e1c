"""A fault in the middle of a strategy is a value, and all that was switched is as before."""

import numpy as np
import pytest

from tagalong.access import (
    STRATEGIES,
    CallFlags,
    Fault,
    Host,
    Routine,
    Strategy,
    View,
    tagged_addr_ctrl,
)
from tagalong.access.host import (
    PSTATE_TCO,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SEGV_MTEAERR,
    SEGV_MTESERR,
    SIGSEGV,
)
from tagalong.errors import HostError
from tagalong.mte.registers import TagCheckMode
from tests.support.access_bench import Bench

NAMES = list(STRATEGIES)
LENGTH = 3  # pages; the second one is broken


def state(host: Host) -> tuple[int, int]:
    """Return PSTATE.TCO and the prctl of this thread."""
    return host.call(Routine.GET_TCO).value, host.get_tagged_addr_ctrl()


def attempt(strategy: Strategy, bench: Bench, *, writes: bool) -> Fault | str | None:
    array = np.zeros(LENGTH * bench.page, np.uint8)
    try:
        return (strategy.write if writes else strategy.read)(bench.at(2), array)
    except HostError as error:
        return str(error)


@pytest.mark.parametrize("mode", [TagCheckMode.SYNC, TagCheckMode.ASYNC])
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("name", NAMES)
def test_fault_in_the_middle_leaves_nothing_switched(
    fresh: Bench, name: str, writes: bool, mode: TagCheckMode
) -> None:
    fresh.fill(2, LENGTH)
    strategy = fresh.strategy(name)  # first: one mapping alone gets its rights anew for PROT_MTE
    fresh.break_page(3)
    fresh.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
    before = state(fresh.host)

    first = attempt(strategy, fresh, writes=writes)
    second = attempt(strategy, fresh, writes=writes)

    assert state(fresh.host) == before
    assert isinstance(first, str) == (name == "kernel")
    if isinstance(first, Fault):
        assert (first.signal, first.code) == (SIGSEGV, SEGV_ACCERR)
        assert any(start <= first.address < start + 64 for start in fresh.places(3))
        assert first == second
    else:
        assert first == second
        assert first is not None
        assert first.endswith(("failed: Bad address", "failed: Input/output error"))


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_fault_finds_switched_what_the_strategy_says(fresh: Bench, writes: bool) -> None:
    """So that the test above undoes something."""
    fresh.fill(2, LENGTH)
    broken = fresh.host.address(View.TAGGED, fresh.at(3), fresh.page)
    fresh.break_page(3)
    fresh.host.set_tagged_addr_ctrl(tagged_addr_ctrl(TagCheckMode.SYNC))
    strategies = {name: STRATEGIES[name](fresh.host) for name in NAMES}
    faults = {name: attempt(each, fresh, writes=writes) for name, each in strategies.items()}

    found = {name: fault for name, fault in faults.items() if isinstance(fault, Fault)}

    assert {name for name, fault in found.items() if fault.sp == broken} == {"sp"}
    assert {name for name, fault in found.items() if fault.pstate & PSTATE_TCO} == {"tco"}
    assert found.keys() >= {"tco", "prctl", "sp", "match"}


@pytest.mark.parametrize("tco", [0, PSTATE_TCO])
@pytest.mark.parametrize("name", NAMES)
def test_tco_of_the_caller_stays(fresh: Bench, name: str, tco: int) -> None:
    fresh.fill(2, LENGTH)
    strategy = fresh.strategy(name)
    fresh.break_page(3)
    fresh.host.set_tagged_addr_ctrl(tagged_addr_ctrl(TagCheckMode.SYNC))
    fresh.host.call(Routine.SET_TCO, tco)

    attempt(strategy, fresh, writes=False)
    after = fresh.host.call(Routine.GET_TCO).value
    fresh.host.call(Routine.SET_TCO, 0)

    assert after == tco


@pytest.mark.parametrize(
    ("routine", "flags"),
    [
        (Routine.COPY, CallFlags.NONE),
        (Routine.COPY, CallFlags.STACK_APART),
        (Routine.MATCH_LOAD, CallFlags.NONE),
        (Routine.SP_LOAD, CallFlags.STACK_APART),
        (Routine.SP_LOAD, CallFlags.STACK_APART | CallFlags.CHECKS_OFF),
        (Routine.READ_TAGS, CallFlags.NONE),
    ],
)
def test_routine_that_meets_no_memory_at_all_returns_it_as_a_value(
    bench: Bench, routine: Routine, flags: CallFlags
) -> None:
    before = state(bench.host)
    buffer = np.zeros(64, np.uint8)
    with bench.host.borrow(buffer) as mine:
        fault = bench.host.call(routine, mine, 0x40, 64, flags=flags).fault

    assert fault is not None
    assert (fault.signal, fault.code, fault.address) == (SIGSEGV, SEGV_MAPERR, 0x40)
    assert str(fault) == "SEGV_MAPERR at 0x40"
    assert not fault.is_tag_check
    assert state(bench.host) == before


@pytest.mark.parametrize("mode", [TagCheckMode.SYNC, TagCheckMode.ASYNC])
def test_tag_check_fault_in_the_middle_of_a_copy_ends_it_there(
    bench: Bench, mode: TagCheckMode
) -> None:
    data, packed = bench.fill(2, 1)
    packed[: 512 // 32] = 0  # 512 bytes that a pointer with tag 0 may read
    bench.machine.write_tags(bench.at(2), packed)
    address = bench.host.address(View.TAGGED, bench.at(2), bench.page)
    got = np.zeros(1024, np.uint8)
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
    before = state(bench.host)

    with bench.host.borrow(got) as mine:
        fault = bench.host.call(Routine.COPY, mine, address, 1024).fault

    assert fault is not None
    assert got[:512].tobytes() == data[:512]
    if mode is TagCheckMode.SYNC:
        assert (fault.code, fault.address) == (SEGV_MTESERR, address + 512)
        assert not got[512:].any()
    else:
        assert (fault.code, fault.address) == (SEGV_MTEAERR, 0)
    assert state(bench.host) == before


def test_fault_names_the_instruction(bench: Bench) -> None:
    from tagalong.access.routines import load_blob  # noqa: PLC0415

    blob = load_blob()
    with bench.host.borrow(np.zeros(64, np.uint8)) as mine:
        fault = bench.host.call(Routine.COPY, mine, 0, 64).fault

    start = blob.offsets[Routine.COPY]
    assert fault is not None
    assert start <= fault.pc < start + blob.sizes[Routine.COPY]
