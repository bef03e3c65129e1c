"""Asks an emulator for proof that it keeps a tag for each granule, before it is believed."""

import json
from collections.abc import Sequence

from tagalong.errors import SelfCheckError
from tagalong.lab.machine import Streams, System, run
from tagalong.lab.qemu import MachineOptions

_SCRIPT = "exec python3 /lab/granules.py"
_TIMEOUT_S = 120.0
_GRANULE_BYTES = 16


def check_tags(system: System) -> int:
    """Boot `system`, tag every granule of one page in it, and read the tags back.

    Returns the number of granules. Raises SelfCheckError if a tag is not what was written,
    or if there is no MTE in it; what `run` raises if the machine is lost.
    """
    out, complaints = bytearray(), bytearray()
    streams = Streams(out.extend, complaints.extend)
    status = run(system, _SCRIPT, MachineOptions(timeout_s=_TIMEOUT_S), streams)
    if status != 0:
        said = complaints.decode(errors="replace").strip()
        raise SelfCheckError(f"QEMU {system.qemu.version}: tags cannot be stored at all: {said}")
    answer = json.loads(out)
    compare(answer["written"], answer["read"], system.qemu.version)
    return len(answer["written"])


def compare(written: Sequence[int], read: Sequence[int], version: str) -> None:
    """Raise SelfCheckError unless all granules of a page read back what was written."""
    wrong = [i for i, pair in enumerate(zip(written, read, strict=True)) if pair[0] != pair[1]]
    if wrong:
        first = wrong[0]
        raise SelfCheckError(
            f"QEMU {version} keeps allocation tags wrongly: {len(wrong)} of the {len(written)} "
            f"granules of a page read back another tag than was written, the first at "
            f"{first * _GRANULE_BYTES:#x} (wrote {written[first]:#x}, read {read[first]:#x}); "
            "before 8.0, QEMU is known for that"
        )
