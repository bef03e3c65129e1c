"""Whether drgn and crash read the Linux kernel in a core: what follows from its VMCOREINFO."""

from dataclasses import dataclass

from tagalong.core.machine_note import Space
from tagalong.core.reader import Core
from tagalong.errors import MalformedCoreError


@dataclass(frozen=True)
class KernelVerdict:
    """Whether drgn and crash read the guest's kernel at its virtual addresses, and why."""

    opens: bool
    reason: str


def kernel_verdict(core: Core) -> KernelVerdict | None:
    """Return what drgn and crash do with an open core, None if it is not of a whole machine.

    Both take a core for one of a kernel if it has VMCOREINFO, and walk the kernel's own tables
    from swapper_pg_dir on, at physical addresses.
    """
    try:
        kernel, machine = core.vmcoreinfo, core.machine
    except MalformedCoreError as error:
        return KernelVerdict(False, str(error))
    if kernel is None:
        return None if machine is None else KernelVerdict(False, _why_none(machine.space))
    table = kernel.kernel_table
    if not any(load.physical <= table < load.physical + load.file_bytes for load in core.loads):
        return KernelVerdict(
            False,
            f"Linux {kernel.osrelease}: its translation tables at gpa {table:#x} are not in the "
            "core",
        )
    return KernelVerdict(True, f"Linux {kernel.osrelease}, translation tables at gpa {table:#x}")


def _why_none(space: Space) -> str:
    if space is Space.USER:
        return "a dump of user addresses, which is no core of a kernel; dump physical ones"
    return "no VMCOREINFO in the guest's memory: it is no Linux guest, or had not booted so far"
