"""What only a real process has: threads, signals, handlers of others."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tagalong.access import STRATEGIES, CallFlags, Hazard, Routine, View, tagged_addr_ctrl
from tagalong.access.host import SEGV_MAPERR, SEGV_MTESERR
from tagalong.errors import HostError
from tagalong.mte.registers import TagCheckMode
from tests.support.access_bench import Bench

pytestmark = pytest.mark.lab


def test_prctl_is_the_calling_thread_s_own(bench: Bench) -> None:
    bench.fill(2, 1)
    address = bench.host.address(View.TAGGED, bench.at(2), 64)
    got: dict[str, object] = {}

    def look(name: str, mode: TagCheckMode) -> None:
        bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
        barrier.wait()
        buffer = np.zeros(64, np.uint8)
        fault = bench.host.call(Routine.COPY, buffer.ctypes.data, address, 64).fault
        barrier.wait()
        got[name] = fault and fault.code

    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=look, args=args)
        for args in (("checked", TagCheckMode.SYNC), ("unchecked", TagCheckMode.NONE))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert got == {"checked": SEGV_MTESERR, "unchecked": None}


def test_faults_in_many_threads_at_once_stay_apart(bench: Bench) -> None:
    wrong = []

    def fault_often(first: int) -> None:
        buffer = np.zeros(64, np.uint8)
        for number in range(first, first + 300):
            result = bench.host.call(
                Routine.SP_LOAD, buffer.ctypes.data, number * 64, 64, flags=CallFlags.STACK_APART
            )
            if result.fault is None or result.fault.address != number * 64:
                wrong.append((number, result))

    threads = [threading.Thread(target=fault_often, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


ENOUGH = 200


@contextmanager
def many_signals() -> Iterator[list[int]]:
    """Have a signal come all the time; yield the list that its handler fills."""
    seen: list[int] = []
    old = signal.signal(signal.SIGPROF, lambda number, _: seen.append(number))
    signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)  # by CPU time; pytest needs SIGALRM
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        time.sleep(0.05)  # the last one may be under way
        signal.signal(signal.SIGPROF, old)


def test_signals_wait_while_sp_is_in_guest_memory_and_change_none_of_it(bench: Bench) -> None:
    data, _ = bench.fill(0, 64)
    strategy = bench.strategy("sp")
    got = np.zeros(len(data), np.uint8)
    with many_signals() as seen:
        while len(seen) < ENOUGH:
            assert strategy.read(bench.gpa, got) is None
            assert got.tobytes() == data

    assert bench.data(bench.gpa, len(data)) == data


def test_fault_in_a_thread_that_blocks_all_signals_is_a_value(bench: Bench) -> None:
    got = []

    def fault() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        buffer = np.zeros(64, np.uint8)
        for flags in (CallFlags.NONE, CallFlags.STACK_APART, CallFlags.CHECKS_OFF):
            result = bench.host.call(Routine.COPY, buffer.ctypes.data, 0x40, 64, flags=flags)
            got.append(result.fault and result.fault.code)
        got.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before)

    thread = threading.Thread(target=fault)
    thread.start()
    thread.join()

    assert got == [SEGV_MAPERR, SEGV_MAPERR, SEGV_MAPERR, True]


def test_signal_mask_and_alternate_stack_are_put_back(bench: Bench) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGBUS})
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), alternate_stack()
    buffer = np.zeros(64, np.uint8)

    for address in (0x40, bench.host.address(View.TAGGED, bench.gpa, 64)):
        bench.host.call(
            Routine.SP_LOAD, buffer.ctypes.data, address, 64, flags=CallFlags.STACK_APART
        )

    after = signal.pthread_sigmask(signal.SIG_BLOCK, ()), alternate_stack()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert before == after


def alternate_stack() -> tuple[int, int, int]:
    """Return this thread's sigaltstack."""

    class Stack(ctypes.Structure):
        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.sp or 0, stack.flags, stack.size


def test_tco_survives_a_signal_in_the_middle_of_a_copy(bench: Bench) -> None:
    """The kernel clears TCO in a handler and gives it back: or the rest would fault."""
    data, _ = bench.fill(0, 64)
    strategy = bench.strategy("tco")
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(TagCheckMode.SYNC))
    got = np.zeros(len(data), np.uint8)
    with many_signals() as seen:
        while len(seen) < ENOUGH:
            assert strategy.read(bench.gpa, got) is None

    assert got.tobytes() == data


@pytest.mark.parametrize("name", STRATEGIES)
def test_tags_are_set_while_the_dirty_log_is_on_unless_the_hazard_says_no(
    fresh: Bench, name: str
) -> None:
    _, packed = fresh.fill(2, 1)
    strategy = fresh.strategy(name)
    fresh.machine.start_dirty_log()

    def attempt() -> str | None:
        try:
            assert strategy.write_tags(fresh.at(2), packed[::-1].copy()) is None
        except HostError as error:
            return str(error)
        return None

    said = attempt()

    hazard = Hazard.NOT_WHILE_LOGGED in strategy.hazards
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert (said is None) == (not hazard or release < (6, 2))
    if said is not None:
        assert said.startswith("KVM_ARM_MTE_COPY_TAGS(")
        assert "EBUSY" in said
        fresh.machine.write_tags(fresh.at(2), packed[::-1].copy())  # suspends the log meanwhile
    fresh.machine.stop_dirty_log()
    np.testing.assert_array_equal(fresh.machine.read_tags(fresh.at(2), fresh.page), packed[::-1])


def test_handler_that_somebody_installed_later_does_not_get_our_faults(bench: Bench) -> None:
    was_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.enable(nowhere)
        try:
            buffer = np.zeros(64, np.uint8)
            fault = bench.host.call(Routine.COPY, buffer.ctypes.data, 0, 64).fault
        finally:
            faulthandler.disable()
    if was_enabled:
        faulthandler.enable()

    assert fault is not None
    assert fault.code == SEGV_MAPERR


@pytest.mark.parametrize("with_faulthandler", [False, True])
def test_fault_of_others_still_ends_the_process(with_faulthandler: bool) -> None:
    program = """
        import ctypes, faulthandler, sys
        from tests.support.access_bench import native_bench
        from tagalong.access import Routine
        if sys.argv[1] == "True":
            faulthandler.enable()
        bench = native_bench()
        assert bench.host.call(Routine.COPY, 0x40, 0x40, 64).fault is not None
        print("caught", flush=True)
        ctypes.string_at(0x50, 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(with_faulthandler)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == -signal.SIGSEGV
    assert done.stdout == "caught\n"
    assert ("Fatal Python error: Segmentation fault" in done.stderr) == with_faulthandler
