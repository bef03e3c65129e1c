"""A VMM's process without KVM, for `tagalong beside` on any host: its QMP, its migration, a guest.

    python -m tests.support.fake_vmm qemu-system-fake [as a QEMU beside tagalong gets them]

What tagalong says to it is what it says to a real QEMU; the library in it is FakeLibrary, over the
socket that it inherits. Its guest changes tags, and looks at all of them once it has moved: it says
on its console what tests/support/beside_scene.py reads. The guest's memory goes to the destination
at the end of its stream, in one piece, and tags with it: to compare with, not to be used.
"""

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.support.fake_tag_server import FakeLibrary

PAGES = 20_000
_TICK_S = 0.05
_PASS_S = 0.02
_DEVICE_S = 0.05
_REPORT_TICKS = 4
_WRITES_PER_TICK = 10
_CHECKED_PER_TICK = 1000

JsonObject = dict[str, object]


class FakeGuest:
    """What runs in it: changes tags while it may, and says so on the console."""

    def __init__(self, library: FakeLibrary, console: Path) -> None:
        self.may_run = False
        self.expected: np.ndarray | None = None  # the tags that it had at the source
        self._library = library
        self._console = console
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        random, ticks = np.random.default_rng(), 0
        while True:
            time.sleep(_TICK_S)
            self._library.running = int(self.may_run and not self._library.held)
            if not self._library.running:
                continue
            self._library.runs += 1
            self._look()
            for page in random.integers(PAGES, size=_WRITES_PER_TICK):
                self._library.guest_writes(int(page), int(random.integers(16)))
            ticks += 1
            if ticks % _REPORT_TICKS == 0:
                checked = ticks * _CHECKED_PER_TICK
                self._say(f"tagkeeper: progress checked={checked} changed={ticks}")

    def _look(self) -> None:
        if self.expected is not None:
            wrong = int((self._library.tags != self.expected).any(axis=1).sum())
            self.expected = None
            if wrong:
                self._say(f"tagkeeper: FAIL {wrong} pages have other tags")

    def _say(self, line: str) -> None:
        with self._console.open("a") as file:
            file.write(f"{line}\n")


class FakeVmm:
    """The state of the VMM, its QMP commands and its migration."""

    def __init__(self, library: FakeLibrary, console: Path, incoming: str | None) -> None:
        self._library = library
        self._guest = FakeGuest(library, console)
        self._run_state = "inmigrate" if incoming else "running"
        self._guest.may_run = not incoming
        self._migration: JsonObject = {}
        self._syncs = 0
        self._cancelled, self._continued = threading.Event(), threading.Event()
        self._clients: list[socket.socket] = []
        self._capabilities = dict.fromkeys(
            ("pause-before-switchover", "events", "return-path", "postcopy-ram"), False
        )
        self._parameters: JsonObject = {"downtime-limit": 300, "max-bandwidth": 128 << 20}
        if incoming:
            listener = _listen(incoming)
            threading.Thread(target=self._receive, args=(listener,), daemon=True).start()

    # --- QMP ---

    def serve(self, listener: socket.socket) -> None:
        """Serve one client after the other, for ever."""
        while True:
            client, _ = listener.accept()
            version = {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}
            with client, suppress(OSError):
                _send(client, {"QMP": {"version": version, "capabilities": []}})
                self._clients.append(client)
                for message in _messages(client):
                    _send(client, {**self._answer(message), "id": message.get("id")})
            if client in self._clients:
                self._clients.remove(client)

    def _answer(self, message: JsonObject) -> JsonObject:
        name, arguments = str(message["execute"]), message.get("arguments", {})
        assert isinstance(arguments, dict)
        try:
            return {"return": _COMMANDS[name](self, arguments)}
        except KeyError as error:
            return {"error": {"class": "GenericError", "desc": repr(error)}}

    def _tell(self, name: str, data: JsonObject | None = None) -> None:
        now = time.time()
        stamp = {"seconds": int(now), "microseconds": int(now % 1 * 1e6)}
        event = {"event": name, "timestamp": stamp, **({"data": data} if data else {})}
        for client in list(self._clients):
            with suppress(OSError):
                _send(client, event)

    def query_status(self, _: JsonObject) -> object:
        return {"status": self._run_state, "running": self._run_state == "running"}

    def query_migrate(self, _: JsonObject) -> object:
        ram = {"transferred": self._syncs, "dirty-sync-count": self._syncs}
        return {**self._migration, "ram": ram} if self._migration else {}

    def query_capabilities(self, _: JsonObject) -> object:
        return [{"capability": name, "state": on} for name, on in self._capabilities.items()]

    def set_capabilities(self, arguments: JsonObject) -> object:
        entries = arguments["capabilities"]
        assert isinstance(entries, list)
        self._capabilities.update({each["capability"]: each["state"] for each in entries})
        return {}

    def query_parameters(self, _: JsonObject) -> object:
        return dict(self._parameters)

    def set_parameters(self, arguments: JsonObject) -> object:
        self._parameters.update(arguments)
        return {}

    def migrate(self, arguments: JsonObject) -> object:
        self._cancelled.clear()
        self._continued.clear()
        uri = str(arguments["uri"])
        threading.Thread(target=self._migrate, args=(uri,), daemon=True).start()
        return {}

    def migrate_continue(self, _: JsonObject) -> object:
        self._continued.set()
        return {}

    def migrate_cancel(self, _: JsonObject) -> object:
        if self._migration.get("status") in ("setup", "active", "pre-switchover"):
            self._cancelled.set()
        return {}

    def cont(self, _: JsonObject) -> object:
        self._run_state, self._guest.may_run = "running", True
        return {}

    def quit(self, _: JsonObject) -> object:
        threading.Timer(_TICK_S, os._exit, (0,)).start()
        return {}

    # --- its migration ---

    def _become(self, status: str, **more: object) -> None:
        self._migration = {"status": status, **more}
        if self._capabilities["events"]:
            self._tell("MIGRATION", {"status": status})

    def _migrate(self, uri: str) -> None:
        self._become("setup")
        try:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(uri.removeprefix("unix:"))
                self._become("active")
                self._copy(stream)
                self._stop_guest()
                self._wait_for_order()
                self._become("device")
                time.sleep(_DEVICE_S)
                stream.sendall(b"E" + self._library.tags.tobytes())
                if stream.recv(1) != b"A":
                    raise OSError("the destination has gone")
            self._run_state = "postmigrate"
            self._become("completed", downtime=77, **{"total-time": 99})
        except OSError as error:
            self._fall_back(str(error))

    def _copy(self, stream: socket.socket) -> None:
        self._library.log_on()
        self._syncs = 1
        while self._parameters["downtime-limit"] == 1:  # not yet, says who drives it
            self._require_wanted()
            self._library.clear()
            self._syncs += 1
            stream.sendall(b"x")
            time.sleep(_PASS_S)

    def _stop_guest(self) -> None:
        self._run_state, self._guest.may_run = "finish-migrate", False
        while self._library.running:
            time.sleep(_TICK_S)
        self._tell("STOP")

    def _wait_for_order(self) -> None:
        if self._capabilities["pause-before-switchover"]:
            self._become("pre-switchover")
            while not self._continued.wait(_TICK_S / 10):
                self._require_wanted()

    def _require_wanted(self) -> None:
        if self._cancelled.is_set():
            raise OSError("cancelled")

    def _fall_back(self, reason: str) -> None:
        self._library.logged = False
        if self._run_state == "finish-migrate":
            self._tell("RESUME")
        self.cont({})
        if self._cancelled.is_set():
            self._become("cancelled")
        else:
            self._become("failed", **{"error-desc": reason})

    def _receive(self, listener: socket.socket) -> None:
        """Take the guest in; a stream that ends early ends the process, as QEMU's does."""
        stream = listener.accept()[0]
        with stream.makefile("rb") as file:
            while (kind := file.read(1)) != b"E":
                if not kind:
                    os._exit(1)
            whole = file.read(self._library.tags.nbytes)
        if len(whole) < self._library.tags.nbytes:
            os._exit(1)
        expected = np.frombuffer(whole, np.uint8).reshape(self._library.tags.shape)
        self._guest.expected = expected
        stream.sendall(b"A")
        self.cont({})
        self._tell("RESUME")


_COMMANDS: Mapping[str, Callable[[FakeVmm, JsonObject], object]] = {
    "qmp_capabilities": lambda _vmm, _arguments: {},
    "query-status": FakeVmm.query_status,
    "query-uuid": lambda _vmm, _arguments: {"UUID": "2f1d5a3e-0000-4000-8000-0123456789ab"},
    "query-migrate": FakeVmm.query_migrate,
    "query-migrate-capabilities": FakeVmm.query_capabilities,
    "migrate-set-capabilities": FakeVmm.set_capabilities,
    "query-migrate-parameters": FakeVmm.query_parameters,
    "migrate-set-parameters": FakeVmm.set_parameters,
    "migrate": FakeVmm.migrate,
    "migrate-continue": FakeVmm.migrate_continue,
    "migrate_cancel": FakeVmm.migrate_cancel,
    "cont": FakeVmm.cont,
    "quit": FakeVmm.quit,
}


def _send(client: socket.socket, message: Mapping[str, object]) -> None:
    client.sendall(json.dumps(message).encode() + b"\r\n")


def _messages(client: socket.socket) -> Iterator[JsonObject]:
    text, decoder = "", json.JSONDecoder()
    while data := client.recv(1 << 16):
        text = (text + data.decode()).lstrip()
        while text:
            try:
                message, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield message


def _listen(uri: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(uri.removeprefix("unix:"))
    listener.listen(4)
    return listener


def main(words: list[str]) -> None:
    """Be the VMM that a command line of QEMU's describes."""
    text = " ".join(words)
    incoming = re.search(r"-incoming (\S+)", text)
    console = re.search(r"id=console,path=(\S+)", text)
    inherited = re.search(r"id=tagalong,fd=(\d+)", text)
    own = re.search(r"-qmp (unix:[^,\s]+)", text)
    assert console is not None
    assert inherited is not None
    assert own is not None
    held = "TAGALONG_BESIDE_HOLD" in os.environ
    listener = socket.socket(fileno=int(os.environ["TAGALONG_BESIDE_FD"]))
    library = FakeLibrary(listener, pages=PAGES, held=held)
    if incoming is None:
        library.tags[:] = np.random.default_rng(1).integers(0, 256, library.tags.shape, np.uint8)
    vmm = FakeVmm(library, Path(console[1]), incoming[1] if incoming else None)
    monitor = socket.socket(fileno=int(inherited[1]))
    threading.Thread(target=vmm.serve, args=(monitor,), daemon=True).start()
    vmm.serve(_listen(own[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
