"""What is in a core, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tagalong.cli.units import count, row, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tagalong.core.info import Info

_SPACES = {
    "physical": "guest physical memory",
    "kernel": "the kernel's virtual memory",
    "user": "a process's virtual memory",
}


def info_report(info: Info, path: str) -> str:
    """Return what `core.info.describe` found, in words."""
    return "\n".join(_info_lines(info, path))


def _info_lines(info: Info, path: str) -> Iterator[str]:
    machine = cast("Mapping[str, object] | None", info.get("machine"))
    yield path
    yield row("core", f"{_kind(machine)}{', compressed' if info['compressed'] else ''}")
    if machine:
        yield row("machine", _machine(machine))
        yield row("devices", ", ".join(cast("list[str]", machine["devices"])) or "none")
    if linux := cast("Mapping[str, object] | None", info.get("linux")):
        yield row("Linux", _linux(linux))
    for region in cast("list[Mapping[str, object]]", info["regions"]):
        length = size(cast("int", region["size_bytes"]))
        yield row("region", f"[{region['start']}, {region['end']})  {length}  {_planes(region)}")
    for mapping in cast("list[Mapping[str, object]]", info["tags_not_written"]):
        length = size(cast("int", mapping["size_bytes"]))
        yield row("tagged", f"[{mapping['start']}, {mapping['end']})  {length}  tags not written")
    if info.get("other_system"):
        yield row("registers", f"in notes of {info['other_system']}, which are not read")
    for vcpu in cast("list[Mapping[str, object]]", info.get("vcpus", [])):
        registers = "  ".join(f"{name} {vcpu[name]}" for name in ("pc", "sp", "pstate"))
        yield row(f"thread {vcpu['thread']}", registers)
    if info["cut_short"]:
        yield row("DAMAGED", "the file was cut short: not all of this can be read")
    if "damage" in info:
        yield row("DAMAGED", str(info["damage"]))


def _machine(machine: Mapping[str, object]) -> str:
    return (
        f"{count(cast('int', machine['vcpu_count']), 'vCPU')}, "
        f"{size(cast('int', machine['ram_bytes']))} of RAM in pages of "
        f"{machine['page_size_bytes']} bytes, {machine['mte']}, "
        f"{_moment(machine)}"
    )


def _moment(machine: Mapping[str, object]) -> str:
    if machine["torn"]:
        return "running while it was taken: its pages are of different moments"
    return f"{'running' if machine['running'] else 'paused'} when it was taken"


def _linux(linux: Mapping[str, object]) -> str:
    offset = linux["kernel_offset"]
    moved = "" if offset is None else f", KERNELOFFSET {offset}"
    return f"{linux['osrelease']}, pages of {linux['page_size_bytes']} bytes{moved}"


def _kind(machine: Mapping[str, object] | None) -> str:
    if machine is None:
        return "not written by tagalong: no state of a machine"
    space = str(machine["space"])
    of_vcpu = f" as vCPU {machine['vcpu']} sees it" if space != "physical" else ""
    return f"{_SPACES[space]}{of_vcpu}, and the state of the machine"


def _planes(region: Mapping[str, object]) -> str:
    if region["data"]:
        return "data and tags" if region["tags"] else "data, no tags"
    return "tags, no data"
