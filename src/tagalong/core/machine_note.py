"""The vendor note: the machine that a core is of, in the form of the migration stream's records.

docs/formats/core.md, section 4, is normative.
"""

from dataclasses import dataclass

import xxhash

from tagalong import wire
from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.core.space import Space
from tagalong.errors import UsageError
from tagalong.machine import MachineDescription, MachineState
from tagalong.machine_records import (
    description_of_record,
    record_of_description,
    record_of_state,
    state_of_record,
)
from tagalong.wire.codec import decode_payload, encode_payload

VERSION = 3
"""What is written; its machine is in the form of the stream's version 4."""

_STREAM_VERSIONS = {1: 2, 2: 3, VERSION: 4}
"""For each version of the note, the version of the stream whose records it holds."""

MACHINE_NOTE = Layout(
    ("version", "u32"),
    ("space", "u32"),
    ("vcpu", "u32"),
    ("running", "u32"),
    ("machine_bytes", "u32"),
    ("state_bytes", "u32"),
    ("checksum", "u64"),
)
# Of `running`, besides 0 and 1: the guest ran while its memory was read.
_TORN = 2
_CHECKED_BYTES = MACHINE_NOTE.offsets["checksum"]


@dataclass(frozen=True)
class CoreNotes:
    """What a core says about its machine besides memory and tags.

    `vcpu` is whose translation tables were walked for a virtual `space` (0 otherwise);
    `running` says whether the guest ran when the core was asked for. `vmcoreinfo`: the text of a
    Linux guest's VMCOREINFO, which goes into a note of its own; None if there is none. `is_torn`:
    the guest ran on while its memory was read, so pages are of different moments.
    """

    description: MachineDescription
    state: MachineState
    space: Space = Space.PHYSICAL
    vcpu: int = 0
    running: bool = False
    vmcoreinfo: bytes | None = None
    is_torn: bool = False


def encode_machine_note(notes: CoreNotes) -> bytes:
    """Return the vendor note's description.

    Raises UsageError for a machine or a state that the format cannot hold.
    """
    try:
        machine = encode_payload(record_of_description(notes.description))
        state = encode_payload(record_of_state(notes.state))
    except MalformedError as error:
        raise UsageError(f"this machine cannot be written to a core: {error}") from error
    if len(notes.state.vcpus) != notes.description.vcpu_count:
        raise UsageError(
            f"a state of {len(notes.state.vcpus):#x} vCPUs for a machine of "
            f"{notes.description.vcpu_count:#x}"
        )
    if (notes.state.gic is None) != (notes.description.gic is None):
        raise UsageError("one of the machine and its state has a GIC, the other has none")
    head = {
        "version": VERSION,
        "space": notes.space,
        "vcpu": notes.vcpu,
        "running": _TORN if notes.is_torn else int(notes.running),
        "machine_bytes": len(machine),
        "state_bytes": len(state),
    }
    unchecked = MACHINE_NOTE.pack(**head, checksum=0)
    return MACHINE_NOTE.pack(**head, checksum=_checksum(unchecked, machine + state)) + (
        machine + state
    )


def _checksum(head: Buffer, payload: Buffer) -> int:
    state = xxhash.xxh3_64(memoryview(head)[:_CHECKED_BYTES])
    state.update(payload)
    return int(state.intdigest())


def decode_machine_note(content: Buffer) -> CoreNotes:
    """Return what a vendor note says: the inverse of `encode_machine_note`.

    Raises MalformedError, its offset counted from the start of the note's description.
    """
    head = MACHINE_NOTE.unpack(content)
    if head["version"] not in _STREAM_VERSIONS:
        known = ", ".join(f"{version:#x}" for version in _STREAM_VERSIONS)
        raise MalformedError(
            f"the machine note has version {head['version']:#x}, this release of tagalong "
            f"reads {known}"
        )
    payload = memoryview(content)[MACHINE_NOTE.size :]
    expected = head["machine_bytes"] + head["state_bytes"]
    if len(payload) != expected:
        raise MalformedError(
            f"machine and state take {expected:#x} bytes, but {len(payload):#x} follow",
            offset=MACHINE_NOTE.offsets["machine_bytes"],
        )
    if _checksum(content, payload) != head["checksum"]:
        raise MalformedError(
            "the machine note's checksum is wrong: it was damaged",
            offset=MACHINE_NOTE.offsets["checksum"],
        )
    return _decode_payload(head, payload)


def _decode_payload(head: dict[str, int], payload: memoryview) -> CoreNotes:
    for name, limit in (("space", max(Space)), ("running", _TORN)):
        if head[name] > limit:
            raise MalformedError(
                f"{name} is {head[name]:#x}, possible are 0x0 to {limit:#x}",
                offset=MACHINE_NOTE.offsets[name],
            )
    cut = head["machine_bytes"]
    version = _STREAM_VERSIONS[head["version"]]
    machine = _decode(wire.RecordType.MACHINE, payload[:cut], version, MACHINE_NOTE.size)
    state = _decode(wire.RecordType.STATE, payload[cut:], version, MACHINE_NOTE.size + cut)
    assert isinstance(machine, wire.MachineRecord)  # noqa: S101 (what was asked for)
    assert isinstance(state, wire.StateRecord)  # noqa: S101
    vcpus = machine.vcpu_count
    if head["vcpu"] >= vcpus:
        raise MalformedError(
            f"vcpu is {head['vcpu']:#x}, the machine has {vcpus:#x} vCPUs",
            offset=MACHINE_NOTE.offsets["vcpu"],
        )
    if len(state.vcpus) != vcpus:
        raise MalformedError(
            f"a state of {len(state.vcpus):#x} vCPUs for a machine of {vcpus:#x}",
            offset=MACHINE_NOTE.size + cut,
        )
    if (state.gic is None) != (machine.gic is None):
        raise MalformedError(
            "one of the machine and its state has a GIC, the other has none",
            offset=MACHINE_NOTE.size + cut,
        )
    return CoreNotes(
        description_of_record(machine),
        state_of_record(state),
        Space(head["space"]),
        head["vcpu"],
        bool(head["running"]),
        is_torn=head["running"] == _TORN,
    )


def _decode(kind: wire.RecordType, payload: memoryview, version: int, base: int) -> wire.Record:
    try:
        return decode_payload(kind, payload, version)
    except MalformedError as error:
        raise MalformedError(str(error), offset=base + error.offset) from error
