"""How fast the embedded machine runs its speed guest: tagged accesses, tag stores, doubles."""

import re
import time

from tagalong.boot import boot_guest, guest_image_path
from tagalong.machine import RunState
from tagalong.soft import SoftMachine

MODES = {
    "tagged loads and stores": "",
    "tag stores (STG, ST2G)": "mode=stg",
    "floating point": "mode=fp",
}
_RAM_BYTES = 16 << 20


def million_instructions_per_second(mode: str, iterations: int = 10_000_000) -> float:
    """Run the guest `speed` once in `mode` ("" or one of MODES) and return its rate.

    In processor time, so that other load on the host does not count.
    """
    output = bytearray()
    machine = SoftMachine.create(ram_bytes=_RAM_BYTES, console=output.extend)
    image = guest_image_path("speed").read_bytes()
    boot_guest(machine, image, command_line=f"iterations={iterations} {mode}".strip())
    began = time.process_time()
    machine.resume()
    state = machine.wait(120)
    duration = time.process_time() - began
    machine.close()
    counted = re.search(rb"instructions=(\d+)", output)
    if state is not RunState.SHUTDOWN or counted is None:
        raise SystemExit(f"the speed guest did not finish: {state.value}, {bytes(output)!r}")
    return int(counted[1]) / duration / 1e6
