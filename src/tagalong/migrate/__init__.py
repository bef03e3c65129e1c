"""Moves a running machine over a channel: the wire protocol joined with the machine.

source        sends a machine away, in phases that share a session; destination receives one
setup         the first phase; precopy, rounds of pages; switchover, the VM changes hands
convergence   when to stop the guest
filling       what a destination receives until PREPARE; takeover, who may end it then
acceptance    finds the source among all connections; joining, accepts further ones
reconnection  how a source gets back to its destination
endpoint      both ends of every kind of address; keeper, the peer where none answers
link          records over a channel; timeouts, how long each wait lasts
prepare       memory made ready while a destination waits
steering      an operator's changes under way; cancellation, an operator's order to stop
report        what it cost; options, what was asked for
transport/    addresses, sockets, TLS, files, commands
pages/        pages between guest RAM and the stream
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.errors import MigrationStage
    from tagalong.migrate.convergence import AutoConverge
    from tagalong.migrate.destination import (
        Arrival,
        MachineBuilder,
        TakeOver,
        receive,
        receive_from,
        resume_if_it_ran,
    )
    from tagalong.migrate.endpoint import connect, listen
    from tagalong.migrate.options import MigrationOptions, require_possible
    from tagalong.migrate.pages.compression import (
        MAX_COMPRESSION_LEVEL,
        MIN_COMPRESSION_LEVEL,
        Compression,
        CompressionMode,
        parse_compression,
    )
    from tagalong.migrate.pages.digest import memory_digest
    from tagalong.migrate.prepare import Preparation
    from tagalong.migrate.report import (
        DowntimeParts,
        MigrationReport,
        RoundReport,
        SendProgress,
    )
    from tagalong.migrate.source import migrate, migrate_to
    from tagalong.migrate.steering import Steering
    from tagalong.migrate.takeover import EndOrder
    from tagalong.migrate.timeouts import Timeouts
    from tagalong.migrate.transport.address import (
        Address,
        ExecAddress,
        FdAddress,
        FileAddress,
        TcpAddress,
        UnixAddress,
        parse_address,
    )
    from tagalong.migrate.transport.channel import Channel
    from tagalong.migrate.transport.connector import is_one_way
    from tagalong.migrate.transport.inherited import DESCRIPTORS
    from tagalong.migrate.transport.listener import Listener, SocketListener
    from tagalong.migrate.transport.tls import TlsCredentials
    from tagalong.progress import CancelToken, ProgressCallback
    from tagalong.wire.limits import MAX_CHANNELS, MAX_RECONNECT_S
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.errors": ("MigrationStage",),
            "tagalong.migrate.convergence": ("AutoConverge",),
            "tagalong.migrate.destination": (
                "Arrival",
                "MachineBuilder",
                "TakeOver",
                "receive",
                "receive_from",
                "resume_if_it_ran",
            ),
            "tagalong.migrate.endpoint": ("connect", "listen"),
            "tagalong.migrate.timeouts": ("Timeouts",),
            "tagalong.migrate.options": ("MigrationOptions", "require_possible"),
            "tagalong.migrate.pages.compression": (
                "MAX_COMPRESSION_LEVEL",
                "MIN_COMPRESSION_LEVEL",
                "Compression",
                "CompressionMode",
                "parse_compression",
            ),
            "tagalong.migrate.pages.digest": ("memory_digest",),
            "tagalong.migrate.prepare": ("Preparation",),
            "tagalong.migrate.report": (
                "DowntimeParts",
                "MigrationReport",
                "RoundReport",
                "SendProgress",
            ),
            "tagalong.migrate.source": ("migrate", "migrate_to"),
            "tagalong.migrate.steering": ("Steering",),
            "tagalong.migrate.takeover": ("EndOrder",),
            "tagalong.migrate.transport.address": (
                "Address",
                "ExecAddress",
                "FdAddress",
                "FileAddress",
                "TcpAddress",
                "UnixAddress",
                "parse_address",
            ),
            "tagalong.migrate.transport.channel": ("Channel",),
            "tagalong.migrate.transport.connector": ("is_one_way",),
            "tagalong.migrate.transport.inherited": ("DESCRIPTORS",),
            "tagalong.migrate.transport.listener": ("Listener", "SocketListener"),
            "tagalong.migrate.transport.tls": ("TlsCredentials",),
            "tagalong.progress": ("CancelToken", "ProgressCallback"),
            "tagalong.wire.limits": ("MAX_CHANNELS", "MAX_RECONNECT_S"),
        },
    )

__all__ = [
    "DESCRIPTORS",
    "MAX_CHANNELS",
    "MAX_COMPRESSION_LEVEL",
    "MAX_RECONNECT_S",
    "MIN_COMPRESSION_LEVEL",
    "Address",
    "Arrival",
    "AutoConverge",
    "CancelToken",
    "Channel",
    "Compression",
    "CompressionMode",
    "DowntimeParts",
    "EndOrder",
    "ExecAddress",
    "FdAddress",
    "FileAddress",
    "Listener",
    "MachineBuilder",
    "MigrationOptions",
    "MigrationReport",
    "MigrationStage",
    "Preparation",
    "ProgressCallback",
    "RoundReport",
    "SendProgress",
    "SocketListener",
    "Steering",
    "TakeOver",
    "TcpAddress",
    "Timeouts",
    "TlsCredentials",
    "UnixAddress",
    "connect",
    "is_one_way",
    "listen",
    "memory_digest",
    "migrate",
    "migrate_to",
    "parse_address",
    "parse_compression",
    "receive",
    "receive_from",
    "require_possible",
    "resume_if_it_ran",
]
