"""An HTTP server of this host for scans: it sends at once, by drops, in part, or nothing."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

DROP_S: Final = 0.2


@dataclass
class WebServer:
    """`pages` by name. A page is sent at once; a name that begins with "slow" in `drops` parts,
    one that begins with "stalled" only in half, and the connection stays; `stalls` counts these.
    """

    url: str
    pages: dict[str, bytes] = field(default_factory=dict)
    drops: int = 1
    stalls: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    web: WebServer

    def do_HEAD(self) -> None:
        self._head(self._page())

    def do_GET(self) -> None:
        page = self._page()
        self._head(page)
        if page is None:
            return
        with suppress(OSError):  # a client that was ended
            self._send(page)

    def _page(self) -> bytes | None:
        return self.web.pages.get(self.path.lstrip("/"))

    def _head(self, page: bytes | None) -> None:
        self.send_response(200 if page is not None else 404)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()

    def _send(self, page: bytes) -> None:
        if self.path.startswith("/stalled"):
            self.web.stalls += 1
            self.wfile.write(page[: len(page) // 2])
            self.wfile.flush()
            self.web.is_over.wait()
        elif self.path.startswith("/slow"):
            size = -(-len(page) // self.web.drops)
            for at in range(0, len(page), size):
                self.wfile.write(page[at : at + size])
                self.wfile.flush()
                time.sleep(DROP_S)
        else:
            self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Serve for a `with` block."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = WebServer(f"http://127.0.0.1:{server.server_address[1]}")
    Handler.web = web
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield web
    finally:
        web.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent_server() -> Iterator[int]:
    """Accept connections and say nothing, for a `with` block; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in held:
                each.close()
