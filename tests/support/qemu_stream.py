"""Builds migration streams of QEMU byte by byte, also ones that no QEMU would write."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PAGE = 4096
RAM_BYTES = 32 * PAGE
ZERO, SIZES, PAGE_FLAG, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20

Node = dict[str, Any]


def be(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "big")


def named(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def numbers(name: str, values: Sequence[int], size: int = 8) -> tuple[Node, bytes]:
    """Return a field of big-endian numbers, and its bytes."""
    node: Node = {"name": name, "type": f"uint{8 * size}", "size": size}
    if len(values) > 1:
        node["array_len"] = len(values)
    return node, b"".join(be(value, size) for value in values)


def device(
    name: str, instance: int, fields: Sequence[tuple[Node, bytes]], **subsections: Any
) -> tuple[Node, bytes]:
    """Return the description of a device and its state."""
    node = {"name": name, "instance_id": instance, "vmsd_name": name, "version": 1}
    node["fields"] = [described for described, _ in fields]
    content = b"".join(raw for _, raw in fields)
    parts = []
    for title, inside in subsections.items():
        full = f"{name}/{title}"
        parts.append({"vmsd_name": full, "version": 3, "fields": [n for n, _ in inside]})
        content += b"\x05" + named(full) + be(3) + b"".join(raw for _, raw in inside)
    if parts:
        node["subsections"] = parts
    return node, content


SYSREGS = {
    0x6030_0000_0013_C021: 0x300,  # ID_AA64PFR1_EL1: MTE3
    0x6030_0000_0013_C102: 0x60_B5A0_3520,  # TCR_EL1
    0x4020_0000_000F_0F00: 0x1234,  # a register of AArch32, which no KVM of arm64 has
}


def vcpu(number: int = 0, *, pstate: int = 0x3C5, **changes: Sequence[int]) -> tuple[Node, bytes]:
    """Return the section of a vCPU at EL1 whose registers all differ."""
    xregs = [0x100 * (number + 1) + each for each in range(32)]
    fields = {
        "env.regs": (range(16), 4),
        "env.xregs": (xregs, 8),
        "env.pc": ([0x4020_0000 + 4 * number], 8),
        "cpsr": ([pstate], 4),
        "env.banked_spsr": (range(0x50, 0x58), 8),
        "env.elr_el": (range(0x60, 0x64), 8),
        "env.sp_el": (range(0x70, 0x74), 8),
        "cpreg_vmstate_array_len": ([len(SYSREGS)], 4),
        "cpreg_vmstate_indexes": ([*SYSREGS], 8),
        "cpreg_vmstate_values": ([*SYSREGS.values()], 8),
        "power_state": ([number], 1),
    }
    listed = [
        numbers(name, [*changes.get(name, values)], size) for name, (values, size) in fields.items()
    ]
    vectors = [
        numbers(f"env.vfp.zregs[{each}].d", [0x1000 + each, 0x2000 + each]) for each in range(32)
    ]
    return device("cpu", number, listed, vfp=[*vectors, numbers("fpscr", [0x0840_0011], 4)])


@dataclass
class StreamBuilder:
    """A stream of machine virt: 32 pages of RAM, and a page with their tags, unless told else."""

    pages: Sequence[bytes] = ()
    blocks: dict[str, int] = field(
        default_factory=lambda: {"mach-virt.ram": RAM_BYTES, "mach-virt.tag": PAGE}
    )
    devices: Sequence[tuple[Node, bytes]] = field(default_factory=lambda: [vcpu(0), vcpu(1)])
    machine: str = "virt-10.0"
    capabilities: Sequence[str] = ()
    commands: bytes = b"\x08" + struct.pack(">HH", 11, 0)
    mapped: dict[str, dict[int, bytes]] | None = None
    """Pages by number of each block of a mapped-ram file."""

    def build(self, description: Node | None = None) -> bytes:
        content = self.head() + self.ram()
        for number, (node, raw) in enumerate(self.devices, 10):
            content += b"\x04" + be(number) + named(node["name"]) + be(node["instance_id"]) + be(1)
            content += raw + b"\x7e" + be(number)
        return content + b"\x00" + self.tail(description)

    def head(self) -> bytes:
        content = b"QEVM" + be(3) + b"\x07" + be(len(self.machine)) + self.machine.encode()
        if self.capabilities:
            content += b"\x05" + named("configuration/capabilities") + be(1)
            content += be(len(self.capabilities)) + b"".join(map(named, self.capabilities))
        return content + self.commands

    def ram(self) -> bytes:
        content = b"\x01" + be(2) + named("ram") + be(0) + be(4)
        content += be(sum(self.blocks.values()) | SIZES, 8)
        for name, size in self.blocks.items():
            content += named(name) + be(size, 8)
            if self.mapped is not None:
                content += self._mapped(name, size, len(self.head()) + len(content))
        content += be(EOS, 8) + b"\x7e" + be(2)
        content += b"\x02" + be(2) + b"".join(self.pages) + be(EOS, 8) + b"\x7e" + be(2)
        return content + b"\x03" + be(2) + be(EOS, 8) + b"\x7e" + be(2)

    def _mapped(self, name: str, size: int, at: int) -> bytes:
        there, count = (self.mapped or {}).get(name, {}), size // PAGE
        bitmap_at = at + 28
        bitmap = sum(1 << page for page in there).to_bytes(-(-count // 64) * 8, "little")
        pages_at = -(-(bitmap_at + len(bitmap)) // PAGE) * PAGE
        data = b"".join(there.get(page, b"\xee" * PAGE) for page in range(count))
        head = be(1) + be(PAGE, 8) + be(bitmap_at, 8) + be(pages_at, 8) + bitmap
        return head.ljust(pages_at - at, b"\0") + data

    def tail(self, description: Node | None = None) -> bytes:
        raw = json.dumps(description or self.description()).encode()
        return b"\x06" + be(len(raw)) + raw

    def description(self) -> Node:
        """Return what QEMU says about the devices."""
        configuration: Node = {
            "vmsd_name": "configuration",
            "version": 1,
            "fields": [
                {"name": "len", "type": "uint32", "size": 4},
                {"name": "name", "type": "buffer", "size": len(self.machine)},
            ],
        }
        if self.capabilities:
            # As QEMU: the size of the first element, although the others have another one.
            elements: Node = {
                "name": "capabilities",
                "type": "capability",
                "size": len(self.capabilities[0]) + 1,
            }
            if len(self.capabilities) > 1:
                elements["array_len"] = len(self.capabilities)
            configuration["subsections"] = [
                {
                    "vmsd_name": "configuration/capabilities",
                    "version": 1,
                    "fields": [{"name": "caps_count", "type": "uint32", "size": 4}, elements],
                }
            ]
        devices = [node for node, _ in self.devices]
        return {"configuration": configuration, "page_size": PAGE, "devices": devices}


def page(block: str | None, number: int, content: bytes | int) -> bytes:
    """Return a page as it is sent; of `block`, or of the one before it if that is None.

    `content`: its bytes, or the byte that it is filled with.
    """
    flags = CONTINUE if block is None else 0
    flags |= ZERO if isinstance(content, int) else PAGE_FLAG
    head = be(number * PAGE | flags, 8) + (b"" if block is None else named(block))
    return head + (bytes([content]) if isinstance(content, int) else content)
