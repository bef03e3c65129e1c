"""The devices of a machine by their addresses, for both kinds of machine."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tagalong._native import PublishedRegister
from tagalong.devices.device import BackedDevice, Device, Doorbell, PublishingDevice, Window
from tagalong.devices.irq import IrqLine, Sink
from tagalong.errors import HostError, UsageError
from tagalong.memory import GuestMemory


class _Place(NamedTuple):
    window: Window
    number: int  # of the window, among its device's
    device: Device


class DeviceBus:
    """Brings accesses to devices, and saves and loads all of them.

    `sink` follows the devices' interrupt lines. Raises UsageError if two windows overlap each
    other, or one of them guest RAM, and says which. All methods may be called from any thread;
    one access at a time is at work. It implements machine.lifecycle.Backends for its devices.
    """

    def __init__(self, devices: Sequence[Device], memory: GuestMemory, sink: Sink) -> None:
        self.devices = tuple(devices)
        places = [
            _Place(window, number, device)
            for device in devices
            for number, window in enumerate(device.windows)
        ]
        self._places = sorted(places, key=lambda place: place.window.gpa)
        self._starts = [place.window.gpa for place in self._places]
        _refuse_overlaps(self._places, memory)
        self._lock = threading.RLock()
        self._backed = [device for device in devices if isinstance(device, BackedDevice)]
        for device in devices:
            intid = device.description.interrupt
            device.attach(memory, None if intid is None else IrqLine(intid, sink))

    def page_ranges(self, page_size_bytes: int) -> list[Window]:
        """Return page-aligned ranges, apart from each other, that cover all windows.

        For who tells device accesses from others a page at a time; the bus knows the rest.
        """
        ranges: list[Window] = []
        for place in self._places:
            start = place.window.gpa // page_size_bytes * page_size_bytes
            end = -(-place.window.end // page_size_bytes) * page_size_bytes
            if ranges and start <= ranges[-1].end:
                start = ranges.pop().gpa
            ranges.append(Window(start, end - start))
        return ranges

    def read(self, gpa: int, size_bytes: int) -> int | None:
        """Return what a guest's load finds, None if no device takes it: an external abort."""
        place = self._find(gpa, size_bytes)
        if place is None:
            return None
        with self._lock:
            value = place.device.read(place.number, gpa - place.window.gpa, size_bytes)
        return value & (1 << 8 * size_bytes) - 1

    def write(self, gpa: int, size_bytes: int, value: int) -> bool:
        """Carry out a guest's store; False if no device takes it: an external abort."""
        place = self._find(gpa, size_bytes)
        if place is None:
            return False
        with self._lock:
            place.device.write(
                place.number,
                gpa - place.window.gpa,
                size_bytes,
                value & (1 << 8 * size_bytes) - 1,
            )
        return True

    def reset(self) -> None:
        """Make all devices what they are at power-on."""
        with self._lock:
            for device in self.devices:
                device.reset()

    def save(self) -> dict[str, bytes]:
        """Return the states of all devices by name."""
        with self._lock:
            return {device.description.name: device.save() for device in self.devices}

    def objections(self, states: Mapping[str, bytes]) -> Iterator[str]:
        """Yield, for each device at fault, why load() must not be called with `states`."""
        names = {device.description.name for device in self.devices}
        for name in sorted(states.keys() - names):
            yield f"the state has a device {name!r}, which this machine has not"
        for device in self.devices:
            name = device.description.name
            if name not in states:
                yield f"the state has no device {name!r}, which this machine has"
            elif objection := device.objection(states[name]):
                yield objection

    def load(self, states: Mapping[str, bytes]) -> None:
        """Take over the states of all devices, to which there are no objections."""
        with self._lock:
            for device in self.devices:
                device.load(states[device.description.name])

    @property
    def published(self) -> list[PublishedRegister]:
        """Return the registers that may be read without the bus."""
        publishing = (each for each in self.devices if isinstance(each, PublishingDevice))
        return [register for device in publishing for register in device.published]

    @property
    def doorbells(self) -> list[Doorbell]:
        """Return the stores of all devices that an eventfd can stand for."""
        return [doorbell for device in self._backed for doorbell in device.doorbells]

    def pause(self) -> None:
        """Let all devices finish what is under way and stay still until `resume`."""
        for device in self._backed:
            device.pause()

    def resume(self, fail: Callable[[Exception], None]) -> None:
        """Let all devices work; `fail` gets a bug met in a thread of one of them."""
        for device in self._backed:
            device.resume(fail)

    def activate(self) -> None:
        """Let each device take what only one process may hold.

        Raises HostError of the first that cannot; none holds anything then that it did not before.
        """
        taken: list[BackedDevice] = []
        for device in self._backed:
            try:
                if not device.is_active:
                    device.activate()
                    taken.append(device)
            except HostError:
                for each in taken:
                    each.inactivate()
                raise

    def inactivate(self) -> None:
        """Let each device bring its data to the disk and give up what `activate` took.

        Raises HostError of the first that cannot; all of them are as before then.
        """
        for device in self._backed:
            device.flush()
        for device in self._backed:
            device.inactivate()

    def close(self) -> None:
        """Let all devices release what they have of the host. Safe to call twice."""
        for device in self._backed:
            device.close()

    def _find(self, gpa: int, size_bytes: int) -> _Place | None:
        index = bisect_right(self._starts, gpa) - 1
        if index < 0:
            return None
        place = self._places[index]
        is_whole = gpa + size_bytes <= place.window.end
        return place if is_whole and size_bytes in place.device.widths else None


def _refuse_overlaps(places: Sequence[_Place], memory: GuestMemory) -> None:
    for below, above in pairwise(places):
        if below.window.end > above.window.gpa:
            raise UsageError(f"{_name(below)} and {_name(above)} overlap")
    for place in places:
        for region in memory.regions:
            if place.window.gpa < region.end and region.gpa < place.window.end:
                raise UsageError(
                    f"{_name(place)} and guest RAM [{region.gpa:#x}, {region.end:#x}) overlap"
                )


def _name(place: _Place) -> str:
    return f"device {place.device.description.name!r} at {place.window}"
