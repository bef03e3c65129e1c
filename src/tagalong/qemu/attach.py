"""Makes a core of a guest that a QEMU runs, which we have not started.

Memory is read through a mapping of our own, tags through one with PROT_MTE. Registers, the pause
and the memory map come from QEMU's monitor, if one is given; else the core has no registers, the
guest runs on meanwhile, and RAM is where the virt machine has it. The report says which.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tagalong.core import CoreVcpu
from tagalong.errors import CoreError, UsageError
from tagalong.files import require_file_name
from tagalong.machine import (
    MachineDescription,
    MachineState,
    MemoryMap,
    PowerState,
    RegionDescription,
    RegisterId,
    VcpuState,
    register_ids,
)
from tagalong.memory import Gpa
from tagalong.mte import PAGE_SIZES_BYTES
from tagalong.mte.version import MteVersion
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.qemu.known import VIRT_DEVICES, VIRT_RAM
from tagalong.qemu.monitor import QemuMonitor, connect
from tagalong.qemu.process import QemuProcess, open_process
from tagalong.qemu.shared_ram import can_read_tags, map_ram
from tagalong.snapshot import SaveOptions, SaveProgress, SaveReport, StillMachine, dump_machine

_SPSEL = 1
_EL_SHIFT, _EL_MASK = 2, 3


@dataclass(frozen=True)
class Attached:
    """What became of the dump of a process.

    `tags`, `registers`, `layout`, `pause`: in words, where each came from, or why it is absent.
    """

    report: SaveReport
    tags: str
    registers: str
    layout: str
    pause: str

    def to_json(self) -> Mapping[str, object]:
        """Return the report with plain values; times in milliseconds."""
        words = {name: getattr(self, name) for name in ("tags", "registers", "layout", "pause")}
        return {**self.report.to_json(), **words}


@dataclass(frozen=True)
class _Guest:
    """What is known of a guest besides its memory: (gpa, size, offset in the RAM) of each range."""

    ranges: tuple[tuple[int, int, int], ...]
    vcpus: tuple[CoreVcpu, ...]
    was_running: bool | None


def dump_process(
    pid: int,
    path: Path,
    options: SaveOptions | None = None,
    *,
    monitor: Path | None = None,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
) -> Attached:
    """Write the guest of the QEMU with process id `pid` to a core at `path`.

    `monitor`: QEMU's QMP socket; the guest is paused then, and runs on afterwards in any case. The
    core is by physical addresses: the registers that lead to the guest's tables are not known.

    Raises CoreError, with the way out, if it is no QEMU for arm64 or its RAM cannot be read,
    HostError if there is no such process, ControlError if the monitor fails, UsageError for
    another space, and what `snapshot.dump_machine` raises; no file is written then.

    >>> dump_process(4711, Path("vm.core"), monitor=Path("qmp.sock"))  # doctest: +SKIP
    """
    options = options or SaveOptions()
    if options.space.value:
        raise UsageError(
            "only physical addresses can be dumped of another process: QEMU's monitor does not "
            "tell the registers that lead to the guest's tables; dump those, and use drgn"
        )
    require_file_name(path)
    with open_process(pid) as process, _ask(process, monitor) as guest:
        has_tags = process.is_kvm and can_read_tags()
        description = _describe(process, guest, has_tags=has_tags)
        offsets = tuple(offset for _, _, offset in guest.ranges)
        with map_ram(
            process.ram_fd, process.ram_bytes, MemoryMap.of(description), offsets
        ) as pages:
            state = MachineState(_vcpus(guest, description.vcpu_count), {VIRT_DEVICES.name: b""})
            machine = StillMachine(
                description, state, pages, bool(guest.was_running), is_torn=monitor is None
            )
            report = dump_machine(machine, path, options, progress=progress, cancel=cancel)
    return _report(
        replace(report, was_running=bool(guest.was_running)), process, guest, has_tags=has_tags
    )


@contextmanager
def _ask(process: QemuProcess, path: Path | None) -> Iterator[_Guest]:
    """Yield what the monitor says of a guest, which is paused meanwhile; or what is assumed."""
    if path is None:
        yield _Guest(((VIRT_RAM, process.ram_bytes, 0),), (), None)
        return
    with ExitStack() as stack:
        monitor = stack.enter_context(connect(path))
        ranges = _ranges(monitor, process)
        was_running = stack.enter_context(monitor.paused())
        yield _Guest(ranges, monitor.registers(ranges[0][0]), was_running)


def _ranges(monitor: QemuMonitor, process: QemuProcess) -> tuple[tuple[int, int, int], ...]:
    found = monitor.ranges_of(process.ram_address, process.ram_bytes)
    for gpa, size, offset in found:
        if (gpa | size | offset) % PAGE_SIZES_BYTES[0] or offset + size > process.ram_bytes:
            raise CoreError(
                f"QEMU's monitor puts [{gpa:#x}, {gpa + size:#x}) at {offset:#x} of a RAM of "
                f"{process.ram_bytes:#x} bytes"
            )
    return tuple(found)


def _describe(process: QemuProcess, guest: _Guest, *, has_tags: bool) -> MachineDescription:
    return MachineDescription(
        page_size_bytes=PAGE_SIZES_BYTES[0],
        vcpu_count=len(guest.vcpus) or max(process.vcpu_count, 1),
        mte_version=MteVersion.MTE2 if has_tags else MteVersion.NONE,
        regions=tuple(RegionDescription(Gpa(gpa), size) for gpa, size, _ in guest.ranges),
        devices=(VIRT_DEVICES,),
    )


def _vcpus(guest: _Guest, count: int) -> tuple[VcpuState, ...]:
    if not guest.vcpus:
        return (VcpuState({}, PowerState.ON),) * count
    return tuple(VcpuState(_registers(vcpu), PowerState.ON) for vcpu in guest.vcpus)


def _registers(vcpu: CoreVcpu) -> dict[RegisterId, int]:
    level = vcpu.pstate >> _EL_SHIFT & _EL_MASK if vcpu.pstate & _SPSEL else 0
    stacks = (register_ids.SP_EL0, register_ids.SP_EL1, register_ids.SP_EL2)
    found = {register_ids.x(number): value for number, value in enumerate(vcpu.x)}
    found |= {register_ids.PC: vcpu.pc, register_ids.PSTATE: vcpu.pstate}
    if level < len(stacks):
        found[stacks[level]] = vcpu.sp
    if vcpu.v is not None and vcpu.fpsr is not None and vcpu.fpcr is not None:
        found |= {register_ids.v(number): value for number, value in enumerate(vcpu.v)}
        found |= {register_ids.FPSR: vcpu.fpsr, register_ids.FPCR: vcpu.fpcr}
    return found


def _report(report: SaveReport, process: QemuProcess, guest: _Guest, *, has_tags: bool) -> Attached:
    if has_tags:
        tags = "those of the guest's pages, by a mapping with PROT_MTE"
    elif process.is_kvm:
        tags = "none: this host has no MTE"
    else:
        tags = (
            "none: QEMU emulates the guest (TCG), and its tags are not in the RAM that is shared; "
            "let QEMU save it (migrate file:PATH) and use `tagalong convert`"
        )
    if guest.was_running is None:
        return Attached(
            report,
            tags,
            "none: no monitor of QEMU was given (--qmp)",
            f"RAM at {VIRT_RAM:#x}, as the virt machine has it: assumed without a monitor",
            "none: pages are of different moments if the guest ran",
        )
    return Attached(
        report,
        tags,
        f"general and SIMD registers of {len(guest.vcpus)} vCPUs, by QEMU's monitor",
        "by QEMU's monitor",
        "the guest was paused meanwhile" if guest.was_running else "the guest did not run",
    )
