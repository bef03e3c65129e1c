"""Exceptions that vCPUs are still to take, as a device's state.

They are rare, so the state has this device only when there are any; another kind of
machine, which cannot make an SError pending, then refuses it by its name.
"""

import struct
from collections.abc import Sequence
from typing import Final

from tagalong.errors import StateError
from tagalong.kvm.abi import kvm_vcpu_events

DEVICE: Final = "kvm-pending-exceptions"

Events = kvm_vcpu_events

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<II")
_VCPU: Final = struct.Struct("<BBB5xQ")


def save(events: Sequence[Events]) -> dict[str, bytes]:
    """Return the device's state by its name, or nothing if no exception is pending."""
    rows = [
        (
            each.exception.serror_pending,
            each.exception.serror_has_esr,
            each.exception.ext_dabt_pending,
            each.exception.serror_esr,
        )
        for each in events
    ]
    if not any(pending or abort for pending, _, abort, _ in rows):
        return {}
    body = b"".join(_VCPU.pack(*row) for row in rows)
    return {DEVICE: _HEAD.pack(_VERSION, len(rows)) + body}


def objection(state: bytes | None, vcpu_count: int) -> str:
    """Return why load() would reject a state, "" if it would not."""
    expected = _HEAD.pack(_VERSION, vcpu_count)
    length = _HEAD.size + _VCPU.size * vcpu_count
    if state is None or (state[: _HEAD.size] == expected and len(state) == length):
        return ""
    return (
        f"{DEVICE} state of {len(state)} bytes that begins with {state[: _HEAD.size].hex()}: "
        f"expected version {_VERSION} for {vcpu_count} vCPUs"
    )


def load(state: bytes | None, vcpu_count: int) -> list[Events]:
    """Return each vCPU's exceptions. Raises StateError for what save() did not write."""
    if text := objection(state, vcpu_count):
        raise StateError(text)
    events = [Events() for _ in range(vcpu_count)]
    if state is None:
        return events
    for each, row in zip(events, _VCPU.iter_unpack(state[_HEAD.size :]), strict=True):
        exception = each.exception
        exception.serror_pending, exception.serror_has_esr = row[0], row[1]
        exception.ext_dabt_pending, exception.serror_esr = row[2], row[3]
    return events
