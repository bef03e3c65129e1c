"""Asks an emulator for proof that it keeps a tag for each granule, before it is believed."""

import json
from collections.abc import Sequence

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab.granules import NO_MTE
from tagalong.lab.machine import Streams, System, run
from tagalong.lab.qemu import MachineOptions

_SCRIPT = "exec python3 /lab/granules.py"
_TIMEOUT_S = 120.0
_GRANULE_BYTES = 16


def check_tags(system: System) -> int:
    """Boot `system`, tag every granule of one page in it, and read the tags back.

    Returns the number of granules. Raises SelfCheckError if a tag is not what was written,
    or if there is no MTE in it; LabSetupError if the check cannot run; what `run` raises if the
    machine is lost.
    """
    out, complaints = bytearray(), bytearray()
    streams = Streams(out.extend, complaints.extend)
    status = run(system, _SCRIPT, MachineOptions(timeout_s=_TIMEOUT_S), streams)
    if status == NO_MTE:
        raise SelfCheckError(f"QEMU {system.qemu.version} emulates no MTE: {_words(complaints)}")
    if status != 0:
        raise LabSetupError(
            f"the self-check cannot run in the lab, status {status}: {_words(complaints)}"
        )
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


def _words(complaints: bytearray) -> str:
    return complaints.decode(errors="replace").strip() or "it said nothing"
