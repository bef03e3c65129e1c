"""Makes the machine of a VM: a new one, one that a stream describes, one out of a snapshot."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tagalong._lazy import module_when_used
from tagalong.boot.linux import (
    ENTROPY_BYTES,
    LINUX_CONSOLE,
    LINUX_GIC,
    LINUX_GPIO,
    LINUX_MAX_VCPUS,
    LINUX_RTC,
    LinuxBoot,
    entropy_of,
    linux_device_tree,
    prepared_linux,
)
from tagalong.devices import (
    DeviceModels,
    InlineWork,
    ReportDiskError,
    ThreadedWork,
    VirtioDevices,
)
from tagalong.errors import MachineMismatchError, TagalongError, UsageError
from tagalong.machine import DEFAULT_CONSOLE, Machine, MachineDescription
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.vmm.factory import (
    build_arriving,
    choose_machine,
    machine_factory,
    use_clock,
)
from tagalong.vmm.machine_names import AUTO
from tagalong.vmm.options import (
    ArrivingVm,
    ExpectedMachine,
    KernelFiles,
    NewLinux,
    NewVm,
    RestoredVm,
    RunOptions,
    VmOrigin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tagalong.boot import choice, program
    from tagalong.snapshot import Restored
    from tagalong.vmm import storage
    from tagalong.vmm.handover import PrepareStart
else:  # of each, some VMs need nothing
    choice = module_when_used("tagalong.boot.choice")
    program = module_when_used("tagalong.boot.program")
    storage = module_when_used("tagalong.vmm.storage")

_Loaded = TypeVar("_Loaded")


class MachineAssembly:
    """Makes machines as `options` say, whatever their origin; `announce` gets what was chosen.

    `models`: the devices that are tied to this process, by kind; the others are the built-in ones.
    `report` gets the errors of disks.

    Raises UsageError or HostError if there is no such machine here. Every method closes the machine
    that it made if it raises.
    """

    def __init__(
        self,
        options: RunOptions,
        models: DeviceModels,
        report: ReportDiskError,
        announce: Callable[[str], None],
    ) -> None:
        has_gic = isinstance(options.origin, NewLinux)
        chosen = choose_machine(options.machine, LINUX_GIC if has_gic else None)
        self._name = chosen.name
        self._access = options.access
        self._clock = options.clock_to_use
        self._own_models = models
        self._devices = options.devices
        self._report = report
        self._announce = announce
        if options.machine == AUTO:
            announce(f"machine: {chosen.name} ({chosen.reason})")

    def new(self, origin: NewVm) -> Machine:
        """Return a machine with the guest program loaded. Raises GuestImageError, HostError."""
        with _prepared_program(origin, is_new=True) as load:
            machine = machine_factory(self._name).create(
                ram_bytes=origin.ram_bytes,
                vcpu_count=origin.vcpu_count,
                seed=origin.seed,
                devices=(DEFAULT_CONSOLE, *self._devices.describe()),
                models=self._models(origin.seed),
            )
            self._prepare(machine)
            _load(load, machine)
        return machine

    def linux(self, origin: NewLinux) -> Machine:
        """Return a machine with a kernel loaded. Raises GuestImageError, HostError."""
        description = self._linux_description(origin)
        with prepared_linux(description, self._linux_boot(origin.files, origin.seed)) as load:
            machine = machine_factory(self._name).from_description(
                description,
                seed=origin.seed,
                models=self._models(origin.seed),
                policy=STRICT,
            )
            self._prepare(machine)
            form = _load(load, machine)
        self._announce(f"kernel: {form.value}")
        return machine

    def prepare_start(self, origin: VmOrigin) -> PrepareStart | None:
        """Return what starts a VM's guest anew after a reset, None if this process has nothing."""
        match origin:
            case NewVm():
                return lambda _: _prepared_program(origin)
            case NewLinux():
                files, seed = origin.files, origin.seed
            case ArrivingVm(restart=None) | RestoredVm(restart=None):
                return None
            case (
                ArrivingVm(restart=KernelFiles() as files)
                | RestoredVm(restart=KernelFiles() as files)
            ):
                seed = 0
        return lambda description: prepared_linux(description, self._linux_boot(files, seed))

    def linux_device_tree(self, origin: NewLinux) -> bytes:
        """Return the device tree that linux() gives the kernel. Raises as that does."""
        boot = self._linux_boot(origin.files, origin.seed)
        return linux_device_tree(self._linux_description(origin), boot)

    def _linux_description(self, origin: NewLinux) -> MachineDescription:
        if origin.vcpu_count > LINUX_MAX_VCPUS:
            raise UsageError(
                f"cannot make {origin.vcpu_count} vCPUs: a machine for a kernel has 1 to "
                f"{LINUX_MAX_VCPUS}, whose redistributors lie below the UART at "
                f"{LINUX_CONSOLE.gpa:#x}; give fewer with --vcpus"
            )
        return machine_factory(self._name).describe(
            ram_bytes=origin.ram_bytes,
            vcpu_count=origin.vcpu_count,
            devices=(LINUX_CONSOLE, LINUX_RTC, LINUX_GPIO, *self._devices.describe()),
            gic=LINUX_GIC,
        )

    def _linux_boot(self, files: KernelFiles, seed: int) -> LinuxBoot:
        entropy = entropy_of(seed) if self._is_reproducible else os.urandom(ENTROPY_BYTES)
        return LinuxBoot(files.kernel, files.initrd, files.command_line, entropy)

    def arriving(self, description: MachineDescription, expected: ExpectedMachine) -> Machine:
        """Return an empty machine that can hold what `description` says.

        Called in a migration's thread. Raises MachineMismatchError, HostError.
        """
        self._check(description, expected)
        policy = self._policy(expected)
        machine = build_arriving(self._name, description, self._models(), policy)
        self._set_up(machine)
        return machine

    def restored(self, origin: RestoredVm) -> Restored:
        """Return the machine of a snapshot. Raises as snapshot.restore."""
        policy = self._policy(origin.expected)
        check = partial(self._check, expected=origin.expected)
        restored = storage.load(origin.path, self._name, self._models(), policy, check)
        self._prepare(restored.machine)
        return restored

    @property
    def _is_reproducible(self) -> bool:
        # On real hardware no run is like another; there is nothing that a seed could repeat.
        return self._name == "soft"

    def _models(self, seed: int = 0) -> DeviceModels:
        """Return a model for each kind of device of one machine."""
        virtio = VirtioDevices(
            self._devices,
            InlineWork if self._is_reproducible else ThreadedWork,
            seed=seed if self._is_reproducible else None,
            report=self._report,
        )
        return {**virtio.models(), **self._own_models}

    def _check(self, description: MachineDescription, expected: ExpectedMachine) -> None:
        """Raise MachineMismatchError unless this process can have the machine described."""
        expected.check(description)
        if objections := "; ".join(self._devices.objections(description.devices)):
            raise MachineMismatchError(objections)

    def _prepare(self, machine: Machine) -> None:
        """Choose how its RAM is accessed and lock its disks; close it if that is impossible."""
        self._set_up(machine)
        try:
            machine.activate()
        except TagalongError:
            machine.close()
            raise

    def _set_up(self, machine: Machine) -> None:
        """Choose how guest RAM is accessed, and the clock; close the machine if it cannot be."""
        try:
            access = machine.use_access(self._access)
            if self._clock is not None:
                use_clock(machine, self._clock)
        except TagalongError:
            machine.close()
            raise
        self._announce(f"access: {access.name} ({access.reason})")

    def _policy(self, expected: ExpectedMachine) -> CpuPolicy:
        def tell(difference: str) -> None:
            self._announce(f"CPU mismatch accepted: {difference}")

        return CpuPolicy(expected.allow_cpu_mismatch, tell)


@contextmanager
def _prepared_program(
    origin: NewVm, *, is_new: bool = False
) -> Iterator[Callable[[Machine], None]]:
    """Read a guest program, and yield what loads it into a machine.

    `is_new`: nothing has used the machine's RAM. Otherwise it is cleared, which takes numpy.
    """
    image = choice.read_guest(origin.guest)
    program.parse_image(image)

    def load(machine: Machine) -> None:
        if not is_new:
            program.clear_ram(machine)
        program.boot_guest(machine, image, command_line=origin.guest_arguments, seed=origin.seed)

    yield load


def _load(load: Callable[[Machine], _Loaded], machine: Machine) -> _Loaded:
    """Load a new machine's guest; close the machine if that raises."""
    try:
        return load(machine)
    except TagalongError:
        machine.close()
        raise
