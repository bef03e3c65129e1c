"""A TCP server that notes when each line of each of its connections came."""

import socketserver
import threading
import time
from dataclasses import dataclass, field
from typing import Self


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


class LineRecorder:
    """Serves at `port` of all addresses of this host within a `with` block."""

    def __init__(self) -> None:
        self.connections: list[RecordedConnection] = []
        connections = self.connections

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                connection = RecordedConnection(str(self.client_address[0]))
                connections.append(connection)
                try:
                    for line in self.rfile:
                        text = line.decode("ascii", "replace").rstrip("\n")
                        connection.lines.append(RecordedLine(text, time.monotonic()))
                except ConnectionError:
                    pass
                finally:
                    connection.has_ended = True

        self._server = socketserver.ThreadingTCPServer(("", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False  # a connection may outlive what is looked at
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever)

    def of(self, client: str) -> list[RecordedConnection]:
        """Return the connections of a client, in the order in which they came."""
        return [each for each in self.connections if each.client == client]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
