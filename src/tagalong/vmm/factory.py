"""The machines that a VM can be made of, by name; the seam to the implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from tagalong.errors import MachineMismatchError, UsageError
from tagalong.machine import (
    DEFAULT_CONSOLE,
    Clock,
    DeviceDescription,
    GicDescription,
    Machine,
    MachineDescription,
)
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.vmm.machine_names import AUTO, MACHINE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagalong.devices import DeviceModels
    from tagalong.memory import RegionSource

ConsoleSink = Callable[[bytes], None]


class MachineFactory(Protocol):
    """Makes machines of one kind; `models`: kinds of devices that take the built-in ones' place."""

    def create(
        self,
        *,
        ram_bytes: int,
        vcpu_count: int,
        seed: int,
        console: ConsoleSink | None = None,
        devices: Sequence[DeviceDescription] = (DEFAULT_CONSOLE,),
        models: DeviceModels | None = None,
    ) -> Machine:
        """Return a new machine for a guest of ours. Raises UsageError or HostError."""
        ...

    def describe(
        self,
        *,
        ram_bytes: int,
        vcpu_count: int,
        devices: Sequence[DeviceDescription],
        gic: GicDescription | None,
    ) -> MachineDescription:
        """Return the description of a new machine that this host can have.

        Raises UsageError for what cannot be, HostError for what the host lacks.
        """
        ...

    def from_description(
        self,
        description: MachineDescription,
        *,
        seed: int,
        models: DeviceModels | None = None,
        policy: CpuPolicy,
        sources: Sequence[RegionSource] | None = None,
    ) -> Machine:
        """Return a machine that can hold what `description` says.

        `sources`: what its regions hold at first, mapped as far as this kind of machine can
        (`Region.has_file_data`, `has_file_tags`). `policy` says what becomes of a state of
        another CPU. Raises UsageError if this kind of machine cannot, HostError if the host
        cannot.
        """
        ...


class HasClock(Protocol):
    """What machines of the factories have beside Machine's: a VM's time."""

    def use_clock(self, clock: Clock) -> None:
        """Let the guest's time follow `clock` from now on.

        Raises UsageError if this kind of machine cannot; RunStateError while it runs.
        """
        ...


def use_clock(machine: Machine, clock: Clock) -> None:
    """Let a guest's time follow `clock`; as HasClock."""
    cast("HasClock", machine).use_clock(clock)


def _soft() -> MachineFactory:
    # Imported when asked for, so that a client does not load the interpreter.
    from tagalong.soft import SoftMachine  # noqa: PLC0415

    return SoftMachine


def _kvm() -> MachineFactory:
    from tagalong.kvm import KvmMachine  # noqa: PLC0415 (as above)

    return KvmMachine


_FACTORIES: Mapping[str, Callable[[], MachineFactory]] = MappingProxyType(
    {"kvm": _kvm, "soft": _soft}
)


@dataclass(frozen=True)
class MachineChoice:
    """A machine by name, and why it and no other."""

    name: str
    reason: str


def choose_machine(name: str, gic: GicDescription | None = None) -> MachineChoice:
    """Return the machine to use: `name`, but for "auto" kvm where it works, else soft.

    `gic`: that of the machine, if it is known already: KVM is asked once for both.

    Raises HostError for "kvm" where it does not work: the message says what is missing.
    """
    if name not in (AUTO, "kvm"):
        return MachineChoice(name, "asked for")
    from tagalong.kvm import why_not  # noqa: PLC0415 (as above)

    obstacle = why_not(gic)
    if obstacle is None:
        reason = "this host runs guests with MTE" if name == AUTO else "asked for"
        return MachineChoice("kvm", reason)
    if name == AUTO:
        return MachineChoice("soft", f"no kvm: {obstacle}")
    raise obstacle


def machine_factory(name: str) -> MachineFactory:
    """Return the factory of machine `name`. Raises UsageError if there is none."""
    if name not in _FACTORIES:
        raise UsageError(f"no machine is called {name!r}; there is {', '.join(MACHINE_NAMES)}")
    return _FACTORIES[name]()


def build_arriving(
    name: str,
    description: MachineDescription,
    models: DeviceModels,
    policy: CpuPolicy = STRICT,
    sources: Sequence[RegionSource] | None = None,
) -> Machine:
    """Return a machine of kind `name` that can hold what a stream or a snapshot describes.

    `sources`: as in MachineFactory. Raises MachineMismatchError if that kind of machine cannot
    be like this.
    """
    try:
        return machine_factory(name).from_description(
            description, seed=0, models=models, policy=policy, sources=sources
        )
    except UsageError as error:
        raise MachineMismatchError(f"machine {name!r} cannot hold the VM: {error}") from error
