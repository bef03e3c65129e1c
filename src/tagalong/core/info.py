"""What is in a core, as plain values for JSON."""

from collections.abc import Iterator

from tagalong import __version__
from tagalong.core.headers import is_not_written
from tagalong.core.notes import CoreVcpu, other_system
from tagalong.core.reader import Core
from tagalong.core.thread_notes import AT_HWCAP2, HWCAP2_MTE
from tagalong.errors import MalformedCoreError
from tagalong.mte.version import MteVersion

Info = dict[str, object]


def describe(core: Core) -> Info:
    """Return what an open core holds; addresses and register values are hex strings.

    What damaged notes hold is missing, and `damage` has the reason.
    """
    info: Info = {
        "tagalong": __version__,
        "compressed": core.source.fd is None,
        "size_bytes": core.source.size,
        "regions": [
            {
                "start": hex(region.address),
                "end": hex(region.end),
                "size_bytes": region.size_bytes,
                "data": region.has_data,
                "tags": region.has_tags,
            }
            for region in core.regions
        ],
        "tags_not_written": [
            {"start": hex(each.address), "end": hex(each.end), "size_bytes": each.size_bytes}
            for each in core.tag_segments
            if is_not_written(each)
        ],
        "cut_short": any(header.is_cut for header in core.headers),
    }
    try:
        info.update(_notes(core))
    except MalformedCoreError as error:
        info["damage"] = str(error)
    return info


def _notes(core: Core) -> Iterator[tuple[str, object]]:
    yield "hwcap2_mte", bool((core.auxiliary_vector or {}).get(AT_HWCAP2, 0) & HWCAP2_MTE)
    yield "other_system", other_system(core.notes)
    yield "vcpus", [_vcpu(vcpu) for vcpu in core.vcpus]
    yield "machine", _machine(core)
    yield "linux", _linux(core)


def _machine(core: Core) -> Info | None:
    """Return what the vendor note says, None in a core of another writer."""
    notes = core.machine
    if notes is None:
        return None
    return {
        "space": notes.space.name.lower(),
        "vcpu": notes.vcpu,
        "running": notes.running,
        "torn": notes.is_torn,
        "page_size_bytes": notes.description.page_size_bytes,
        "vcpu_count": notes.description.vcpu_count,
        "mte": MteVersion(notes.description.mte_version).name,
        "ram_bytes": notes.description.ram_bytes,
        "devices": sorted(notes.state.devices),
    }


def _linux(core: Core) -> Info | None:
    """Return what VMCOREINFO says of the guest's kernel, None without it."""
    kernel = core.vmcoreinfo
    if kernel is None:
        return None
    offset = kernel.kernel_offset
    return {
        "osrelease": kernel.osrelease,
        "page_size_bytes": kernel.page_size_bytes,
        "kernel_offset": None if offset is None else hex(offset),
        "kernel_table": hex(kernel.kernel_table),
    }


def _vcpu(vcpu: CoreVcpu) -> Info:
    control = vcpu.tagged_address_control
    return {
        "thread": vcpu.thread,
        "signal": vcpu.signal,
        "pc": hex(vcpu.pc),
        "sp": hex(vcpu.sp),
        "pstate": hex(vcpu.pstate),
        "x": [hex(value) for value in vcpu.x],
        "tagged_address_control": None if control is None else hex(control),
    }
