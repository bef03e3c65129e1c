"""`tagalong explain` on a Linux guest: on its cores, and while it runs, by its control socket.

A fault that a handler holds, one that a system call made, and programs that crashed in known ways.
Its kernel, dumped by the kernel's own addresses, is looked at in drgn and gdb.
"""

from pathlib import Path

import pytest

from tagalong.explain.analysis import explain
from tagalong.explain.crash import CheckMode, CrashWorld
from tagalong.explain.explanation import Cause, Explanation
from tagalong.explain.readers import open_crashes
from tests.support.debuggers import gdb
from tests.support.fetch_debuggers import GDB, DebuggerMissingError
from tests.support.held_guest import FIRST, SECOND, held_guest, written_cores
from tests.support.measure import answers
from tests.support.vm_processes import tagalong, until, vm_process

BANNER = b"Linux version 6.12."
PAGE = 4096
SEEDS = (1011, 1014)


def looked_at(control: Path) -> list[Explanation]:
    with open_crashes(control) as crashes:
        return [
            explain(crash)
            for crash in crashes
            if crash.fault.mode is CheckMode.SYNC and crash.fault.address is not None
        ]


@pytest.mark.timeout(600)
def test_faults_and_cores_of_a_linux_guest_are_explained(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *held_guest(tmp_path, SEEDS)) as vm:
        vm.wait_for_console("held: holds still", 2)
        found: dict[bool, Explanation] = {}

        def look() -> bool:
            # The timer can have either vCPU in the kernel at this moment.
            for answer in looked_at(vm.control):
                found["handles" in answer.crash.fault.reason] = answer
            return len(found) == 2

        until(look, "both faults")
        cores = written_cores(tmp_path, vm.console)
        kernel = tmp_path / "kernel.core"
        dumped = tagalong("dump", str(vm.control), str(kernel), "--space", "kernel")

    check_cores(tmp_path, [each.cause for each in cores])
    check_held(found[True], found[False])
    assert dumped.returncode == 0, dumped.stderr
    check_kernel(kernel)


def check_cores(folder: Path, causes: list[str]) -> None:
    """Check the answers to cores that Linux on the embedded machine wrote."""
    said = [*answers([folder])]
    assert len(said) == len(SEEDS)
    assert [each.truth.value for each in said] == causes
    assert all(each.is_right for each in said)


def check_kernel(core: Path) -> None:
    """Require that drgn and gdb read a kernel at its own addresses, by its own names."""
    drgn = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    program = drgn.open_program(core)
    drgn.load_symbols(program)
    address = program.symbol("linux_banner").address

    assert program.read(address, len(BANNER)) == BANNER
    try:
        said = gdb(core, [f"x/s {address:#x}"])
    except DebuggerMissingError as error:
        pytest.skip(f"missing {GDB.program}: {error}")
    assert f'{address:#x}:\t"{BANNER.decode()}' in said


def check_held(handled: Explanation, called: Explanation) -> None:
    """Check the answers to a fault that a handler holds, and to a system call's."""
    top, fault = handled.top, handled.crash.fault
    assert top is not None
    assert (top.cause, top.distance_bytes) == (Cause.OVERFLOW, 4)
    assert top.block is not None
    assert (top.block.start % PAGE, top.block.size_bytes) == (FIRST, SECOND - FIRST)
    assert (fault.pointer_tag, fault.memory_tag) == (3, 5)
    assert handled.crash.access is not None
    assert (handled.crash.access.text or "").startswith("str wzr, [x")
    assert handled.crash.world is called.crash.world is CrashWorld.PROCESS
    fault = called.crash.fault
    assert fault.address is not None
    assert (fault.address % PAGE, fault.pointer_tag, fault.memory_tag) == (SECOND, 9, 5)
    assert "EL1" in fault.reason
    assert called.crash.access is None
