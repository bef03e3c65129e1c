"""What a device is behind its transport: a disk, a network card, a console, random numbers."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.chain import RequestBatch

Fill = Callable[[RequestBatch], int | None]
"""Stores to the first requests of a batch, with `written`, and returns how many they are.

The driver keeps the rest. None: it takes more than the batch, which is all that there are.
"""


class Port(Protocol):
    """What a function has of its transport. All methods from any thread."""

    @property
    def features(self) -> int:
        """Return the features that the driver has accepted; 0 until it has."""
        ...

    def deliver(self, queue: int, fill: Fill, *, most: int = 1) -> bool:
        """Give the driver the next buffers of a queue; return whether there were enough.

        `fill` stores to them; it gets what there is, at most `most`. A driver that has not started,
        or a machine that is paused, has none. If they are too few, the driver notifies of the next,
        and `supplied` is called.
        """
        ...

    def config_changed(self) -> None:
        """Tell the driver that the configuration has changed."""
        ...


class VirtioFunction(Protocol):
    """One kind of device. Its methods are called by the transport, which has a lock for them.

    `serve` alone is called without it, from several threads at a time if `threads` says so.
    """

    @property
    def device_id(self) -> DeviceId:
        """Return the kind of device."""
        ...

    @property
    def served_queues(self) -> Sequence[int]:
        """Return the queues whose requests `serve` processes; the others are `supplied`."""
        ...

    @property
    def threads(self) -> int:
        """Return how many threads can process requests at a time."""
        ...

    @property
    def most_at_once(self) -> int:
        """Return how many requests a thread takes at once; the driver gets them back at once."""
        ...

    @property
    def config(self) -> bytes:
        """Return the configuration that the driver sees now."""
        ...

    def write_config(self, offset: int, data: bytes) -> None:
        """Take what the driver writes to the configuration; ignore what it must not write."""
        ...

    def attach(self, port: Port) -> None:
        """Take the transport, once."""
        ...

    def serve(self, queue: int, batch: RequestBatch) -> None:
        """Process requests; note in `batch.written` how many bytes were stored to each.

        Raises RingError if the driver broke a rule.
        """
        ...

    def supplied(self, queue: int) -> None:
        """Learn that the driver has made buffers available."""
        ...

    def reset(self) -> None:
        """Become what the device is at power-on."""
        ...

    def save(self) -> bytes:
        """Return the state that the transport does not have, in a form of a fixed version."""
        ...

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`, "" if it would not. Changes nothing."""
        ...

    def load(self, state: bytes) -> None:
        """Take over a state to which there is no objection."""
        ...

    @property
    def is_active(self) -> bool:
        """Return whether it holds what only one process may hold."""
        ...

    def pause(self) -> None:
        """Let nothing of the host change the device or guest RAM until `resume`.

        Called without the lock, as are the rest.
        """
        ...

    def resume(self) -> None:
        """Undo `pause`: the machine runs."""
        ...

    def activate(self) -> None:
        """As BackedDevice.activate."""
        ...

    def flush(self) -> None:
        """As BackedDevice.flush."""
        ...

    def inactivate(self) -> None:
        """As BackedDevice.inactivate."""
        ...

    def close(self) -> None:
        """As BackedDevice.close."""
        ...


class WithoutHostSide:
    """The life of a function that holds nothing of the host: nothing to do."""

    is_active = True

    def pause(self) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""

    def activate(self) -> None:
        """Take nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def inactivate(self) -> None:
        """Give up nothing."""

    def close(self) -> None:
        """Release nothing."""
