"""A TCP server of this host with a thread per connection."""

import socketserver
import threading
from collections.abc import Callable
from typing import Self

Serve = Callable[[socketserver.StreamRequestHandler], None]


class TcpServer:
    """Serves at `port` of `host` within a `with` block; `serve` is called with each connection.

    A connection may outlive the block.
    """

    def __init__(self, host: str, serve: Serve) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                serve(self)

        self._server = socketserver.ThreadingTCPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
