"""The machines that every conformance test runs on: the same guests, the same assertions.

TAGALONG_MACHINES (names, separated by blanks) says which; each has to work then. Without it
the tests run on `soft`, and on `kvm` where this host can do it. Inside the lab it is `kvm`
alone: there the embedded machine would be an interpreter on an emulator.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from tagalong.kvm import KvmMachine, why_not
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.migrate import MachineBuilder
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import SoftMachine
from tests.support.bare_program import RAM_BYTES, BareProgram, Maker
from tests.support.running_guest import Boot, RunningGuest

KINDS: dict[str, type[SoftMachine] | type[KvmMachine]] = {"soft": SoftMachine, "kvm": KvmMachine}


def machines() -> list[str]:
    """Return the names of the machines to test."""
    default = "kvm" if "TAGALONG_INSIDE_LAB" in os.environ else ""
    asked = os.environ.get("TAGALONG_MACHINES", default).split()
    if asked:
        return asked
    return ["soft"] if why_not() is not None else ["soft", "kvm"]


# What needs KVM, or goes across the seam; and what only the embedded machine promises.
collect_ignore = [] if "kvm" in machines() else ["test_alias.py", "test_seam.py"]
# They take minutes on an emulated KVM: there `make kernels` runs them, by themselves.
_LONG = ["test_linux_memory.py"]
collect_ignore += [] if "soft" in machines() or "TAGALONG_LONG" in os.environ else _LONG
collect_ignore += [] if "soft" in machines() else ["test_determinism.py", "test_linux_debugger.py"]


@pytest.fixture(params=machines())
def machine_name(request: pytest.FixtureRequest) -> str:
    """Return the name of the machine under test."""
    return str(request.param)


@pytest.fixture
def page(machine_name: str) -> int:
    """Return the page size of a new machine, in bytes: on KVM the host's."""
    return KINDS[machine_name].describe(ram_bytes=1 << 20).page_size_bytes


@pytest.fixture
def opened() -> Iterator[list[Machine]]:
    """Return a list of machines that are closed at the end."""
    machines: list[Machine] = []
    yield machines
    for machine in machines:
        machine.close()


@pytest.fixture
def boot(machine_name: str, opened: list[Machine]) -> Boot:
    """Return a function that starts a built-in guest.

    `on` names another machine than the one under test.
    """

    def start(
        guest: str, command_line: str = "", *, on: str = machine_name, **options: int
    ) -> RunningGuest:
        running = RunningGuest(KINDS[on].create, guest, command_line, **options)
        opened.append(running.machine)
        return running

    return start


@pytest.fixture
def bare(machine_name: str, opened: list[Machine]) -> Maker:
    """Return a function that makes a machine with a few instructions in it."""

    def make(
        words: Sequence[int],
        x: dict[int, int] | None = None,
        *,
        mode: TagCheckMode = TagCheckMode.SYNC,
        ram_bytes: int = RAM_BYTES,
    ) -> BareProgram:
        create = KINDS[machine_name].create
        program = BareProgram(create, words, x, mode=mode, ram_bytes=ram_bytes)
        opened.append(program.machine)
        return program

    return make


@pytest.fixture
def from_description(machine_name: str, opened: list[Machine]) -> MachineBuilder:
    """Return what builds the machine that a stream describes."""
    return partial(arrive, machine_name, opened)


def arrive(
    name: str,
    opened: list[Machine],
    description: MachineDescription,
    *,
    policy: CpuPolicy = STRICT,
    console: Callable[[bytes], None] | None = None,
) -> Machine:
    """Build a machine of kind `name`, to be closed at the end."""
    machine = KINDS[name].from_description(description, policy=policy, console=console)
    opened.append(machine)
    return machine
