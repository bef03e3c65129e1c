"""`tagalong explain` on a Linux guest that runs: a fault that is handled, and a system call's."""

from pathlib import Path

import pytest

from tagalong.explain.analysis import explain
from tagalong.explain.crash import CheckMode, CrashWorld
from tagalong.explain.explanation import Cause, Explanation
from tagalong.explain.readers import open_crashes
from tests.support.held_guest import FIRST, SECOND, held_guest
from tests.support.vm_processes import until, vm_process

PAGE = 4096


def looked_at(control: Path) -> list[Explanation]:
    with open_crashes(control) as crashes:
        return [
            explain(crash)
            for crash in crashes
            if crash.fault.mode is CheckMode.SYNC and crash.fault.address is not None
        ]


@pytest.mark.timeout(600)
def test_faults_in_a_linux_guest_are_explained_by_its_control_socket(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *held_guest(tmp_path)) as vm:
        vm.wait_for_console("held: holds still", 2)
        found: dict[bool, Explanation] = {}

        def look() -> bool:
            # The timer can have either vCPU in the kernel at this moment.
            for answer in looked_at(vm.control):
                found["handles" in answer.crash.fault.reason] = answer
            return len(found) == 2

        until(look, "both faults")

    handled, called = found[True], found[False]
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
