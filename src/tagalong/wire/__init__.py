"""The migration stream as values and bytes, sans I/O (docs/formats/stream.md is normative).

    limits          what may be how large
    layout          byte tables
    records         what is said
    planes          batches of pages: heads and runs
    plane_codec     encodings of data and tags
    text            what people read
    foreign         what is no stream of ours
    payload         reading payloads of several parts
    machine         what the destination must provide
    machine_state   registers and devices
    gic             the interrupt controller in both
    codec           headers and all other payloads
    integrity       checksums
    states          the transition table
    conversation    what may be said now
    placement       where the bytes of received batches land
    reader          the incoming stream
    connection      one end: the entry point

No socket, no thread, no clock: tests run both ends in lockstep, and the caller chooses what
carries the bytes.

Private: the stream is public, its codec is not.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.binary.layout import Buffer
    from tagalong.wire.codec import pages_overhead_bytes
    from tagalong.wire.connection import NEED_DATA, Connection, NeedData
    from tagalong.wire.conversation import Joining
    from tagalong.wire.placement import OwnMemory, Placement
    from tagalong.wire.planes import Batch
    from tagalong.wire.records import (
        KNOWN_FEATURES,
        SUPPORTED_FEATURES,
        Abort,
        AbortReason,
        Accept,
        ChannelRecord,
        Commit,
        DeviceEntry,
        Digest,
        EndRecord,
        Feature,
        GicEntry,
        GicStateEntry,
        Held,
        Hello,
        KeepAlive,
        MachineRecord,
        NoBytes,
        Pages,
        Power,
        Prepare,
        Ready,
        Record,
        RecordType,
        RegionEntry,
        Resume,
        Resumed,
        Role,
        Round,
        Run,
        Running,
        Runs,
        StateRecord,
        VcpuEntry,
        Verify,
    )
    from tagalong.wire.states import TRANSITIONS, Phase
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.binary.layout": ("Buffer",),
            "tagalong.wire.codec": ("pages_overhead_bytes",),
            "tagalong.wire.connection": ("NEED_DATA", "Connection", "NeedData"),
            "tagalong.wire.conversation": ("Joining",),
            "tagalong.wire.placement": ("OwnMemory", "Placement"),
            "tagalong.wire.planes": ("Batch",),
            "tagalong.wire.records": (
                "KNOWN_FEATURES",
                "SUPPORTED_FEATURES",
                "Abort",
                "AbortReason",
                "Accept",
                "ChannelRecord",
                "Commit",
                "DeviceEntry",
                "Digest",
                "EndRecord",
                "Feature",
                "GicEntry",
                "GicStateEntry",
                "Held",
                "Hello",
                "KeepAlive",
                "MachineRecord",
                "NoBytes",
                "Pages",
                "Power",
                "Prepare",
                "Ready",
                "Record",
                "RecordType",
                "RegionEntry",
                "Resume",
                "Resumed",
                "Role",
                "Round",
                "Run",
                "Running",
                "Runs",
                "StateRecord",
                "VcpuEntry",
                "Verify",
            ),
            "tagalong.wire.states": ("TRANSITIONS", "Phase"),
        },
    )

__all__ = [
    "KNOWN_FEATURES",
    "NEED_DATA",
    "SUPPORTED_FEATURES",
    "TRANSITIONS",
    "Abort",
    "AbortReason",
    "Accept",
    "Batch",
    "Buffer",
    "ChannelRecord",
    "Commit",
    "Connection",
    "DeviceEntry",
    "Digest",
    "EndRecord",
    "Feature",
    "GicEntry",
    "GicStateEntry",
    "Held",
    "Hello",
    "Joining",
    "KeepAlive",
    "MachineRecord",
    "NeedData",
    "NoBytes",
    "OwnMemory",
    "Pages",
    "Phase",
    "Placement",
    "Power",
    "Prepare",
    "Ready",
    "Record",
    "RecordType",
    "RegionEntry",
    "Resume",
    "Resumed",
    "Role",
    "Round",
    "Run",
    "Running",
    "Runs",
    "StateRecord",
    "VcpuEntry",
    "Verify",
    "pages_overhead_bytes",
]
