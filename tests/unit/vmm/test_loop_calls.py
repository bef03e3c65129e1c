"""Calls to a loop that is not there yet, and a VM that begins before it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tagalong.vmm import launch
from tagalong.vmm.loop_calls import LoopCalls
from tagalong.vmm.options import NewVm, RunOptions
from tests.support.fake_machine import FakeMachine, describe

TOLD_TO_END_WHILE_IT_BEGINS = """
import os, signal, sys
from tagalong.vmm.launch import run_vm
from tagalong.vmm.options import NewVm, RunOptions

def announce(message):
    said.append(message)
    if message.startswith("access:"):  # the machine is just made
        assert "asyncio" not in sys.modules
        os.kill(os.getpid(), signal.SIGTERM)

said = []
before = signal.getsignal(signal.SIGTERM)
status = run_vm(RunOptions(NewVm("churn"), machine="soft", console="null"), announce)
print(status, signal.getsignal(signal.SIGTERM) is before)
"""


def test_what_is_called_before_there_is_a_loop_is_called_in_order_once_there_is_one() -> None:
    calls, called = LoopCalls(), list[str]()
    calls.call_soon(lambda: called.append("early"))
    thread = threading.Thread(target=calls.call_soon, args=(lambda: called.append("elsewhere"),))
    thread.start()
    thread.join()
    before = list(called)

    async def loop() -> None:
        calls.attach()
        calls.call_soon(lambda: called.append("late"))
        while len(called) < 3:
            await asyncio.sleep(0)

    asyncio.run(loop())

    assert (before, called) == ([], ["early", "elsewhere", "late"])


def test_serve_makes_calls_in_order_until_it_is_over_and_needs_no_loop() -> None:
    calls, called = LoopCalls(), list[str]()
    thread = threading.Timer(0.01, calls.call_soon, args=(lambda: called.append("elsewhere"),))
    calls.call_soon(lambda: called.append("early"))
    thread.start()

    calls.serve(lambda: len(called) == 2)

    assert called == ["early", "elsewhere"]


def test_serve_takes_calls_of_a_signal_that_comes_while_it_waits() -> None:
    calls, called = LoopCalls(), list[str]()
    before = signal.signal(signal.SIGUSR2, lambda *_: calls.call_soon(lambda: called.append("it")))
    sender = threading.Timer(0.05, os.kill, args=(os.getpid(), signal.SIGUSR2))
    sender.start()
    try:
        calls.serve(lambda: bool(called))
    finally:
        signal.signal(signal.SIGUSR2, before)
        sender.join()

    assert called == ["it"]


def test_serve_logs_a_call_that_raises_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    calls, called = LoopCalls(), list[str]()

    def fail() -> None:
        raise AssertionError("this must not be")

    calls.call_soon(fail)
    calls.call_soon(lambda: called.append("it"))

    calls.serve(lambda: bool(called))

    assert "this must not be" in caplog.text


class Unclosable(FakeMachine):
    """A machine whose end its host objects to."""

    def close(self) -> None:
        super().close()
        raise OSError("no")


def test_machine_that_cannot_be_closed_leaves_no_control_socket(tmp_path: Path) -> None:
    control = tmp_path / "control"
    options = RunOptions(NewVm("churn"), machine="soft", console="null", control=control)
    process = launch._VmProcess(options, lambda _: None)
    process._vm.create(Unclosable(describe(0x1_0000)))
    process._create_socket()
    assert control.exists()

    with pytest.raises(OSError, match="no"):
        process._release()

    assert not control.exists()


def test_a_call_to_a_closed_loop_raises() -> None:
    async def loop() -> LoopCalls:
        return LoopCalls.of_running_loop()

    calls = asyncio.run(loop())

    with pytest.raises(RuntimeError, match="closed"):
        calls.call_soon(lambda: None)


def test_a_vm_that_is_told_to_end_before_there_is_a_loop_ends_in_order() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TOLD_TO_END_WHILE_IT_BEGINS],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (ran.stdout, ran.returncode) == ("143 True\n", 0), ran.stderr
