"""The machines that a comparison runs on: those that expose their host."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from tagalong.access import Host
from tagalong.machine import Machine
from tagalong.vmm.factory import ConsoleSink, machine_factory


class HostedMachine(Machine, Protocol):
    """A machine that exposes the host on which its strategies run. Both kinds do."""

    @property
    def host(self) -> Host:
        """Return what access strategies need of the machine's process."""
        ...


MachineMaker = Callable[..., HostedMachine]
"""Makes a paused machine: (ram_bytes, console)."""


def machine_maker(name: str) -> MachineMaker:
    """Return a maker of machines of kind `name`. Raises UsageError for an unknown kind."""
    return partial(_make, name)


def _make(name: str, *, ram_bytes: int, console: ConsoleSink | None = None) -> HostedMachine:
    machine = machine_factory(name).create(
        ram_bytes=ram_bytes, vcpu_count=1, seed=0, console=console
    )
    return cast("HostedMachine", machine)
