"""A TCP server of this host that answers each line, for guests that reach it over a network."""

from socketserver import StreamRequestHandler

from tests.support.tcp_server import TcpServer


class AnsweringServer(TcpServer):
    """Serves at `port` of 127.0.0.1 within a `with` block; `lines` are those that came."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", self._answer)
        self.lines: list[str] = []

    def _answer(self, connection: StreamRequestHandler) -> None:
        line = connection.rfile.readline().decode("ascii", "replace").strip()
        self.lines.append(line)
        connection.wfile.write(f"answer to {line}\n".encode())
