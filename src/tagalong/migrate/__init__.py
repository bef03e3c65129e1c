"""Moves a running machine over a channel: the wire protocol joined with the machine.

address       where to: tcp, unix, fd, exec and file URIs
channel       sockets in which no wait is without an end
tls           who may talk to whom: TLS 1.3 with certificates on both sides
connector     the source's end of an address; listener, the destination's
reception     who is heard at the destination: a source, and nobody else
archive       streams that go one way; sink, descriptor: files, commands, pipes
link          records over a channel
digest        one value for all memory and tags
pump          pages between memory and a socket, in native code
page_sender   pages out; team, over several connections; compression, whether to
page_taker    pages in; door, over further connections; held, what is to be told of them
reach         how a source gets back to its destination; prepare, memory made ready
precopy       rounds, convergence when to stop
monitor       progress and cancellation; steering, an operator's hand on it
report        what it cost; options, what was asked for
source        sends a machine away; destination takes one in
"""

from tagalong.migrate.address import (
    Address,
    ExecAddress,
    FdAddress,
    FileAddress,
    TcpAddress,
    UnixAddress,
    parse_address,
)
from tagalong.migrate.channel import Channel
from tagalong.migrate.compression import (
    MAX_COMPRESSION_LEVEL,
    MIN_COMPRESSION_LEVEL,
    Compression,
    CompressionMode,
    parse_compression,
)
from tagalong.migrate.connector import connect, is_one_way
from tagalong.migrate.convergence import AutoConverge
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
from tagalong.migrate.listener import Listener, SocketListener, listen
from tagalong.migrate.monitor import CancelToken, ProgressCallback
from tagalong.migrate.options import MigrationOptions
from tagalong.migrate.prepare import Preparation
from tagalong.migrate.report import (
    DowntimeParts,
    MigrationReport,
    Progress,
    RoundReport,
    Stage,
)
from tagalong.migrate.source import migrate, migrate_to
from tagalong.migrate.steering import Steering
from tagalong.migrate.tls import TlsCredentials
from tagalong.wire.limits import MAX_CHANNELS, MAX_RECONNECT_S

__all__ = [
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
    "ExecAddress",
    "FdAddress",
    "FileAddress",
    "Listener",
    "MachineBuilder",
    "MigrationOptions",
    "MigrationReport",
    "Preparation",
    "Progress",
    "ProgressCallback",
    "RoundReport",
    "SocketListener",
    "Stage",
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
    "resume_if_it_ran",
]
