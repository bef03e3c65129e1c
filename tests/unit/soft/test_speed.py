"""The floor under the interpreter's speed, in processor time: other load does not count."""

import re
import time

import pytest

from tagalong.boot import boot_guest, guest_image_path
from tagalong.machine import RunState
from tagalong.soft import SoftMachine

FLOOR = 50e6  # instructions a second
ITERATIONS = 5_000_000


@pytest.mark.parametrize(("mode", "floor"), [("", FLOOR), ("mode=stg", FLOOR / 2)])
def test_speed_guest_runs_above_the_floor(mode, floor) -> None:
    output = bytearray()
    machine = SoftMachine.create(ram_bytes=16 << 20, console=output.extend)
    image = guest_image_path("speed").read_bytes()
    boot_guest(machine, image, command_line=f"iterations={ITERATIONS} {mode}".strip())

    began = time.process_time()
    machine.resume()
    state = machine.wait(60)
    used = time.process_time() - began
    machine.close()

    counted = re.search(rb"instructions=(\d+)", output)
    assert state is RunState.SHUTDOWN
    assert counted is not None
    assert int(counted[1]) / used > floor
