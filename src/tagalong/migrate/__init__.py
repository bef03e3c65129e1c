"""Moves a running machine over a channel: the wire protocol joined with the machine.

address       tcp:HOST:PORT and unix:PATH
channel       sockets in which no wait is without an end
link          records over a channel
digest        one value for all memory and tags
page_sender   pages out, page_taker pages in
precopy       rounds, convergence when to stop
monitor       progress and cancellation
report        what it cost
source        sends a machine away; destination takes one in
"""

from tagalong.migrate.address import Address, TcpAddress, UnixAddress, parse_address
from tagalong.migrate.channel import Channel, Listener, connect, listen
from tagalong.migrate.destination import (
    Arrival,
    MachineBuilder,
    TakeOver,
    receive,
    receive_from,
    resume_if_it_ran,
)
from tagalong.migrate.digest import memory_digest
from tagalong.migrate.link import Timeouts
from tagalong.migrate.monitor import CancelToken, ProgressCallback
from tagalong.migrate.report import (
    DowntimeParts,
    MigrationReport,
    Progress,
    RoundReport,
    Stage,
)
from tagalong.migrate.source import MigrationOptions, migrate, migrate_to

__all__ = [
    "Address",
    "Arrival",
    "CancelToken",
    "Channel",
    "DowntimeParts",
    "Listener",
    "MachineBuilder",
    "MigrationOptions",
    "MigrationReport",
    "Progress",
    "ProgressCallback",
    "RoundReport",
    "Stage",
    "TakeOver",
    "TcpAddress",
    "Timeouts",
    "UnixAddress",
    "connect",
    "listen",
    "memory_digest",
    "migrate",
    "migrate_to",
    "parse_address",
    "receive",
    "receive_from",
    "resume_if_it_ran",
]
