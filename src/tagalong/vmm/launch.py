"""The process of one VM: from its options to its exit status."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tagalong._lazy import loading, module_when_used
from tagalong.boot.linux import POWER_BUTTON_LINE
from tagalong.devices import DiskError, Pl011, Pl061
from tagalong.errors import MachineError, RunStateError, TagalongError
from tagalong.mte import PACKED_RATIO
from tagalong.qmp.messages import Event
from tagalong.vmm.assembly import MachineAssembly
from tagalong.vmm.consoles import ConsoleActions
from tagalong.vmm.guest_consoles import GuestConsoles
from tagalong.vmm.handover import NOTHING_TO_START
from tagalong.vmm.loop_calls import LoopCalls
from tagalong.vmm.options import ArrivingVm, NewLinux, NewVm, RestoredVm, RunOptions
from tagalong.vmm.parent import exit_with_parent
from tagalong.vmm.states import VmState
from tagalong.vmm.vm import Ending, ShutdownReason, Vm

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from tagalong import files
    from tagalong.boot import program
    from tagalong.machine import DeviceDescription, Machine, MachineDescription
    from tagalong.qapi import devices
    from tagalong.qmp import control_socket
    from tagalong.socket_files import SocketFile
    from tagalong.vmm import announcement, device_queries, incoming, service, transfer
    from tagalong.vmm.record import MigrationRecord
else:  # they load much: the event loop, the control socket and migrations
    asyncio = module_when_used("asyncio")
    devices = module_when_used("tagalong.qapi.devices")
    files = module_when_used("tagalong.files")
    program = module_when_used("tagalong.boot.program")
    control_socket = module_when_used("tagalong.qmp.control_socket")
    announcement = module_when_used("tagalong.vmm.announcement")
    device_queries = module_when_used("tagalong.vmm.device_queries")
    incoming = module_when_used("tagalong.vmm.incoming")
    service = module_when_used("tagalong.vmm.service")
    transfer = module_when_used("tagalong.vmm.transfer")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_STATUS = 128
_GUEST_FAILED = 1
_CANCEL_TIMEOUT_S = 5.0

Announce = Callable[[str], None]


def run_vm(options: RunOptions, announce: Announce) -> int:
    """Run a VM until it ends and return the exit status.

    0: the guest powered off, or the VM was told to quit. 1: the guest powered off and reported its
    own failure (boot.reported_status). 128 + N: ended by signal N. A machine that stopped raises
    its error, and so does a migration that was awaited and did not arrive.

    The guest's console goes to standard output, `announce` gets messages for people.
    Raises the error that ended the VM. The control socket is removed in any case.
    """
    if options.parent_pid is not None:
        exit_with_parent(options.parent_pid)
    ending = _VmProcess(options, announce).run()
    if isinstance(ending.error, TagalongError):
        raise ending.error
    if ending.error is not None:
        raise MachineError(f"the machine failed: {ending.error}") from ending.error
    return ending.exit_code


class _VmProcess:
    """Puts a VM together and takes it apart.

    A VM that is new runs before the event loop is loaded, and what serves it: `LoopCalls` has what
    its threads report meanwhile. Without a control socket there is no event loop at all. Where
    something must be in order before the guest runs that takes one, it comes first.
    """

    def __init__(self, options: RunOptions, announce: Announce) -> None:
        self._options = options
        self._tell = announce
        self._calls = LoopCalls()
        self._vm = Vm(self._emit, self._calls)
        self._incoming: incoming.Incoming | None = None
        self._service: service.VmService | None = None
        self._socket: SocketFile | None = None
        self._has_begun = False
        self._is_released = False
        self._consoles = GuestConsoles(
            self._options,
            ConsoleActions(self._announce, self._quit),
            self._vm.while_running,
            self._calls,
        )
        self._devices = replace(options.devices, consoles=self._consoles.backings())

    def run(self) -> Ending:
        """Run the VM to its end. Raises the error that kept it from its beginning."""
        with self._signals_kept():
            try:
                if self._is_first_to_begin:
                    with loading():
                        self._create_socket()
                        self._begin()
                    if self._socket is None:
                        self._calls.serve(self._vm.ended.done)
                        return self._with_guest_status(self._vm.ended.result())
                return asyncio.run(self._run())
            finally:
                self._release()

    @property
    def _is_first_to_begin(self) -> bool:
        """Return whether the VM begins before the event loop: none of its consoles reads."""
        is_awaited = isinstance(self._options.origin, ArrivingVm)
        return not is_awaited and not self._options.takes_input

    async def _run(self) -> Ending:
        self._calls.attach()
        self._handle_signals()
        try:
            if not self._has_begun:
                _load_what_serves()
            self._create_socket()
            self._serve()
            self._consoles.start()
            self._begin()
            return self._with_guest_status(await self._vm.ended)
        finally:
            await self._take_apart()

    def _begin(self) -> None:
        """Make the VM and let it run, unless that was done."""
        if self._has_begun:
            return
        self._has_begun = True
        self._assembly = MachineAssembly(
            replace(self._options, devices=self._devices),
            {Pl011.KIND: self._consoles.uart, Pl061.KIND: self._gpio},
            self._report_disk_error,
            self._announce,
        )
        self._vm.ends_at_reset = self._options.no_reboot
        self._vm.prepare_start = self._assembly.prepare_start(self._options.origin)
        self._begin_as_asked()

    def _with_guest_status(self, ending: Ending) -> Ending:
        """Return the ending with the exit status for what the guest reported of itself."""
        machine = self._vm.machine
        if not ending.reason.is_by_guest or machine is None:
            return ending
        if ending.reason is ShutdownReason.GUEST_RESET and not self._options.no_reboot:
            self._announce(f"the guest asked for a reset, and {NOTHING_TO_START}")
        status = program.reported_status(machine)
        if not status:
            return ending
        self._announce(f"the guest powered off and reported its own failure (status {status})")
        return replace(ending, exit_code=_GUEST_FAILED)

    def _gpio(self, description: DeviceDescription) -> Pl061:
        gpio = Pl061(description)
        self._vm.press_power_button = partial(gpio.press, POWER_BUTTON_LINE)
        return gpio

    def _quit(self) -> None:
        self._order_end("Ctrl-A x", Ending(ShutdownReason.QUIT))

    def _create_socket(self) -> None:
        """Create the control socket, unless there is none or it is there."""
        if self._options.control is not None and self._socket is None:
            self._socket = control_socket.control_socket(self._options.control)
            self._announce(f"control socket (QMP): {self._options.control}")

    def _serve(self) -> None:
        if self._socket is None:
            return
        consoles = self._consoles.char_devices
        queries = device_queries.DeviceQueries(self._vm, self._devices, consoles)
        self._service = service.VmService(self._vm, lambda: self._incoming, queries, self._emit)
        self._service.serve(self._socket)

    def _begin_as_asked(self) -> None:
        match self._options.origin:
            case NewVm() as new:
                self._vm.create(self._assembly.new(new))
                self._start_unless_paused()
            case NewLinux() as linux:
                self._begin_linux(linux)
            case RestoredVm() as restored:
                self._restore(restored)
            case ArrivingVm() as arriving:
                self._await_vm(arriving)

    def _begin_linux(self, origin: NewLinux) -> None:
        if origin.dump_dtb is None:
            self._vm.create(self._assembly.linux(origin))
            self._start_unless_paused()
            return
        tree = self._assembly.linux_device_tree(origin)
        with closing(files.NewFile(origin.dump_dtb)) as file:
            file.write(0, tree)
            file.publish()
        self._announce(f"device tree written to {origin.dump_dtb}")
        self._vm.end(Ending(ShutdownReason.QUIT))

    def _start_unless_paused(self) -> None:
        if not self._options.paused:
            self._vm.cont()

    def _restore(self, origin: RestoredVm) -> None:
        restored = self._assembly.restored(origin)
        self._vm.create(restored.machine)
        self._announce(f"restored from {origin.path}")
        if restored.was_running:
            self._start_unless_paused()
        else:
            self._announce("the VM was paused when it was saved and stays so: QMP's cont starts it")

    def _await_vm(self, origin: ArrivingVm) -> None:
        receiver = transfer.listen(
            origin.uri,
            tls=origin.tls,
            refused=lambda error: self._announce(f"rejected: {error}"),
            reserve_bytes=_reserve_bytes(origin),
        )

        def build(description: MachineDescription) -> Machine:
            return self._assembly.arriving(description, origin.expected)

        self._vm.starts_on_arrival = not self._options.paused
        self._incoming = incoming.Incoming(self._vm, receiver, build)
        self._announce(f"waiting for a migration on {receiver.uri}")
        self._incoming.start()

    def _incoming_record(self) -> MigrationRecord | None:
        return self._incoming.record if self._incoming is not None else None

    def _emit(self, event: Event) -> None:
        if self._service is not None:
            self._service.broadcast(event)
        if event.name == "RESUME":
            self._consoles.deliver()
        if event.name == "MIGRATION":
            self._announce_migration()
        if event.name == "SHUTDOWN" and self._ends_an_arrived_vm():
            self._announce("the VM, which had arrived by migration, ends with this process")
        if event.name == "DUMP_COMPLETED" and self._service is not None and self._service.saved:
            self._announce(announcement.save_announcement(self._service.saved))

    def _ends_an_arrived_vm(self) -> bool:
        """Return whether the order to end may be from before the arrival: then it must be said."""
        record = self._incoming_record()
        has_arrived = record is not None and record.is_completed
        return has_arrived and self._vm.state in (VmState.RUNNING, VmState.PAUSED)

    def _announce(self, message: str) -> None:
        # The reader of our messages may have gone away; that must not disturb the VM.
        with suppress(OSError):
            self._tell(message)

    def _announce_migration(self) -> None:
        sent = self._service.migration if self._service is not None else None
        record = sent or self._incoming_record()
        if record is None:
            return
        message = announcement.announcement(record, self._vm.state)
        if message is not None:
            self._announce(message)

    def _report_disk_error(self, error: DiskError) -> None:
        """Send BLOCK_IO_ERROR; called in a device's thread."""
        event = Event(
            "BLOCK_IO_ERROR",
            devices.BlockIoError(
                error.disk, error.operation, error.no_space, error.reason
            ).to_event(),
        )
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._calls.call_soon(partial(self._emit, event))

    @contextmanager
    def _signals_kept(self) -> Iterator[None]:
        """Let signals end the VM in order while there is no event loop: `LoopCalls` has them."""

        def keep(number: int, _: object) -> None:
            self._calls.call_soon(partial(self._end_by_signal, signal.Signals(number)))

        before = {number: signal.signal(number, keep) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._end_by_signal, number)

    def _end_by_signal(self, number: signal.Signals) -> None:
        self._order_end(number.name, Ending(ShutdownReason.SIGNAL, _SIGNAL_STATUS + number))

    def _order_end(self, order: str, ending: Ending) -> None:
        try:
            self._vm.order_end(ending)
        except RunStateError as error:
            self._announce(f"{order}: {error}")

    async def _take_apart(self) -> None:
        if self._service is not None:
            await self._service.cancel()
        if self._incoming is not None:
            await self._incoming.close(_CANCEL_TIMEOUT_S)
        if self._vm.machine is not None:
            self._vm.machine.close()
        if self._service is not None:
            await self._service.close()
            self._socket = None
        self._release()

    def _release(self) -> None:
        """Release what needs no event loop for that, once."""
        if self._is_released:
            return
        self._is_released = True
        with ExitStack() as stack:  # each of them whatever becomes of the others
            stack.callback(self._consoles.close)
            if self._socket is not None:
                stack.callback(self._socket.remove)
                stack.callback(self._socket.socket.close)
                self._socket = None
            if self._vm.machine is not None:
                stack.callback(self._vm.machine.close)


def _reserve_bytes(origin: ArrivingVm) -> tuple[int, ...]:
    """Return the sizes of the planes that the arriving machine is going to have."""
    ram_bytes = origin.expected.ram_bytes
    if not origin.prealloc or ram_bytes is None:
        return ()
    return (ram_bytes, ram_bytes // PACKED_RATIO)


def _load_what_serves() -> None:
    """Load it before the control socket is there: its file tells clients that the VM has begun."""
    _ = service.VmService, device_queries.DeviceQueries, incoming.Incoming, transfer.listen
