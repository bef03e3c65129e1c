"""Consoles on a Unix socket, and clients that do not do what they should."""

import asyncio
import os
import socket
from contextlib import closing
from pathlib import Path

from tagalong.vmm.console_input import ConsoleInput
from tagalong.vmm.consoles import ConsoleActions, SocketConsole

TIMEOUT_S = 60.0
FLOOD = bytes(1 << 20)


def read_to_the_end(client: socket.socket) -> int:
    count = 0
    while data := client.recv(1 << 16):
        count += len(data)
    return count


def test_client_that_reads_nothing_and_leaves_halfway_is_hung_up_on(tmp_path: Path) -> None:
    actions = ConsoleActions(lambda _: None, lambda: None)

    async def left(console: SocketConsole, client: socket.socket) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while console.filename.startswith("disconnected"):
                await asyncio.sleep(0.001)
            console.write(FLOOD)
            client.shutdown(socket.SHUT_WR)
            while not console.filename.startswith("disconnected"):
                await asyncio.sleep(0.001)

    async def script() -> tuple[int, int]:
        console = SocketConsole(tmp_path / "console", actions)
        console.start(ConsoleInput(lambda _: True))
        with closing(console), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(tmp_path / "console"))
            await left(console, client)
            # It has the number that the console's connection had.
            other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
            received = await asyncio.to_thread(read_to_the_end, client)
            written = os.fstat(other).st_size
            os.close(other)
            return received, written

    received, written = asyncio.run(script())

    assert 0 < received < len(FLOOD)
    assert written == 0
