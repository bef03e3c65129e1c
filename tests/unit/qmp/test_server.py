"""The control socket on a real unix socket, with clients that behave and that do not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tagalong.qmp import server as server_module
from tagalong.qmp.messages import Event, JsonObject
from tagalong.qmp.server import ControlServer

TIMEOUT_S = 60.0
NEGOTIATE = b'{"execute": "qmp_capabilities"}'


class EmittingCommands:
    """`say` emits an event before it returns, `big` answers with a megabyte."""

    server: ControlServer

    def execute(self, command: str, arguments: JsonObject, _: object = None) -> object:
        if command == "say":
            self.server.broadcast(Event("SAID", arguments))
        return "x" * 1_000_000 if command == "big" else {}


class Client:
    """A plain client that shows what came over the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def next(self) -> dict[str, object]:
        line = await asyncio.wait_for(self.reader.readline(), TIMEOUT_S)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    async def negotiate(self) -> None:
        assert set(await self.next()) == {"QMP"}
        self.writer.write(NEGOTIATE)
        assert await self.next() == {"return": {}}

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), TIMEOUT_S)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlServer]:
    commands = EmittingCommands()
    commands.server = ControlServer(commands)
    await commands.server.start(path)
    try:
        yield commands.server
    finally:
        await commands.server.close()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=4_000_000)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def test_broadcast_reaches_negotiated_clients_only(tmp_path: Path) -> None:
    async def scenario() -> tuple[dict[str, object], bytes]:
        path = tmp_path / "vm.sock"
        async with serving(path) as server, connected(path) as a, connected(path) as b:
            await a.negotiate()
            await b.next()
            server.broadcast(Event("STOP", time_us=1))
            event = await a.next()
            await server.close()
            return event, await b.rest()

    event, nothing = asyncio.run(scenario())

    assert event == {"timestamp": {"seconds": 0, "microseconds": 1}, "event": "STOP"}
    assert nothing == b""


def test_command_that_emits_sends_event_then_reply_to_its_client(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, object]]:
        path = tmp_path / "vm.sock"
        async with serving(path), connected(path) as client:
            await client.negotiate()
            client.writer.write(
                b'{"execute": "say", "arguments": {"n": 1}, "id": 1}'
                b'{"execute": "say", "arguments": {"n": 2}, "id": 2}'
            )
            return [await client.next() for _ in range(4)]

    messages = asyncio.run(scenario())

    assert [m.get("data") or m.get("id") for m in messages] == [{"n": 1}, 1, {"n": 2}, 2]


def test_client_that_does_not_read_is_disconnected_and_others_are_served(tmp_path: Path) -> None:
    async def scenario() -> dict[str, object]:
        path = tmp_path / "vm.sock"
        async with serving(path) as server, connected(path) as deaf, connected(path) as good:
            await deaf.negotiate()
            await good.negotiate()
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.writer.write(b'{"execute": "big"}' * 3)
            await asyncio.wait_for(until_clients(server, 1), TIMEOUT_S)
            good.writer.write(b'{"execute": "fine", "id": 1}')
            return await good.next()

    assert asyncio.run(scenario()) == {"return": {}, "id": 1}


async def until_clients(server: ControlServer, count: int) -> None:
    while len(server._clients) != count:
        await asyncio.sleep(0.005)


def test_oversized_message_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    async def scenario() -> tuple[dict[str, object], bytes]:
        path = tmp_path / "vm.sock"
        async with serving(path), connected(path) as client:
            await client.negotiate()
            client.writer.write(b'{"execute": "' + b"x" * 70_000)
            return await client.next(), await client.rest()

    answer, rest = asyncio.run(scenario())

    assert answer == {"error": {"class": "GenericError", "desc": "QMP message exceeds 65536 bytes"}}
    assert rest == b""


def test_close_sends_what_is_queued_and_removes_the_file(tmp_path: Path) -> None:
    async def scenario() -> tuple[dict[str, object], bytes, bool]:
        path = tmp_path / "vm.sock"
        async with serving(path) as server, connected(path) as client:
            await client.negotiate()
            server.broadcast(Event("SHUTDOWN", time_us=0))
            await server.close()
            return await client.next(), await client.rest(), path.exists()

    event, rest, exists = asyncio.run(scenario())

    assert event["event"] == "SHUTDOWN"
    assert rest == b""
    assert not exists


def test_close_does_not_wait_for_a_client_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_FLUSH_TIMEOUT_S", 0.05)
    monkeypatch.setattr(server_module, "MAX_UNSENT_BYTES", 10_000_000)

    async def scenario() -> float:
        path = tmp_path / "vm.sock"
        async with serving(path) as server, connected(path) as deaf:
            await deaf.negotiate()
            deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
            deaf.writer.write(b'{"execute": "big"}' * 3)
            await asyncio.sleep(0.05)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await server.close()
            return loop.time() - begin

    assert asyncio.run(scenario()) < 1.0


def test_client_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "vm.sock"
        async with serving(path) as server:
            async with connected(path) as client:
                await client.negotiate()
                assert len(server._clients) == 1
            await asyncio.wait_for(until_clients(server, 0), TIMEOUT_S)

    asyncio.run(scenario())
