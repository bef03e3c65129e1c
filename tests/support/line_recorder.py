"""A TCP server that notes when each line of each of its connections came."""

import time
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler

from tests.support.tcp_server import TcpServer


@dataclass(frozen=True)
class RecordedLine:
    """A line, and the host's monotonic clock when it was there."""

    text: str
    time_s: float


@dataclass
class RecordedConnection:
    """A connection: the client's address, what came, and whether it has ended."""

    client: str
    lines: list[RecordedLine] = field(default_factory=list)
    has_ended: bool = False


class LineRecorder(TcpServer):
    """Serves at `port` of all addresses of this host within a `with` block."""

    def __init__(self) -> None:
        super().__init__("", self._record)
        self.connections: list[RecordedConnection] = []

    def of(self, client: str) -> list[RecordedConnection]:
        """Return the connections of a client, in the order in which they came."""
        return [each for each in self.connections if each.client == client]

    def _record(self, connection: StreamRequestHandler) -> None:
        recorded = RecordedConnection(str(connection.client_address[0]))
        self.connections.append(recorded)
        try:
            for line in connection.rfile:
                text = line.decode("ascii", "replace").rstrip("\n")
                recorded.lines.append(RecordedLine(text, time.monotonic()))
        except ConnectionError:
            pass
        finally:
            recorded.has_ended = True
