"""The process of one VM: from its options to its exit status."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tagalong import access
from tagalong.boot import boot_guest
from tagalong.boot.choice import read_guest
from tagalong.errors import MachineError, TagalongError, UsageError
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.mte import PACKED_RATIO
from tagalong.qmp.messages import Event
from tagalong.qmp.server import ControlServer
from tagalong.vmm.announcement import announcement, save_announcement
from tagalong.vmm.commands import VmCommands
from tagalong.vmm.console import ConsoleWriter
from tagalong.vmm.factory import (
    AUTO,
    build_arriving,
    check_description,
    choose_machine,
    machine_factory,
)
from tagalong.vmm.incoming import Incoming
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.parent import exit_with_parent
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.saving import Saving
from tagalong.vmm.storage import load, store
from tagalong.vmm.transfer import listen, send
from tagalong.vmm.vm import Ending, ShutdownReason, Vm

DEFAULT_RAM_BYTES = 64 << 20
DEFAULT_MAX_RAM_BYTES = 64 << 30

_STDOUT = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_STATUS = 128
_CANCEL_TIMEOUT_S = 5.0

Announce = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """What `tagalong run` was asked for; None where the operator said nothing.

    Raises UsageError for options that contradict each other.
    """

    control: Path
    machine: str = AUTO
    access: str = access.AUTO
    allow_cpu_mismatch: bool = False
    ram_bytes: int | None = None
    vcpu_count: int | None = None
    guest: str | None = None
    guest_arguments: str | None = None
    seed: int | None = None
    incoming: str | None = None
    restore: Path | None = None
    paused: bool = False
    max_ram_bytes: int = DEFAULT_MAX_RAM_BYTES
    prealloc: bool = False
    tls_folder: Path | None = None
    tls_admitted: tuple[str, ...] = ()
    parent_pid: int | None = None

    def __post_init__(self) -> None:
        if self.incoming is not None and self.restore is not None:
            raise UsageError("a VM is either awaited (--incoming) or restored (--restore)")
        is_new = self.incoming is None and self.restore is None
        if is_new:
            self._check_new()
        if self.incoming is None:
            self._refuse_incoming_options()
        if self.tls_admitted and self.tls_folder is None:
            raise UsageError("--tls-admit has a meaning only with --tls-dir")
        if self.prealloc and self.ram_bytes is None:
            raise UsageError("--prealloc needs --ram: how much memory the arriving VM has")
        if not is_new:
            self._refuse_guest_options()

    def _refuse_guest_options(self) -> None:
        source = "--incoming" if self.incoming is not None else "--restore"
        given = {
            "--guest": self.guest,
            "--guest-args": self.guest_arguments,
            "--seed": self.seed,
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} has no meaning with {source}: the guest arrives")

    def _check_new(self) -> None:
        if self.guest is None:
            raise UsageError(
                "nothing to run: say --guest, --incoming to wait for a VM, or --restore"
            )
        if self.allow_cpu_mismatch:
            raise UsageError("--allow-cpu-mismatch has a meaning only with --incoming or --restore")

    def _refuse_incoming_options(self) -> None:
        given = {
            "--tls-dir": self.tls_folder,
            "--tls-admit": self.tls_admitted,
            "--prealloc": self.prealloc,
        }
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} has a meaning only with --incoming")


def run_vm(options: RunOptions, announce: Announce) -> int:
    """Run a VM until it ends and return the exit status.

    The guest's console goes to standard output, `announce` gets messages for people.
    Raises the error that ended the VM. The control socket is removed in any case.
    """
    if options.parent_pid is not None:
        exit_with_parent(options.parent_pid)
    ending = asyncio.run(_VmProcess(options, announce).run())
    if isinstance(ending.error, TagalongError):
        raise ending.error
    if ending.error is not None:
        raise MachineError(f"the machine failed: {ending.error}") from ending.error
    return ending.exit_code


class _VmProcess:
    """Puts a VM together and takes it apart; lives as long as its event loop."""

    def __init__(self, options: RunOptions, announce: Announce) -> None:
        self._options = options
        self._tell = announce

    async def run(self) -> Ending:
        self._vm = Vm(self._emit)
        self._outgoing = Outgoing(self._vm, send)
        self._incoming: Incoming | None = None
        self._saving = Saving(self._vm, store, self._emit)
        self._server = ControlServer(
            VmCommands(self._vm, self._outgoing, lambda: self._incoming, self._saving)
        )
        self._console = ConsoleWriter(_STDOUT)
        self._handle_signals()
        try:
            await self._server.start(self._options.control)
            self._announce(f"control socket (QMP): {self._options.control}")
            self._choose_machine()
            self._begin()
            return await self._vm.ended
        finally:
            await self._take_apart()

    def _choose_machine(self) -> None:
        choice = choose_machine(self._options.machine)
        self._machine = choice.name
        if self._options.machine == AUTO:
            self._announce(f"machine: {choice.name} ({choice.reason})")

    def _begin(self) -> None:
        if self._options.incoming is not None:
            self._await_vm(self._options.incoming)
            return
        if self._options.restore is not None:
            self._restore(self._options.restore)
            return
        self._vm.create(self._new_machine())
        if not self._options.paused:
            self._vm.cont()

    def _new_machine(self) -> Machine:
        options = self._options
        image = read_guest(options.guest or "")
        machine = machine_factory(self._machine).create(
            ram_bytes=options.ram_bytes or DEFAULT_RAM_BYTES,
            vcpu_count=options.vcpu_count or 1,
            seed=options.seed or 0,
            console=self._console.write,
        )
        self._use_access(machine)
        try:
            boot_guest(
                machine,
                image,
                command_line=options.guest_arguments or "",
                seed=options.seed or 0,
            )
        except TagalongError:
            machine.close()
            raise
        return machine

    def _restore(self, path: Path) -> None:
        restored = load(
            path, self._machine, self._console.write, self._policy(), self._check_arriving
        )
        self._use_access(restored.machine)
        self._vm.create(restored.machine)
        self._announce(f"restored from {path}")
        if not restored.was_running:
            self._announce("the VM was paused when it was saved and stays so: QMP's cont starts it")
        elif not self._options.paused:
            self._vm.cont()

    def _await_vm(self, uri: str) -> None:
        receiver = listen(
            uri,
            tls_folder=self._options.tls_folder,
            admitted=self._options.tls_admitted,
            refused=lambda error: self._announce(f"turned away: {error}"),
            reserve_bytes=self._reserve_bytes(),
        )
        self._vm.starts_on_arrival = not self._options.paused
        self._incoming = Incoming(self._vm, receiver, self._build_arriving)
        self._announce(f"waiting for a migration on {receiver.uri}")
        self._incoming.start()

    def _reserve_bytes(self) -> tuple[int, ...]:
        """Return the sizes of the planes that the arriving machine is going to have."""
        ram_bytes = self._options.ram_bytes
        if not self._options.prealloc or ram_bytes is None:
            return ()
        return (ram_bytes, ram_bytes // PACKED_RATIO)

    def _build_arriving(self, description: MachineDescription) -> Machine:
        """Make the machine that a stream describes; in the migration's thread."""
        self._check_arriving(description)
        machine = build_arriving(self._machine, description, self._console.write, self._policy())
        self._use_access(machine)
        return machine

    def _check_arriving(self, description: MachineDescription) -> None:
        check_description(
            description,
            ram_bytes=self._options.ram_bytes,
            vcpu_count=self._options.vcpu_count,
            max_ram_bytes=self._options.max_ram_bytes,
        )

    def _use_access(self, machine: Machine) -> None:
        """Choose how guest RAM is touched; after an error the machine is closed."""
        try:
            choice = machine.use_access(self._options.access)
        except TagalongError:
            machine.close()
            raise
        self._announce(f"access: {choice.name} ({choice.reason})")

    def _policy(self) -> CpuPolicy:
        return CpuPolicy(self._options.allow_cpu_mismatch, self._tell_mismatch)

    def _tell_mismatch(self, difference: str) -> None:
        self._announce(f"CPU mismatch accepted: {difference}")

    def _incoming_record(self) -> MigrationRecord | None:
        return self._incoming.record if self._incoming is not None else None

    def _emit(self, event: Event) -> None:
        self._server.broadcast(event)
        if event.name == "MIGRATION":
            self._announce_migration()
        if event.name == "DUMP_COMPLETED" and self._saving.record is not None:
            self._announce(save_announcement(self._saving.record))

    def _announce(self, message: str) -> None:
        # Whoever listened may be gone; that must not disturb the VM.
        with suppress(OSError):
            self._tell(message)

    def _announce_migration(self) -> None:
        record = self._outgoing.record or self._incoming_record()
        message = announcement(record, self._vm.state) if record is not None else None
        if message is not None:
            self._announce(message)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            ending = Ending(ShutdownReason.SIGNAL, _SIGNAL_STATUS + number)
            loop.add_signal_handler(number, self._vm.end, ending)

    async def _take_apart(self) -> None:
        await self._outgoing.cancel_and_wait(_CANCEL_TIMEOUT_S)
        await self._saving.cancel_and_wait(_CANCEL_TIMEOUT_S)
        if self._incoming is not None:
            await self._incoming.close(_CANCEL_TIMEOUT_S)
        if self._vm.machine is not None:
            self._vm.machine.close()
        await self._server.close()
        self._console.close()
