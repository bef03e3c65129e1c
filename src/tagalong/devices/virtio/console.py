"""A console with one port (section 5.3): what the guest writes, and what is typed.

Nothing waits here: input is taken when the driver has a buffer for it, so a console has no state
but the size of its terminal.
"""

import struct
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import ClassVar, Final

from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.chain import Chain, RequestBatch
from tagalong.devices.virtio.described import VirtioConfig, config_of
from tagalong.devices.virtio.function import Port, WithoutHostSide
from tagalong.devices.virtio.ram import RingError
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription

_RECEIVE, _TRANSMIT = 0, 1
_QUEUE_SIZE: Final = 64
_MOST_AT_ONCE: Final = 16
_COPY_BYTES: Final = 1 << 16
_CONFIG: Final = struct.Struct("<HHII")
_STATE: Final = struct.Struct("<HH")
_MAX_SIZE: Final = 0xFFFF


class ConsoleFeature(IntFlag):
    """Features of a console (section 5.3.3)."""

    SIZE = 1 << 0


class ConsoleFunction(WithoutHostSide):
    """A console; implements VirtioFunction. `output` gets what the guest writes, in any thread."""

    KIND: ClassVar = "virtio-console"

    device_id = DeviceId.CONSOLE
    served_queues: Sequence[int] = (_TRANSMIT,)
    threads = 1
    most_at_once = _MOST_AT_ONCE

    def __init__(
        self, description: DeviceDescription, output: Callable[[bytes], None] | None
    ) -> None:
        if config_of(description, 2, ConsoleFeature.SIZE).own:
            raise UsageError(f"device {description.name!r}: nothing else describes a console")
        self._output = output
        self._port: Port | None = None
        self._room_wanted: Callable[[], None] | None = None
        self._columns = self._rows = 0

    def attach(self, port: Port) -> None:
        """Take the transport."""
        self._port = port

    # --- the host's side ---

    def receive(self, data: bytes) -> int:
        """Take the first bytes of `data` as input, and return how many there was room for.

        None while the driver has no buffer for them. From any thread.
        """
        taken = 0

        def fill(batch: RequestBatch) -> int:
            nonlocal taken
            (chain,) = batch
            room = chain.writable.size_bytes
            if not room:
                raise RingError(f"buffer {chain.head} for input cannot be written")
            part = data[taken : taken + room]
            chain.writable.write(part)
            taken += len(part)
            batch.written[0] = len(part)
            return 1

        while self._port is not None and taken < len(data):
            if not self._port.deliver(_RECEIVE, fill):
                break
        return taken

    def when_readable(self, room_wanted: Callable[[], None] | None) -> None:
        """Call `room_wanted` whenever the guest may have made room for input, until replaced.

        It is called from the thread of the guest's access and must return at once.
        """
        self._room_wanted = room_wanted

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal, in characters. From any thread."""
        if (columns, rows) == (self._columns, self._rows):
            return
        self._columns, self._rows = columns & _MAX_SIZE, rows & _MAX_SIZE
        if self._port is not None and self._port.features & ConsoleFeature.SIZE:
            self._port.config_changed()

    # --- the guest's side ---

    @property
    def config(self) -> bytes:
        """Return struct virtio_console_config."""
        return _CONFIG.pack(self._columns, self._rows, 1, 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Ignore it: emergency writes are not offered."""

    def serve(self, queue: int, batch: RequestBatch) -> None:
        """Write out what the guest wrote."""
        del queue
        for chain in batch:
            self._write(chain)

    def _write(self, chain: Chain) -> None:
        if chain.writable.size_bytes:
            raise RingError(f"request {chain.head} to write has a buffer that can be written")
        if self._output is not None:
            size = chain.readable.size_bytes
            for at in range(0, size, _COPY_BYTES):
                self._output(chain.readable.read(at, min(_COPY_BYTES, size - at)))

    def supplied(self, queue: int) -> None:
        """Ask for input."""
        if queue == _RECEIVE:
            self._ask_for_input()

    def _ask_for_input(self) -> None:
        if (room_wanted := self._room_wanted) is not None:
            room_wanted()

    # --- its life ---

    def reset(self) -> None:
        """Do nothing: the terminal's size stays."""

    def save(self) -> bytes:
        """Return the terminal's size."""
        return _STATE.pack(self._columns, self._rows)

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`."""
        if len(state) == _STATE.size:
            return ""
        return f"{len(state)} bytes behind the queues, expected {_STATE.size}"

    def load(self, state: bytes) -> None:
        """Take over the terminal's size."""
        self._columns, self._rows = _STATE.unpack(state)

    def resume(self) -> None:
        """Ask for what was typed meanwhile."""
        self._ask_for_input()


def describe_console() -> VirtioConfig:
    """Return the description's own part."""
    return VirtioConfig(2, _QUEUE_SIZE, ConsoleFeature.SIZE, b"")
