"""Brings what is typed to a guest's console: in order, without loss, and only while the guest runs.

Input that a paused machine took would be missing from the state that a migration sends, so the
gate that pauses the guest is asked for each delivery (`Vm.while_running`). What the device has no
room for waits here; a full buffer stops the reading, and so the other end's own flow control works.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from tagalong._lazy import module_when_used
from tagalong.vmm.loop_calls import LoopCalls

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
else:
    asyncio = module_when_used("asyncio")

MAX_WAITING_BYTES: Final = 4096

_READ_BYTES: Final = 1024
_MOST_BYTES: Final = 1024  # in one delivery
_BREAK: Final = None  # in the order of what is typed


class InputDevice(Protocol):
    """A device of the guest that takes what is typed."""

    def receive(self, data: bytes) -> int:
        """Take the first bytes of `data`, and return how many there was room for."""
        ...

    def when_readable(self, room_wanted: Callable[[], None] | None) -> None:
        """Call `room_wanted`, in any thread, whenever there may be room."""
        ...


def _drop_break() -> bool:
    return True


class ConsoleInput:
    """The input of one VM's console; all but `connect` is called in the event loop's thread.

    `while_running` runs a delivery if the guest runs, and returns whether it did. `drained` is
    called when there is room again after `has_room` was false. `loop`: None: the one that runs.
    """

    def __init__(
        self, while_running: Callable[[Callable[[], None]], bool], loop: LoopCalls | None = None
    ) -> None:
        self._while_running = while_running
        self._loop = loop or LoopCalls.of_running_loop()
        self._device: InputDevice | None = None
        self._receive_break: Callable[[], bool] = _drop_break
        self._waiting: deque[int | None] = deque()
        self.drained: Callable[[], None] = lambda: None

    def connect(self, device: InputDevice, receive_break: Callable[[], bool] = _drop_break) -> None:
        """Deliver to `device` from now on; from any thread.

        `receive_break` gives it a break and returns whether there was room; a device without it
        has no breaks.
        """
        self._device, self._receive_break = device, receive_break
        device.when_readable(self._wake)

    def _wake(self) -> None:
        self._loop.call_soon(self.deliver)

    @property
    def has_room(self) -> bool:
        """Return whether more input can be taken."""
        return len(self._waiting) < MAX_WAITING_BYTES

    def type(self, data: bytes) -> None:
        """Take what was typed."""
        self._waiting.extend(data)
        self.deliver()

    def send_break(self) -> None:
        """Take a break."""
        self._waiting.append(_BREAK)
        self.deliver()

    def deliver(self) -> None:
        """Give the device what it has room for, if the guest runs."""
        had_room = self.has_room
        if self._waiting and self._device is not None:
            self._while_running(self._fill_device)
        if self.has_room and not had_room:
            self.drained()

    def _fill_device(self) -> None:
        while self._waiting and self._device is not None:
            if self._waiting[0] is _BREAK:
                offered, taken = 1, int(self._receive_break())
            else:
                typed = bytes(islice(self._until_break(), _MOST_BYTES))
                offered, taken = len(typed), self._device.receive(typed)
            for _ in range(taken):
                self._waiting.popleft()
            if taken < offered:
                return

    def _until_break(self) -> Iterator[int]:
        for each in self._waiting:
            if each is None:  # _BREAK
                return
            yield each


class InputReader:
    """Reads a descriptor in the event loop while there is room for what it brings.

    `take` gets what was read, `ended` is called once when nothing more comes.
    """

    def __init__(
        self,
        descriptor: int,
        typed: ConsoleInput,
        take: Callable[[bytes], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._descriptor = descriptor
        self._typed = typed
        self._take = take
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._is_polled = True
        self._typed.drained = self._listen
        self._listen()

    def stop(self) -> None:
        """Read no more. Safe to call twice."""
        if self._is_open:
            self._is_open = False
            self._pause()

    def _listen(self) -> None:
        if not self._is_open:
            return
        try:
            self._loop.add_reader(self._descriptor, self._read)
        except PermissionError:  # a regular file, which is always ready and cannot be polled
            self._is_polled = False
            self._loop.call_soon(self._read)

    def _pause(self) -> None:
        if self._is_polled:
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        if not self._is_open:
            return
        if not self._typed.has_room:
            self._pause()  # `drained` listens again
            return
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the other end of a terminal or a connection is gone
            data = b""
        if not data:
            self.stop()
            self._ended()
            return
        self._take(data)
        if not self._is_polled:
            self._listen()
