"""What is typed reaches the UART in order, when it has room and the guest runs."""

import asyncio
import os
from collections.abc import Callable

from tagalong.devices import Pl011
from tagalong.vmm.console_input import MAX_WAITING_BYTES, ConsoleInput, InputReader

DR, CR = 0, 0x30


class Guest:
    """A guest that runs or not, with a UART whose FIFO is off: one byte fits."""

    def __init__(self) -> None:
        self.runs = True
        self.uart = Pl011()
        self.uart.write(0, CR, 4, 0x301)
        self.typed = ConsoleInput(self.while_running)
        self.typed.connect(self.uart, self.uart.receive_break)

    def while_running(self, action: Callable[[], None]) -> bool:
        if self.runs:
            action()
        return self.runs

    async def read(self, count: int) -> bytes:
        read = bytearray()
        while len(read) < count:
            if not self.uart.read(0, 0x18, 4) & 0x10:
                entry = self.uart.read(0, DR, 4)
                read += b"<break>" if entry & 0x400 else bytes((entry,))
            await asyncio.sleep(0)
        return bytes(read)


def test_type_more_than_fits_is_delivered_as_the_guest_reads() -> None:
    async def run() -> None:
        guest = Guest()
        guest.typed.type(b"abc")
        guest.typed.send_break()
        guest.typed.type(b"d")

        assert await guest.read(11) == b"abc<break>d"

    asyncio.run(run())


def test_type_while_the_guest_is_paused_waits() -> None:
    async def run() -> None:
        guest = Guest()
        guest.runs = False
        before = guest.uart.save()
        guest.typed.type(b"a")
        assert guest.uart.save() == before

        guest.runs = True
        guest.typed.deliver()

        assert await guest.read(1) == b"a"

    asyncio.run(run())


def test_reader_stops_while_the_guest_reads_nothing_and_goes_on() -> None:
    async def run() -> None:
        guest = Guest()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        ended = asyncio.Event()
        source = InputReader(reader, guest.typed, guest.typed.type, ended.set)
        text = bytes(range(256)) * 64
        sent = os.write(writer, text)
        assert sent == len(text)
        while guest.typed.has_room:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(guest.typed._waiting) < 2 * MAX_WAITING_BYTES
        os.close(writer)

        assert await guest.read(len(text)) == text
        await ended.wait()
        source.stop()
        os.close(reader)

    asyncio.run(run())
