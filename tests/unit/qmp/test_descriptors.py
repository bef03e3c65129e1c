"""Descriptors that come with a command: they are taken, or closed, whoever sends them."""

import array
import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tagalong.errors import UsageError
from tagalong.migrate import DESCRIPTORS
from tests.support.descriptors import descriptors_of
from tests.support.served_vm import served_vm

TIMEOUT_S = 60.0
GETFD = b'{"execute": "getfd", "arguments": {"fdname": "%s"}}'


class Sender:
    """A client that sends descriptors with its bytes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self._buffer = b""

    async def next(self) -> dict[str, object]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_S):
            while b"\n" not in self._buffer:
                received = await loop.sock_recv(self.socket, 65536)
                assert received, "the connection ended"
                self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self.socket.sendmsg([data], [rights] if descriptors else [])

    async def ask(self, data: bytes, descriptors: Sequence[int] = ()) -> dict[str, object]:
        self.send(data, descriptors)
        return await self.next()


@asynccontextmanager
async def talking(path: Path) -> AsyncIterator[Sender]:
    sender = Sender(path)
    try:
        await sender.next()
        await sender.ask(b'{"execute": "qmp_capabilities"}')
        yield sender
    finally:
        sender.socket.close()


def play(tmp_path: Path, script: Callable[[Sender, int], Awaitable[None]]) -> None:
    """Run a script with a client and a pipe's write end that it may send."""

    async def run() -> None:
        async with served_vm(tmp_path / "vm.sock") as served:
            read, write = os.pipe()
            try:
                async with talking(served.path) as sender:
                    await script(sender, write)
                await drained(read, write)
            finally:
                os.close(read)

    asyncio.run(run())


async def drained(read: int, write: int) -> None:
    """Wait until no copy of the pipe's write end is open: else reading would not end."""
    with suppress(UsageError):
        DESCRIPTORS.close("mig")
    os.close(write)
    os.set_blocking(read, False)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                assert os.read(read, 1) == b""
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                return


def test_getfd_takes_a_descriptor_close_on_exec_and_closefd_closes_it(tmp_path: Path) -> None:
    async def script(sender: Sender, write: int) -> None:
        assert await sender.ask(GETFD % b"mig", [write]) == {"return": {}}
        held = DESCRIPTORS._held["mig"]
        assert os.path.sameopenfile(held, write)
        assert not os.get_inheritable(held)
        close = GETFD.replace(b"getfd", b"closefd") % b"mig"
        assert await sender.ask(close) == {"return": {}}
        assert "mig" not in DESCRIPTORS._held
        assert "error" in await sender.ask(close)

    play(tmp_path, script)


def test_getfd_without_a_descriptor_or_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    async def script(sender: Sender, write: int) -> None:
        answer = await sender.ask(GETFD % b"mig")
        assert answer["error"] == {
            "class": "GenericError",
            "desc": "No file descriptor supplied via SCM_RIGHTS",
        }
        for name in (b"7", b"", b"a b", b"x" * 65):
            assert "error" in await sender.ask(GETFD % name, [write])

    play(tmp_path, script)


def test_descriptor_of_a_command_in_two_pieces_is_taken(tmp_path: Path) -> None:
    async def script(sender: Sender, write: int) -> None:
        command = GETFD % b"mig"
        sender.send(command[:9], [write])
        await asyncio.sleep(0.05)
        assert await sender.ask(command[9:]) == {"return": {}}

    play(tmp_path, script)


def test_descriptors_that_no_command_takes_are_closed(tmp_path: Path) -> None:
    """Sent with junk, with other commands, too many at once, before the connection ends."""

    async def script(sender: Sender, write: int) -> None:
        for data in (b"junk\n", b'{"execute": "query-status"}', b'{"execute": 1}', b"\xff"):
            await sender.ask(data, [write] * 3)
        assert await sender.ask(GETFD % b"mig", [write] * 100) == {"return": {}}
        before = descriptors_of(write)
        for _ in range(50):
            await sender.ask(b'{"execute": "stop"}', [write] * 16)
        assert descriptors_of(write) <= before
        sender.send(b'{"execute": ', [write] * 5)
        await asyncio.sleep(0.05)

    play(tmp_path, script)


def test_descriptors_held_under_names_are_bounded(tmp_path: Path) -> None:
    async def script(sender: Sender, write: int) -> None:
        answers = [await sender.ask(GETFD % (b"n%d" % number), [write]) for number in range(70)]
        refused = [answer for answer in answers if "error" in answer]
        assert len(refused) >= 6
        assert "descriptors are held already: close one (closefd)" in str(refused[0])
        for number in range(70):
            await sender.ask(GETFD.replace(b"getfd", b"closefd") % (b"n%d" % number))

    play(tmp_path, script)


def test_migrate_to_a_descriptor_that_nobody_passed_is_refused_at_once(tmp_path: Path) -> None:
    async def script(sender: Sender, _: int) -> None:
        for name in ("nobody", "1", "777"):
            command = json.dumps({"execute": "migrate", "arguments": {"uri": f"fd:{name}"}})
            assert "error" in await sender.ask(command.encode())

    play(tmp_path, script)
