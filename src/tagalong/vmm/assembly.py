"""Makes the machine of a VM: a new one, one that a stream describes, one out of a snapshot."""

from collections.abc import Callable

from tagalong.boot import boot_guest
from tagalong.boot.choice import read_guest
from tagalong.errors import TagalongError
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.snapshot import Restored
from tagalong.vmm.factory import (
    AUTO,
    ConsoleSink,
    build_arriving,
    choose_machine,
    machine_factory,
)
from tagalong.vmm.options import ExpectedMachine, NewVm, RestoredVm
from tagalong.vmm.storage import load


class MachineAssembly:
    """Makes machines of one kind with one access strategy; `announce` gets what was chosen.

    Raises UsageError or HostError if there is no such machine here. Every method closes the machine
    that it made if it raises.
    """

    def __init__(
        self,
        machine: str,
        access: str,
        console: ConsoleSink,
        announce: Callable[[str], None],
    ) -> None:
        choice = choose_machine(machine)
        self._name = choice.name
        self._access = access
        self._console = console
        self._announce = announce
        if machine == AUTO:
            announce(f"machine: {choice.name} ({choice.reason})")

    def new(self, origin: NewVm) -> Machine:
        """Return a machine with the guest program loaded. Raises GuestImageError, HostError."""
        image = read_guest(origin.guest)
        machine = machine_factory(self._name).create(
            ram_bytes=origin.ram_bytes,
            vcpu_count=origin.vcpu_count,
            seed=origin.seed,
            console=self._console,
        )
        self._use_access(machine)
        try:
            boot_guest(machine, image, command_line=origin.guest_arguments, seed=origin.seed)
        except TagalongError:
            machine.close()
            raise
        return machine

    def arriving(self, description: MachineDescription, expected: ExpectedMachine) -> Machine:
        """Return an empty machine that can hold what `description` says.

        Called in a migration's thread. Raises MachineMismatchError, HostError.
        """
        expected.check(description)
        policy = self._policy(expected)
        machine = build_arriving(self._name, description, self._console, policy)
        self._use_access(machine)
        return machine

    def restored(self, origin: RestoredVm) -> Restored:
        """Return the machine of a snapshot. Raises as snapshot.restore."""
        policy = self._policy(origin.expected)
        restored = load(origin.path, self._name, self._console, policy, origin.expected.check)
        self._use_access(restored.machine)
        return restored

    def _use_access(self, machine: Machine) -> None:
        """Choose how guest RAM is accessed; close the machine if that is impossible."""
        try:
            choice = machine.use_access(self._access)
        except TagalongError:
            machine.close()
            raise
        self._announce(f"access: {choice.name} ({choice.reason})")

    def _policy(self, expected: ExpectedMachine) -> CpuPolicy:
        def tell(difference: str) -> None:
            self._announce(f"CPU mismatch accepted: {difference}")

        return CpuPolicy(expected.allow_cpu_mismatch, tell)
