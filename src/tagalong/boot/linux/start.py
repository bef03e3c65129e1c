"""Puts a kernel, its initial RAM disk and a device tree into a new machine."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from tagalong._lazy import module_when_used
from tagalong.boot.files import BoundedFile, opened, read_all
from tagalong.boot.linux.image import (
    HEAD_BYTES,
    MAX_KERNEL_BYTES,
    KernelForm,
    KernelImage,
    parse_kernel,
    plain_kernel,
)
from tagalong.boot.linux.placement import MAX_TREE_BYTES, BootPlacement, place
from tagalong.boot.linux.tree import ChosenNode, device_tree
from tagalong.errors import GuestImageError
from tagalong.machine import Machine, MachineDescription, Vcpu, register_ids

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tagalong.memory import Gpa, GuestMemory
else:
    hashlib = module_when_used("hashlib")

COMMAND_LINE_MAX_BYTES: Final = 2047
"""COMMAND_LINE_SIZE of arm64, without the NUL: the kernel cuts off what is behind."""

_RNG_SEED_BYTES: Final = 64
_KASLR_SEED_BYTES: Final = 8
ENTROPY_BYTES: Final = _RNG_SEED_BYTES + _KASLR_SEED_BYTES

_PSTATE_EL1H_MASKED: Final = 0x3C5

# ID_AA64MMFR0_EL1: where each page size has its field, and the values that mean that it works.
_GRANULES: Final = {
    4 << 10: (28, frozenset({0, 1})),
    16 << 10: (20, frozenset({1, 2})),
    64 << 10: (24, frozenset({0})),
}


@dataclass(frozen=True)
class LinuxBoot:
    """What to boot. `entropy`: ENTROPY_BYTES random bytes for the kernel."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""
    entropy: bytes = bytes(ENTROPY_BYTES)


def entropy_of(seed: int) -> bytes:
    """Return the random bytes that a kernel gets in a run that is to be the same each time."""
    return hashlib.shake_256(f"tagalong: boot entropy {seed}".encode()).digest(ENTROPY_BYTES)


def boot_linux(machine: Machine, boot: LinuxBoot) -> KernelForm:
    """Load all of `boot` and set vCPU 0 to start; the machine stays paused.

    Returns what the kernel file was. Raises GuestImageError or HostError; RAM may hold parts of it
    then and the machine must not be resumed.
    """
    with prepared_linux(machine.description, boot) as load:
        return load(machine)


@contextmanager
def prepared_linux(
    description: MachineDescription, boot: LinuxBoot
) -> Iterator[Callable[[Machine], KernelForm]]:
    """Check all of `boot`, and yield what loads it into a machine, as boot_linux does.

    So what is wrong with the files is known before the machine that is to start anew is touched.
    Only that a file cannot be read to its end, of those that are not packed, is found while it is
    loaded. Raises as boot_linux.
    """
    with _planned(description, boot) as plan:
        yield partial(_load, plan)


def _load(plan: _Plan, machine: Machine) -> KernelForm:
    _require_page_size(machine.vcpus[0], plan.kernel)
    memory = machine.memory
    # A kernel clears the memory after its data. But a header can claim all of RAM for that.
    memory.expect(plan.placement.kernel, min(plan.kernel.size_bytes, MAX_KERNEL_BYTES))
    _fill(memory, plan.placement.kernel, plan.kernel_file or plan.kernel.data)
    if plan.initrd is not None:
        memory.expect(plan.placement.initrd, plan.initrd.size_bytes)
        _fill(memory, plan.placement.initrd, plan.initrd)
    memory.write(plan.placement.tree, plan.tree)
    vcpu = machine.vcpus[0]
    vcpu.set_register(register_ids.x(0), plan.placement.tree)
    for number in (1, 2, 3):
        vcpu.set_register(register_ids.x(number), 0)
    vcpu.set_register(register_ids.PC, plan.placement.kernel)
    vcpu.set_register(register_ids.PSTATE, _PSTATE_EL1H_MASKED)
    return plan.kernel.form


def linux_device_tree(description: MachineDescription, boot: LinuxBoot) -> bytes:
    """Return the device tree that boot_linux would give the kernel. Raises as that does."""
    with _planned(description, boot) as plan:
        return plan.tree


class _Plan(NamedTuple):
    """What goes where; the files are open.

    `kernel_file`: None if the kernel's data were unpacked. `initrd`: None without one.
    """

    kernel: KernelImage
    kernel_file: BoundedFile | None
    placement: BootPlacement
    tree: bytes
    initrd: BoundedFile | None


@contextmanager
def _planned(description: MachineDescription, boot: LinuxBoot) -> Iterator[_Plan]:
    command_line = _checked(boot.command_line)
    with ExitStack() as files:
        file = files.enter_context(opened(boot.kernel, "kernel", MAX_KERNEL_BYTES))
        kernel = plain = plain_kernel(file.head(HEAD_BYTES), file.size_bytes)
        if kernel is None:
            kernel = parse_kernel(read_all(file), min(MAX_KERNEL_BYTES, description.ram_bytes))
        initrd = None
        if boot.initrd is not None:
            initrd = files.enter_context(
                opened(boot.initrd, "initial RAM disk", description.ram_bytes)
            )
        size_bytes = initrd.size_bytes if initrd is not None else 0
        placement = place(description.regions[0], kernel, size_bytes)
        chosen = ChosenNode(
            command_line,
            (placement.initrd, placement.initrd_end) if initrd is not None else None,
            boot.entropy[:_RNG_SEED_BYTES],
            boot.entropy[_RNG_SEED_BYTES:ENTROPY_BYTES],
        )
        kernel_file = file if plain is not None else None
        yield _Plan(kernel, kernel_file, placement, _tree(description, chosen), initrd)


def _tree(description: MachineDescription, chosen: ChosenNode) -> bytes:
    tree = device_tree(description, chosen)
    if len(tree) > MAX_TREE_BYTES:
        raise GuestImageError(
            f"the device tree has {len(tree):#x} bytes, and a kernel takes {MAX_TREE_BYTES:#x}; "
            "give the machine fewer devices"
        )
    return tree


def _checked(command_line: str) -> str:
    try:
        size = len(command_line.encode())
    except UnicodeEncodeError as error:  # bytes of an argument that are no UTF-8
        raise GuestImageError(f"kernel command line is not UTF-8: {error}") from error
    if size > COMMAND_LINE_MAX_BYTES or "\0" in command_line:
        raise GuestImageError(
            f"kernel command line of {size} bytes: at most {COMMAND_LINE_MAX_BYTES} without NUL"
        )
    return command_line


def _require_page_size(vcpu: Vcpu, kernel: KernelImage) -> None:
    """Refuse a kernel whose pages the CPU cannot translate: it would hang without a word."""
    size_bytes = kernel.page_size_bytes
    if size_bytes is None:
        return
    shift, supported = _GRANULES[size_bytes]
    features = vcpu.get_register(register_ids.ID_AA64MMFR0_EL1)
    if features >> shift & 0xF not in supported:
        raise GuestImageError(
            f"kernel: it uses pages of {size_bytes >> 10} KiB, which this machine's CPU does not "
            "have; give a kernel with another page size"
        )


def _fill(memory: GuestMemory, gpa: Gpa, content: BoundedFile | memoryview) -> None:
    if isinstance(content, memoryview):
        memory.write(gpa, content)
        return
    with memory.storing_bytes(gpa, content.size_bytes) as target:
        content.read_into(target)
