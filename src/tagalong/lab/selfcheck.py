"""Checks that an emulator stores one tag per granule before the lab uses it."""

import json
from collections.abc import Sequence

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab.boot import LabImage, Streams, run
from tagalong.lab.granules import NO_MTE
from tagalong.lab.qemu import EmulatorOptions

_SCRIPT = "exec python3 /lab/granules.py"
_TIMEOUT_S = 120.0
_GRANULE_BYTES = 16


def check_tags(system: LabImage) -> int:
    """Boot `system`, tag every granule of one page in it, and read the tags back.

    Returns the number of granules. Raises SelfCheckError if a tag differs from the one written
    or if the emulator has no MTE, LabSetupError if the check cannot run, and the errors of `run`.
    """
    out, complaints = bytearray(), bytearray()
    streams = Streams(out.extend, complaints.extend)
    status = run(system, _SCRIPT, EmulatorOptions(timeout_s=_TIMEOUT_S), streams)
    if status == NO_MTE:
        raise SelfCheckError(
            f"cannot use QEMU {system.qemu.version}: it does not emulate MTE: {_words(complaints)}"
        )
    if status != 0:
        raise LabSetupError(
            f"cannot run the self-check in the lab: status {status}: {_words(complaints)}"
        )
    answer = json.loads(out)
    compare(answer["written"], answer["read"], system.qemu.version)
    return len(answer["written"])


def compare(written: Sequence[int], read: Sequence[int], version: str) -> None:
    """Raise SelfCheckError unless every granule reads back the tag written to it."""
    wrong = [i for i, pair in enumerate(zip(written, read, strict=True)) if pair[0] != pair[1]]
    if wrong:
        first = wrong[0]
        raise SelfCheckError(
            f"cannot use QEMU {version}: it stores allocation tags wrongly: {len(wrong)} of the "
            f"{len(written)} granules of a page read back a tag other than the one written, the "
            f"first at {first * _GRANULE_BYTES:#x} (wrote {written[first]:#x}, read "
            f"{read[first]:#x}); give QEMU 8.0 or newer"
        )


def _words(complaints: bytearray) -> str:
    return complaints.decode(errors="replace").strip() or "it printed no message"
