"""A console with one port (section 5.3): what the guest writes, and what is typed.

Input waits here until the driver has a buffer for it; what waits is part of the state. More than
`MAX_WAITING_BYTES` is not taken: who types waits, or loses it.
"""

import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import ClassVar, Final

from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.chain import Chain
from tagalong.devices.virtio.described import VirtioConfig, config_of
from tagalong.devices.virtio.function import Port, WithoutHostSide
from tagalong.devices.virtio.ram import RingError
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription

MAX_WAITING_BYTES: Final = 4096

_RECEIVE, _TRANSMIT = 0, 1
_QUEUE_SIZE: Final = 64
_COPY_BYTES: Final = 1 << 16
_CONFIG: Final = struct.Struct("<HHII")
_STATE: Final = struct.Struct("<HHI")


class ConsoleFeature(IntFlag):
    """Features of a console (section 5.3.3)."""

    SIZE = 1 << 0


class ConsoleFunction(WithoutHostSide):
    """A console; implements VirtioFunction. `output` gets what the guest writes, in any thread."""

    KIND: ClassVar = "virtio-console"

    device_id = DeviceId.CONSOLE
    served_queues: Sequence[int] = (_TRANSMIT,)
    threads = 1

    def __init__(
        self, description: DeviceDescription, output: Callable[[bytes], None] | None
    ) -> None:
        if config_of(description, 2, ConsoleFeature.SIZE).own:
            raise UsageError(f"device {description.name!r}: nothing else describes a console")
        self._output = output
        self._port: Port | None = None
        self._lock = threading.RLock()
        self._waiting = bytearray()
        self._columns = self._rows = 0

    def attach(self, port: Port) -> None:
        """Take the transport."""
        self._port = port

    # --- the host's side ---

    def feed(self, data: bytes) -> int:
        """Take typed bytes; return how many, from the first. From any thread."""
        with self._lock:
            taken = data[: MAX_WAITING_BYTES - len(self._waiting)]
            self._waiting += taken
        self._deliver()
        return len(taken)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal, in characters. From any thread."""
        with self._lock:
            if (columns, rows) == (self._columns, self._rows):
                return
            self._columns, self._rows = columns & 0xFFFF, rows & 0xFFFF
        if self._port is not None and self._port.features & ConsoleFeature.SIZE:
            self._port.config_changed()

    # --- the guest's side ---

    @property
    def config(self) -> bytes:
        """Return struct virtio_console_config."""
        return _CONFIG.pack(self._columns, self._rows, 1, 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Ignore it: emergency writes are not offered."""

    def serve(self, queue: int, chain: Chain) -> int:
        """Write out what the guest wrote."""
        del queue
        if chain.writable.size_bytes:
            raise RingError(f"request {chain.head} to write has a buffer that can be written")
        if self._output is not None:
            size = chain.readable.size_bytes
            for at in range(0, size, _COPY_BYTES):
                self._output(chain.readable.part(at, min(_COPY_BYTES, size - at)).read())
        return 0

    def supplied(self, queue: int) -> None:
        """Give the driver what waits."""
        if queue == _RECEIVE:
            self._deliver()

    def _deliver(self) -> None:
        while self._port is not None and self._waiting:
            if not self._port.deliver(_RECEIVE, self._fill):
                return

    def _fill(self, chains: Sequence[Chain]) -> list[int]:
        (chain,) = chains
        if not chain.writable.size_bytes:
            raise RingError(f"buffer {chain.head} for input cannot be written")
        with self._lock:
            size = min(len(self._waiting), chain.writable.size_bytes)
            data = bytes(self._waiting[:size])
            del self._waiting[:size]
        chain.writable.write(data)
        return [size]

    # --- its life ---

    def reset(self) -> None:
        """Forget what waits: the driver that it was typed for is gone."""
        with self._lock:
            self._waiting.clear()

    def save(self) -> bytes:
        """Return the terminal's size and what waits."""
        with self._lock:
            return _STATE.pack(self._columns, self._rows, len(self._waiting)) + self._waiting

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`."""
        if len(state) < _STATE.size:
            return f"{len(state)} bytes behind the queues, expected at least {_STATE.size}"
        *_, waiting = _STATE.unpack_from(state)
        if waiting > MAX_WAITING_BYTES or len(state) != _STATE.size + waiting:
            return (
                f"{waiting} bytes of input in {len(state) - _STATE.size}: at most "
                f"{MAX_WAITING_BYTES} can wait"
            )
        return ""

    def load(self, state: bytes) -> None:
        """Take over the terminal's size and what waits."""
        with self._lock:
            self._columns, self._rows, _ = _STATE.unpack_from(state)
            self._waiting = bytearray(state[_STATE.size :])

    def resume(self) -> None:
        """Give the driver what was typed meanwhile."""
        self._deliver()


def describe_console() -> VirtioConfig:
    """Return the description's own part."""
    return VirtioConfig(2, _QUEUE_SIZE, ConsoleFeature.SIZE, b"")
