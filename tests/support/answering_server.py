"""A TCP server of this host that answers each line, for guests that reach it over a network."""

import socketserver
import threading
from typing import Self


class AnsweringServer:
    """Serves at `port` of 127.0.0.1 within a `with` block; `lines` are those that came."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        lines = self.lines

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode("ascii", "replace").strip()
                lines.append(line)
                self.wfile.write(f"answer to {line}\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
