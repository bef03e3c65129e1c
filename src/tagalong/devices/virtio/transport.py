"""The MMIO transport, version 2 (section 4.2): one model of it for every device.

It has the registers, the queues and the interrupt; what the device is, a `VirtioFunction` says.
A driver that breaks a rule stops the device: DEVICE_NEEDS_RESET and a configuration change
(section 2.1.2), whatever it did, and nothing more happens until it resets the device.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.devices.device import ANY_WIDTH, Doorbell, Window
from tagalong.devices.interrupt_status import InterruptStatus
from tagalong.devices.virtio.abi import (
    CONFIG_OFFSET,
    MAGIC,
    VENDOR_ID,
    VERSION,
    Interrupt,
    MmioRegister,
    Status,
    VirtioFeature,
)
from tagalong.devices.virtio.queue import QueueRegisters, Virtqueue
from tagalong.devices.virtio.ram import GuestRam, RingError
from tagalong.devices.virtio.telling import OnceASecond
from tagalong.errors import StateError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from tagalong.devices.irq import IrqLine
    from tagalong.devices.virtio import saved as saved_form
    from tagalong.devices.virtio.chain import RequestBatch
    from tagalong.devices.virtio.described import VirtioConfig
    from tagalong.devices.virtio.function import Fill, VirtioFunction
    from tagalong.devices.virtio.work import Fail, WorkMaker
    from tagalong.machine import DeviceDescription
    from tagalong.memory import GuestMemory
else:
    logging = module_when_used("logging")
    saved_form = module_when_used("tagalong.devices.virtio.saved")

_WORD = 4
_MASK = (1 << 32) - 1
_HIGH = 32
_LIVE = int(Status.DRIVER_OK)
_LIVE_MASK = int(Status.DRIVER_OK | Status.DEVICE_NEEDS_RESET)
_DRIVER_STATUS = 0xFF & ~int(Status.DEVICE_NEEDS_RESET)
_NO_MEMORY = _MASK  # what the registers of shared memory say of a region that does not exist

# Registers that hold one half of an address of the selected queue.
_ADDRESSES = {
    MmioRegister.QUEUE_DESC_LOW: ("desc_gpa", 0),
    MmioRegister.QUEUE_DESC_HIGH: ("desc_gpa", _HIGH),
    MmioRegister.QUEUE_DRIVER_LOW: ("driver_gpa", 0),
    MmioRegister.QUEUE_DRIVER_HIGH: ("driver_gpa", _HIGH),
    MmioRegister.QUEUE_DEVICE_LOW: ("device_gpa", 0),
    MmioRegister.QUEUE_DEVICE_HIGH: ("device_gpa", _HIGH),
}


class VirtioMmio:
    """One device on the MMIO transport; implements BackedDevice, and Port for its function.

    One lock guards registers, queues and the function; requests are served without it. `work`
    makes the threads that serve them.
    """

    def __init__(
        self,
        description: DeviceDescription,
        config: VirtioConfig,
        function: VirtioFunction,
        work: WorkMaker,
    ) -> None:
        self.description = description
        self.windows: Sequence[Window] = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._offered = config.features
        self._function = function
        self._queues = [Virtqueue(config.queue_size) for _ in range(config.queue_count)]
        self._lock = threading.RLock()
        self._ram: GuestRam | None = None
        self.interrupt_status = InterruptStatus()
        self._is_paused = True
        self._stops = OnceASecond()
        self._work = work(self._step, description.name, function.threads)
        self._readers = self._register_readers()
        self._writers = self._register_writers()
        function.attach(self)
        self._reset_registers()

    # --- Device ---

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take the guest RAM and the interrupt line of the machine."""
        self._ram = GuestRam(memory)
        self.interrupt_status.follow(line)

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return a register, or a part of the configuration; zero where there is nothing."""
        del window
        with self._lock:
            if offset >= CONFIG_OFFSET:
                start = offset - CONFIG_OFFSET
                found = self._function.config[start : start + size_bytes]
                return int.from_bytes(found, "little")
            return self._read_register(offset) if size_bytes == _WORD else 0

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Write a register, or the configuration; ignored where there is nothing to write."""
        del window
        if offset >= CONFIG_OFFSET:
            with self._lock:
                data = value.to_bytes(size_bytes, "little")
                self._function.write_config(offset - CONFIG_OFFSET, data)
        elif offset == MmioRegister.STATUS and value == 0:
            self.reset()
        elif offset == MmioRegister.QUEUE_NOTIFY:
            self._notify(value)
        elif offset in self._writers and size_bytes == _WORD:
            with self._lock:
                self._writers[offset](value)

    def reset(self) -> None:
        """Become what the device is at power-on, once no request is under way."""
        with self._work.paused(), self._lock:
            self._reset_registers()
            self._function.reset()

    def save(self) -> bytes:
        """Return the state: registers, queues, and the function's own."""
        with self._lock:
            return saved_form.SavedTransport(
                device_id=self._function.device_id,
                driver_features=self._driver_features,
                status=self._status,
                interrupts=self.interrupt_status.reasons,
                generation=self._generation,
                device_features_sel=self._device_features_sel,
                driver_features_sel=self._driver_features_sel,
                queue_sel=self._queue_sel,
                queues=tuple(queue.registers for queue in self._queues),
                own=self._function.save(),
            ).to_bytes()

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`; "" if it would not."""
        try:
            saved = saved_form.SavedTransport.from_bytes(state)
            self._check_saved(saved)
        except (ValueError, RingError) as error:
            return f"{self.description.name} state: {error}"
        if objection := self._function.objection(saved.own):
            return f"{self.description.name} state: {objection}"
        return ""

    def load(self, state: bytes) -> None:
        """Take over what save() returned. Raises StateError; nothing has changed then."""
        if objection := self.objection(state):
            raise StateError(objection)
        saved = saved_form.SavedTransport.from_bytes(state)
        with self._lock:
            self._driver_features = saved.driver_features
            self._status = saved.status
            self._generation = saved.generation
            self._device_features_sel = saved.device_features_sel
            self._driver_features_sel = saved.driver_features_sel
            self._queue_sel = saved.queue_sel
            for queue, registers in zip(self._queues, saved.queues, strict=True):
                self._load_queue(queue, registers)
            self._function.load(saved.own)
            self.interrupt_status.change(clear=_MASK, add=saved.interrupts)

    # --- BackedDevice ---

    @property
    def doorbells(self) -> Sequence[Doorbell]:
        """Return the stores that an eventfd can stand for: notifications of served queues."""
        descriptor = self._work.doorbell
        if descriptor is None:
            return ()
        gpa = self.description.gpa + MmioRegister.QUEUE_NOTIFY
        return [Doorbell(gpa, _WORD, n, descriptor) for n in self._function.served_queues]

    def pause(self) -> None:
        """Store nothing more to guest RAM until `resume`; requests under way are complete."""
        with self._lock:
            self._is_paused = True
        self._work.pause()
        self._function.pause()

    def resume(self, fail: Fail) -> None:
        """Work: also on what the driver asked for meanwhile."""
        with self._lock:
            self._is_paused = False
        self._function.resume()
        self._work.resume(fail)

    @property
    def is_active(self) -> bool:
        """Return whether the function holds what only one process may hold."""
        return self._function.is_active

    def activate(self) -> None:
        """Take what only one process may hold. Raises HostError."""
        self._function.activate()

    def flush(self) -> None:
        """Bring all data to the disk. Raises HostError."""
        self._function.flush()

    def inactivate(self) -> None:
        """Give up what only one process may hold."""
        self._function.inactivate()

    def close(self) -> None:
        """End its threads and release what it has of the host."""
        self._work.close()
        self._function.close()
        self.interrupt_status.disconnect()
        for queue in self._queues:
            queue.take_down()
        self._ram = None

    # --- Port ---

    @property
    def features(self) -> int:
        """Return what the driver has accepted, 0 before that."""
        return self._driver_features if self._status & Status.FEATURES_OK else 0

    def deliver(self, queue: int, fill: Fill, *, most: int = 1) -> bool:
        """Give the driver the next buffers of a queue; see Port."""
        with self._lock:
            if self._is_paused or not self._is_live:
                return False
            try:
                return self._fill_next(queue, fill, most)
            except RingError as error:
                self._stop(error)
                return False

    def _fill_next(self, number: int, fill: Fill, most: int) -> bool:
        queue = self._queues[number]
        while (batch := queue.take(most)) is not None:
            used = fill(batch)
            has_more = used is None and queue.await_more()
            queue.put_back(batch.count - (used or 0))
            if used is not None:
                self._finish(number, batch, used)
                return True
            if not has_more:
                break
        return False

    def config_changed(self) -> None:
        """Tell the driver that the configuration has changed; see Port."""
        with self._lock:
            self._generation = self._generation + 1 & _MASK
            if self._status & Status.DRIVER_OK:
                self._interrupt(Interrupt.CONFIG_CHANGE)

    # --- requests ---

    @property
    def _is_live(self) -> bool:
        return self._status & _LIVE_MASK == _LIVE

    def _notify(self, queue: int) -> None:
        if queue in self._function.served_queues:
            self._work.kick()
        elif queue < len(self._queues):
            self._function.supplied(queue)

    def _step(self) -> bool:
        """Serve some requests, in any thread; return whether there may be more."""
        try:
            with self._lock:
                found = self._next_requests()
            if found is None:
                return False
            queue, batch = found
            self._function.serve(queue, batch)
            with self._lock:
                if self._is_live:
                    self._finish(queue, batch, batch.count)
        except RingError as error:
            with self._lock:
                self._stop(error)
            return False
        return True

    def _next_requests(self) -> tuple[int, RequestBatch] | None:
        if not self._is_live:
            return None
        for number in self._function.served_queues:
            batch = self._queues[number].take(self._function.most_at_once)
            if batch is not None:
                self._share_rest(number, batch)
                return number, batch
        return None

    def _share_rest(self, number: int, batch: RequestBatch) -> None:
        """Let other threads, if there are some, serve what waits or comes meanwhile."""
        if self._function.threads == 1:
            return
        # A driver that was asked to be quiet would say nothing until this batch is done.
        if not batch.is_all or self._queues[number].await_more():
            self._work.share()

    def _finish(self, number: int, batch: RequestBatch, count: int) -> None:
        if count and self._queues[number].give_back(batch, count):
            self._interrupt(Interrupt.USED_BUFFER)

    def _interrupt(self, reason: Interrupt) -> None:
        self.interrupt_status.change(add=reason)

    def _stop(self, error: RingError) -> None:
        """Stop the device for what its driver did; only a reset starts it again."""
        untold = self._stops.due()
        if untold is not None:
            logging.getLogger(__name__).warning(
                "device %s stopped, its driver broke a rule of virtio: %s%s",
                self.description.name,
                error,
                untold,
            )
        was_live = self._is_live
        self._status |= Status.DEVICE_NEEDS_RESET
        if was_live:
            self._interrupt(Interrupt.CONFIG_CHANGE)

    # --- registers ---

    def _reset_registers(self) -> None:
        self._status = self._generation = 0
        self._driver_features = self._device_features_sel = self._driver_features_sel = 0
        self._queue_sel = 0
        for queue in self._queues:
            queue.reset()
        self.interrupt_status.change(clear=_MASK)

    @property
    def _selected(self) -> Virtqueue | None:
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _read_register(self, offset: int) -> int:
        if MmioRegister.SHM_LEN_LOW <= offset <= MmioRegister.SHM_BASE_HIGH:
            return _NO_MEMORY
        reader = self._readers.get(offset)
        return reader() if reader is not None else 0

    def _register_readers(self) -> dict[int, Callable[[], int]]:
        return {
            MmioRegister.MAGIC_VALUE: lambda: MAGIC,
            MmioRegister.VERSION: lambda: VERSION,
            MmioRegister.DEVICE_ID: lambda: self._function.device_id,
            MmioRegister.VENDOR_ID: lambda: VENDOR_ID,
            MmioRegister.DEVICE_FEATURES: lambda: _half(self._offered, self._device_features_sel),
            MmioRegister.QUEUE_NUM_MAX: lambda: self._selected.max_size if self._selected else 0,
            MmioRegister.QUEUE_READY: lambda: int(bool(self._selected and self._selected.is_ready)),
            MmioRegister.INTERRUPT_STATUS: lambda: self.interrupt_status.reasons,
            MmioRegister.STATUS: lambda: self._status,
            MmioRegister.CONFIG_GENERATION: lambda: self._generation,
        }

    def _register_writers(self) -> dict[int, Callable[[int], None]]:
        return {
            MmioRegister.DEVICE_FEATURES_SEL: lambda value: setattr(
                self, "_device_features_sel", value
            ),
            MmioRegister.DRIVER_FEATURES: self._write_driver_features,
            MmioRegister.DRIVER_FEATURES_SEL: lambda value: setattr(
                self, "_driver_features_sel", value
            ),
            MmioRegister.QUEUE_SEL: lambda value: setattr(self, "_queue_sel", value),
            MmioRegister.QUEUE_NUM: self._write_queue_size,
            MmioRegister.QUEUE_READY: self._write_queue_ready,
            MmioRegister.INTERRUPT_ACK: self._acknowledge,
            MmioRegister.STATUS: self._write_status,
            **{each: self._address_writer(*where) for each, where in _ADDRESSES.items()},
        }

    def _write_driver_features(self, value: int) -> None:
        if self._status & Status.FEATURES_OK or self._driver_features_sel > 1:
            return
        shift = _HIGH * self._driver_features_sel
        self._driver_features = self._driver_features & ~(_MASK << shift) | value << shift

    def _write_status(self, value: int) -> None:
        """Take the driver's progress; it can neither undo FEATURES_OK nor DEVICE_NEEDS_RESET."""
        kept = self._status & int(Status.FEATURES_OK | Status.DEVICE_NEEDS_RESET)
        wanted = value & _DRIVER_STATUS | kept
        if wanted & Status.FEATURES_OK and not self._are_features_right():
            wanted &= ~int(Status.FEATURES_OK)
        if not wanted & Status.FEATURES_OK:
            wanted &= ~int(Status.DRIVER_OK)
        self._status = wanted

    def _are_features_right(self) -> bool:
        accepted = self._driver_features
        return bool(accepted & VirtioFeature.VERSION_1) and not accepted & ~self._offered

    def _write_queue_size(self, value: int) -> None:
        if self._selected is not None and not self._selected.is_ready:
            self._selected.registers.size = value

    def _address_writer(self, name: str, shift: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            queue = self._selected
            if queue is not None and not queue.is_ready:
                kept = getattr(queue.registers, name) & ~(_MASK << shift)
                setattr(queue.registers, name, kept | value << shift)

        return write

    def _write_queue_ready(self, value: int) -> None:
        queue = self._selected
        if queue is None or self._ram is None:
            return
        if not value & 1:
            queue.take_down()
        elif not queue.is_ready:
            try:
                queue.set_up(self._ram, self._driver_features)
            except RingError as error:
                self._stop(error)

    def _acknowledge(self, value: int) -> None:
        self.interrupt_status.change(clear=value)

    # --- state ---

    def _check_saved(self, saved: saved_form.SavedTransport) -> None:
        """Raise ValueError or RingError for a state that this device cannot take."""
        saved.require_device(self._function.device_id, len(self._queues))
        if foreign := saved.driver_features & ~self._offered:
            known = f"its driver uses features {foreign:#x}, which are not offered"
            if saved.status & Status.FEATURES_OK:
                raise ValueError(known)
        for queue, registers in zip(self._queues, saved.queues, strict=True):
            if registers.is_ready and self._ram is not None:
                Virtqueue(queue.max_size).try_set_up(self._ram, registers, saved.driver_features)

    def _load_queue(self, queue: Virtqueue, registers: QueueRegisters) -> None:
        queue.take_down()
        queue.registers = registers
        if registers.is_ready and self._ram is not None:
            queue.set_up(self._ram, self._driver_features)


def _half(value: int, selector: int) -> int:
    """Return 32 bits of 64; none beyond them (section 4.2.2)."""
    return value >> _HIGH * selector & _MASK if selector <= 1 else 0
