"""What the process of a VM is asked to run, one type per origin of the VM.

An option that makes no sense for an origin has no place in its type: a seed belongs to a new guest
alone, certificates to an arriving one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tagalong import access
from tagalong.devices import VirtioBackings
from tagalong.errors import MachineMismatchError, UsageError
from tagalong.machine import Clock, MachineDescription
from tagalong.vmm.consoles import NULL, STDIO, STDOUT, takes_input
from tagalong.vmm.machine_names import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tagalong.migrate import TlsCredentials

_AT_STDOUT: Final = frozenset({STDOUT, STDIO})

DEFAULT_RAM_BYTES: Final = 64 << 20
DEFAULT_LINUX_RAM_BYTES: Final = 256 << 20
DEFAULT_MAX_RAM_BYTES: Final = 64 << 30


@dataclass(frozen=True)
class NewVm:
    """A guest program that starts; `guest` is a built-in program's name or a file's path."""

    guest: str
    guest_arguments: str = ""
    ram_bytes: int = DEFAULT_RAM_BYTES
    vcpu_count: int = 1
    seed: int = 0


@dataclass(frozen=True)
class KernelFiles:
    """A Linux kernel, or what else follows its boot protocol. `command_line` is the kernel's."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""


@dataclass(frozen=True)
class NewLinux:
    """A kernel that starts.

    `seed`: of the run, and of the random bytes that the kernel gets, where runs are reproducible.
    `dump_dtb`: write the device tree there, and run nothing.
    """

    files: KernelFiles
    ram_bytes: int = DEFAULT_LINUX_RAM_BYTES
    vcpu_count: int = 1
    seed: int = 0
    dump_dtb: Path | None = None


@dataclass(frozen=True)
class ExpectedMachine:
    """What a machine that arrives or is restored must be.

    `ram_bytes` and `vcpu_count` count only where they are not None. `max_ram_bytes` bounds what
    a stream can make this host map. `allow_cpu_mismatch`: accept the state
    of a CPU that identifies itself differently, and list how.
    """

    ram_bytes: int | None = None
    vcpu_count: int | None = None
    max_ram_bytes: int = DEFAULT_MAX_RAM_BYTES
    allow_cpu_mismatch: bool = False

    def check(self, description: MachineDescription) -> None:
        """Raise MachineMismatchError unless `description` is what is expected."""
        ram_bytes, vcpu_count = description.ram_bytes, description.vcpu_count
        if ram_bytes > self.max_ram_bytes:
            raise MachineMismatchError(
                f"the arriving machine has {_mib(ram_bytes)} of RAM, more than --max-ram allows "
                f"({_mib(self.max_ram_bytes)})"
            )
        if self.ram_bytes not in (None, ram_bytes):
            raise MachineMismatchError(
                f"the arriving machine has {_mib(ram_bytes)} of RAM, --ram says "
                f"{_mib(self.ram_bytes or 0)}"
            )
        if self.vcpu_count not in (None, vcpu_count):
            raise MachineMismatchError(
                f"the arriving machine has {vcpu_count} vCPU{'s' * (vcpu_count != 1)}, "
                f"--vcpus says {self.vcpu_count}"
            )


@dataclass(frozen=True)
class ArrivingVm:
    """A VM that comes by migration, awaited at `uri`.

    `tls`: this side's certificates, and which sources it admits; None without TLS. `prealloc`: make
    its memory ready while waiting. `restart`: what a reset starts here; None: it ends the VM.
    Raises UsageError if `prealloc` is asked for without a size.
    """

    uri: str
    expected: ExpectedMachine = field(default_factory=ExpectedMachine)
    tls: TlsCredentials | None = None
    prealloc: bool = False
    restart: KernelFiles | None = None

    def __post_init__(self) -> None:
        if self.prealloc and self.expected.ram_bytes is None:
            raise UsageError("--prealloc needs --ram: how much memory the arriving VM has")


@dataclass(frozen=True)
class RestoredVm:
    """A VM that continues from a snapshot. `restart`: as in ArrivingVm."""

    path: Path
    expected: ExpectedMachine = field(default_factory=ExpectedMachine)
    restart: KernelFiles | None = None


VmOrigin = NewVm | NewLinux | ArrivingVm | RestoredVm


@dataclass(frozen=True)
class RunOptions:
    """What `tagalong run` was asked for.

    `control` is the path of the control socket; None for none. `machine` and `access` are names, or
    "auto". `paused`: leave the guest paused until QMP's cont. `parent_pid`: end with that process.
    `console`: where the UART's console is (consoles.py); None: standard output, unless a virtio
    console is there. `virtio_consoles`: where those are, by their names.
    `clock`: what the guest's time follows; None: see `clock_to_use`.
    `devices`: what backs the VM's virtio devices here; a new VM has just these.
    `no_reboot`: end the VM where it would be reset.
    """

    origin: VmOrigin
    control: Path | None = None
    machine: str = AUTO
    access: str = access.AUTO
    clock: Clock | None = None
    paused: bool = False
    parent_pid: int | None = None
    console: str | None = None
    virtio_consoles: Mapping[str, str] = field(default_factory=dict)
    devices: VirtioBackings = field(default_factory=VirtioBackings)
    no_reboot: bool = False

    def __post_init__(self) -> None:
        at_stdout = [where for where in self._consoles if where in _AT_STDOUT]
        if len(at_stdout) > 1:
            raise UsageError(
                f"{len(at_stdout)} consoles are at standard output ({', '.join(at_stdout)}): put "
                "all but one of them elsewhere"
            )

    @property
    def _consoles(self) -> list[str]:
        return [self.uart_console, *self.virtio_consoles.values()]

    @property
    def uart_console(self) -> str:
        """Return where the UART's console is."""
        if self.console is not None:
            return self.console
        return NULL if _AT_STDOUT & set(self.virtio_consoles.values()) else STDOUT

    @property
    def takes_input(self) -> bool:
        """Return whether one of the consoles takes input."""
        return any(map(takes_input, self._consoles))

    @property
    def clock_to_use(self) -> Clock | None:
        """Return `clock`, or the host's if a console takes input; None is the machine's default.

        What is typed arrives at any instruction, so no such run can be repeated. And while a guest
        waits for a key, time that jumps to its next timer would fly, and take a whole core for it.
        """
        if self.clock is None and self.takes_input:
            return Clock.HOST
        return self.clock


def _mib(size_bytes: int) -> str:
    """Return a size as an operator writes it."""
    return f"{size_bytes / (1 << 20):.15g} MiB"
