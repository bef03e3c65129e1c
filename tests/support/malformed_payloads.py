"""Payloads with unsound content for tests of the wire, each with where and why it is refused."""

import struct

import zstandard

from tagalong.wire import (
    Phase,
    RecordType,
)
from tests.support.wire_session import (
    MIGRATION_ID,
    PAGE,
    RAM,
    X0,
)

HEADER = 16


def hello(**changed: int | bytes) -> bytes:
    fields: dict[str, int | bytes] = {
        "compatible": 1,
        "mandatory": 0,
        "id": MIGRATION_ID,
        "role": 1,
    }
    fields |= {"channels": 1, "reconnect_s": 0, "reserved": 0}
    fields |= changed
    return struct.pack("<QQ16sIIII", *fields.values())


def machine(
    *regions: tuple[int, int],
    head: tuple[int, ...] | None = None,
    devices: tuple[bytes, ...] = (),
    spi_count: int = 0,
    gic: tuple[int, int] | None = None,
) -> bytes:
    regions = regions or ((RAM, 0x10000),)
    head = head or (PAGE, 1, 3, len(regions), len(devices))
    table = b"".join(struct.pack("<QQ", *each) for each in regions)
    frames = struct.pack("<QQ", *gic) if gic else b""
    return struct.pack("<IIIIII", *head, spi_count) + frames + table + b"".join(devices)


def device(
    name: bytes = b"d", kind: bytes = b"k", config: bytes = b"", rest: bytes = b"", **changed: int
) -> bytes:
    fields = {"gpa": 0x0900_0000, "size": 0x1000, "interrupt": 0, "name": len(name)}
    fields |= {"kind": len(kind), "config": len(config), "reserved": 0} | changed
    return struct.pack("<QQIHHII", *fields.values()) + name + kind + config + rest


def pages(*runs: tuple[int, int], rest: bytes = b"", **changed: int) -> bytes:
    runs = runs or ((RAM, 1),)
    fields = {"count": len(runs), "data": 2, "tags": 2, "tag_bytes": 0, "data_bytes": 0}
    fields |= {"reserved": 0} | changed
    table = b"".join(struct.pack("<QQ", *run) for run in runs)
    return struct.pack("<HBBIII", *fields.values()) + table + rest + bytes(8)


def state(
    vcpus: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...] = ((0, ()), (0, ())),
    devices: tuple[tuple[bytes, bytes], ...] = (),
    gic: bytes = b"",
) -> bytes:
    parts = [struct.pack("<IIII", len(vcpus), len(devices), int(bool(gic)), 0)]
    for power, registers in vcpus:
        parts.append(struct.pack("<II", power, len(registers)))
        parts += [struct.pack("<Q", register) + value for register, value in registers]
    for name, content in devices:
        parts.append(struct.pack("<HHI", len(name), 0, len(content)) + name + content)
    return b"".join(parts) + gic


def gic_state(
    *,
    head: tuple[int, int] | None = None,
    registers: tuple[tuple[int, int], ...] = (),
    vcpu: tuple[int, int, int, int] | None = None,
    interface: tuple[tuple[int, int, int], ...] = (),
) -> bytes:
    """Return the GIC of a state of two vCPUs; `vcpu` and `interface` are the first one's."""
    parts = [struct.pack("<II", *(head or (len(registers), 0)))]
    parts += [struct.pack("<II", *register) for register in registers]
    parts.append(struct.pack("<IIII", *(vcpu or (0, len(interface), 0, 0))))
    parts += [struct.pack("<IIQ", *register) for register in interface]
    return b"".join(parts) + bytes(16)


def two(registers: tuple[tuple[int, bytes], ...]) -> bytes:
    return state(((0, registers), (0, ())))


HELLO_CASES = [
    (hello(mandatory=1 << 40), 8, "the source demands the features 0x10000000000"),
    (hello(role=3), 32, "unknown role: 3"),
    (hello(role=2), 32, "the peer is a destination too"),
    (hello(channels=0), 36, "channels is 0x0, possible are 0x1 to 0x10"),
    (hello(channels=17), 36, "channels is 0x11, possible are 0x1 to 0x10"),
    (hello(reconnect_s=3601), 40, "reconnect_s is 0xe11, possible are 0x0 to 0xe10"),
    (hello(reserved=1), 44, "a reserved field is 0x1 and must be zero"),
]

MACHINE_CASES = [
    (machine(head=(8192, 1, 3, 1, 0)), 0, "page_size_bytes is 0x2000, possible are 0x1000, 0x4000"),
    (machine(head=(PAGE, 0, 3, 1, 0)), 4, "vcpu_count is 0x0, possible are 0x1 to 0x200"),
    (machine(head=(PAGE, 513, 3, 1, 0)), 4, "vcpu_count is 0x201, possible are 0x1 to 0x200"),
    (machine(head=(PAGE, 1, 1, 1, 0)), 8, "mte_version is 0x1, possible are 0x0, 0x2, 0x3"),
    (machine(head=(PAGE, 1, 3, 0, 0)), 12, "region_count is 0x0, possible are 0x1 to 0x400"),
    (machine(head=(PAGE, 1, 3, 0xFFFF_FFFF, 0)), 12, "region_count is 0xffffffff"),
    (machine(head=(PAGE, 1, 3, 2, 0)), 40, "10 bytes are needed for gpa, size_bytes, but 0x0 are"),
    (machine(spi_count=1), 20, "0x1 SPIs: 0x20 to 0x3c0 are possible"),
    (machine(spi_count=33), 20, "0x21 SPIs are no multiple of 0x20"),
    (machine(spi_count=992), 20, "0x3e0 SPIs: 0x20 to 0x3c0 are possible"),
    (machine(spi_count=32, gic=(0x800, 0)), 24, "distributor is 0x800, possible are multiples of"),
    (machine(spi_count=32, gic=(0, 1 << 52)), 32, "redistributors is 0x10000000000000, possible"),
    (
        machine(spi_count=32, gic=(0x10000, 0)),
        56,
        "the GIC's redistributors [0x0, 0x20000) and the GIC's distributor [0x10000, 0x20000) over",
    ),
    (
        machine(spi_count=32, gic=(RAM, 0)),
        56,
        "the GIC's distributor [0x40000000, 0x40010000) and RAM [0x40000000, 0x40010000) overlap",
    ),
    (
        machine(spi_count=32, gic=(0, 0x0900_0000), devices=(device(),)),
        56,
        "the GIC's redistributors [0x9000000, 0x9020000) and device d (k at [0x9000000, 0x9001000)",
    ),
    (
        machine(spi_count=32, gic=(0, 0x10000), devices=(device(interrupt=64),)),
        56,
        "interrupt 64, configuration empty) has an interrupt beyond 0x3f, the last of the GIC",
    ),
    (machine((RAM + 1, PAGE)), 24, "is empty or not of whole pages of 0x1000"),
    (machine((RAM, PAGE + 32)), 24, "is empty or not of whole pages of 0x1000"),
    (machine((RAM, 0)), 24, "is empty or not of whole pages of 0x1000"),
    (machine((RAM, 0x2000), (RAM + 0x1000, PAGE)), 40, "must start at or after 0x40002000"),
    (machine((RAM, PAGE), (0, PAGE)), 40, "must start at or after 0x40001000"),
    (machine((1 << 52, PAGE)), 24, "and end by 0x10000000000000"),
    (machine((0xFFFF_FFFF_FFFF_F000, 0x2000)), 24, "and end by 0x10000000000000"),
    (machine(head=(PAGE, 1, 3, 1, 257)), 16, "0x101 devices: 0x0 to 0x100 are possible"),
    (machine(head=(PAGE, 1, 3, 1, 1)), 40, "20 bytes are needed for gpa"),
    (machine() + b"x", 40, "0x1 bytes are left over after the machine"),
    (machine(devices=(device(b""),)), 60, "0x0 bytes in a device's name: 0x1 to 0x40"),
    (machine(devices=(device(b"n" * 65),)), 60, "0x41 bytes in a device's name"),
    (machine(devices=(device(b"a b"),)), 72, "b'a b' is not a device name"),
    (machine(devices=(device(b"d", b""),)), 62, "0x0 bytes in a device's kind: 0x1 to 0x40"),
    (machine(devices=(device(b"d", b"k" * 65),)), 62, "0x41 bytes in a device's kind"),
    (machine(devices=(device(b"d", b"\x1b"),)), 73, "b'\\x1b' is not a device kind"),
    (machine(devices=(device(config=bytes(0x10001)),)), 64, "0x10001 bytes in a device's config"),
    (machine(devices=(device(reserved=1),)), 68, "a reserved field is 0x1"),
    (machine(devices=(device(config=b"12", rest=b"")[:-1],)), 64, "of d takes 0x2 bytes, but 0x1"),
    (machine(devices=(device(interrupt=31),)), 56, "0x1f as a device's interrupt: 0x20 to 0x3fb"),
    (machine(devices=(device(interrupt=1020),)), 56, "0x3fc as a device's interrupt"),
    (machine(devices=(device(size=0),)), 40, "the window of d, [0x9000000, 0x9000000), is empty"),
    (machine(devices=(device(gpa=1 << 52),)), 40, "or does not end by 0x10000000000000"),
    (machine(devices=(device(gpa=(1 << 64) - 1, size=1 << 63),)), 40, "or does not end by"),
    (
        machine(devices=(device(), device(gpa=0x0A00_0000))),
        74,
        "two devices have the name d",
    ),
    (
        machine(devices=(device(), device(b"e", gpa=0x0900_0FFF))),
        40,
        "device d (k at [0x9000000, 0x9001000), no interrupt, configuration empty) and "
        "device e (k at [0x9000fff, 0x9001fff)",
    ),
    (machine(devices=(device(gpa=RAM - 1),)), 40, "and RAM [0x40000000, 0x40010000) overlap"),
    (
        machine(
            devices=tuple(
                device(b"%d" % number, gpa=number << 12, config=bytes(0x10000))
                for number in range(16)
            )
        ),
        40 + 15 * (34 + 0x10000) + 5,
        "bytes of devices: 0x0 to 0x100000 are possible",
    ),
]

ZSTD_128 = zstandard.ZstdCompressor().compress(bytes([1]) * 128)
ZSTD_BOMB = zstandard.ZstdCompressor().compress(bytes(100_000_000))
ZSTD_127 = zstandard.ZstdCompressor().compress(bytes([1]) * 127)
ZSTD_UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes([1]) * 128)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


def zstd(frame: bytes) -> bytes:
    return pages(tags=4, tag_bytes=len(frame), rest=frame)


def zstd_data(content: bytes) -> bytes:
    frame = zstandard.ZstdCompressor().compress(content)
    return pages(data=3, data_bytes=len(frame), rest=frame)


# So many pages that the frame is shorter than their tags.
BOMB_PAGES = 0x80
PAGES_CASES = [
    (pages(count=0), 0, "0x0 runs: 0x1 to 0x400 are possible"),
    (pages(count=1025), 0, "0x401 runs: 0x1 to 0x400 are possible"),
    (pages(data=0), 2, "0x0 is not a data encoding"),
    (pages(data=5), 2, "0x5 is not a data encoding"),
    (pages(tags=0), 3, "0x0 is not a tag encoding"),
    (pages(tags=6), 3, "RUNS of tags, but the feature TAG_RUNS is not in use"),
    (pages(tags=7), 3, "0x7 is not a tag encoding"),
    (pages(reserved=1), 12, "a reserved field is 0x1 and must be zero"),
    (pages(data=1, data_bytes=4095, rest=bytes(4095)), 8, "0xfff bytes of RAW data for a batch"),
    (pages(data=2, data_bytes=1, rest=b"x"), 8, "0x1 bytes of ZERO data"),
    (pages(data=4, data_bytes=1, rest=b"x"), 8, "0x1 bytes of KEPT data"),
    (pages(data=3), 8, "0x0 bytes of ZSTD data for a batch of 0x1000 bytes, where 0x1 to 0xfff"),
    (pages(data=3, data_bytes=4096, rest=bytes(4096)), 8, "0x1000 bytes of ZSTD data"),
    (pages(tags=5, tag_bytes=2, rest=bytes(2)), 4, "0x2 bytes of UNIFORM tags"),
    (pages(tags=5, tag_bytes=1, rest=b"\x12"), 32, "page 0x0 of the batch has uniform tags 0x12"),
    (
        pages((RAM, 3), tags=5, tag_bytes=3, rest=b"\x11\x22\x21"),
        34,
        "page 0x2 of the batch has uniform tags 0x21, which are two",
    ),
    (pages(data=3, data_bytes=9, rest=b"no  frame"), 32, "compressed data cannot be decompressed"),
    (
        pages(
            (RAM, 2),
            data=3,
            tags=5,
            tag_bytes=2,
            data_bytes=len(ZSTD_BOMB),
            rest=b"\0\0" + ZSTD_BOMB,
        ),
        34,
        "compressed data declare 0x5f5e100 bytes, not 0x2000",
    ),
    (pages(tags=1), 3, "tag encoding ABSENT on a machine with tags"),
    (pages(tags=2, tag_bytes=1, rest=b"x"), 4, "0x1 bytes of ZERO tags for a batch of 0x1000"),
    (pages(tags=3, tag_bytes=127, rest=bytes(127)), 4, "0x7f bytes of RAW tags"),
    (pages(tags=4), 4, "0x0 bytes of ZSTD tags for a batch of 0x1000 bytes, where 0x1 to 0x7f"),
    (pages(tags=4, tag_bytes=128, rest=bytes(128)), 4, "0x80 bytes of ZSTD tags"),
    (pages((RAM + 8, 1)), 16, "a run at gpa 0x40000008, which must be a multiple of the page size"),
    (pages((0, 1)), 16, "pages [0x0, 0x1000) are not in one region"),
    (pages((RAM + 0x10_0000, 1)), 16, "pages [0x40100000, 0x40101000) are not in one region"),
    (pages((RAM, 0x101)), 16, "pages [0x40000000, 0x40101000) are not in one region"),
    (pages((RAM - PAGE, 2)), 16, "are not in one region"),
    (pages((RAM + 0x20_8000, 1)), 16, "are not in one region"),
    (pages((0xFFFF_FFFF_FFFF_F000, 2)), 16, "are not in one region"),
    (pages((RAM, 0)), 24, "a run of 0x0 pages of 0x1000 bytes: there must be one"),
    (pages((RAM, 0x4001)), 24, "a run of 0x4001 pages of 0x1000 bytes"),
    (pages((RAM, 0xFFFF_FFFF_FFFF_FFFF)), 24, "a run of 0xffffffffffffffff pages"),
    (pages((RAM, 0x100), (RAM, 1)), 32, "at least 0x40100000, where the run before it ends"),
    (pages((RAM + PAGE, 1), (RAM, 1)), 32, "at least 0x40002000, where the run before it ends"),
    (pages((RAM, 1), (RAM + 0x20_0000, 9)), 32, "are not in one region"),
    (pages((RAM, 1), (RAM + 0x20_0000, 0x4000)), 40, "a run of 0x4000 pages"),
    (zstd(b"not a frame"), 32, "compressed tags cannot be decompressed"),
    (zstd(ZSTD_128[:-1]), 32, "compressed tags cannot be decompressed"),
    (zstd(ZSTD_128 + b"x"), 32, "compressed tags cannot be decompressed"),
    (zstd(ZSTD_128 + ZSTD_128), 32, "compressed tags cannot be decompressed"),
    (zstd(SKIPPABLE), 32, "compressed tags declare 0x4 bytes, not 0x80"),
    (zstd(ZSTD_127), 32, "compressed tags declare 0x7f bytes, not 0x80"),
    (zstd(ZSTD_UNSIZED), 32, "compressed tags declare 0xffffffffffffffff bytes, not 0x80"),
    (
        pages((RAM, BOMB_PAGES), tags=4, tag_bytes=len(ZSTD_BOMB), rest=ZSTD_BOMB),
        32,
        "compressed tags declare 0x5f5e100 bytes, not 0x4000",
    ),
]

STATE_CASES = [
    (state(vcpus=((0, ()),)), 0, "a state of 0x1 vCPUs for a machine of 0x2"),
    (state(), 8, "one of MACHINE and STATE has a GIC, the other has none"),
    (struct.pack("<IIII", 0, 0, 0, 0) + bytes(8), 0, "0x0 vCPUs: 0x1 to 0x200 are possible"),
    (struct.pack("<IIII", 513, 0, 0, 0) + bytes(8), 0, "0x201 vCPUs: 0x1 to 0x200 are possible"),
    (struct.pack("<IIII", 2, 257, 0, 0) + bytes(16), 4, "0x101 devices: 0x0 to 0x100 are possible"),
    (struct.pack("<IIII", 2, 0, 2, 0) + bytes(16), 8, "gic_count is 0x2, possible are 0x0, 0x1"),
    (struct.pack("<IIII", 2, 0, 0, 1) + bytes(16), 12, "a reserved field is 0x1 and must be zero"),
    (
        struct.pack("<IIII", 2, 0, 0, 0) + bytes(8),
        24,
        "8 bytes are needed for power",
    ),
    (state(((1, ()), (0, ()))), 16, "0x1 is not a power state"),
    (
        struct.pack("<IIIIII", 2, 0, 0, 0, 0, 4097),
        20,
        "0x1001 registers: 0x0 to 0x1000 are possible",
    ),
    (two(((X0 + 1, bytes(8)), (X0, bytes(8)))), 40, "ids must ascend"),
    (two(((X0, bytes(8)), (X0, bytes(8)))), 40, "ids must ascend"),
    (two(((0x6090_0000_0010_0000, bytes(512)),)), 24, "0x200 bytes in register 0x60900000001"),
    (state() + b"x", 32, "0x1 bytes are left over after the state"),
    (state(devices=((b"", b""),)), 32, "0x0 bytes in a device's name: 0x1 to 0x40 are possible"),
    (state(devices=((b"n" * 65, b""),)), 32, "0x41 bytes in a device's name"),
    (state(devices=((b"a b", b""),)), 40, "b'a b' is not a device name"),
    (state(devices=((b"\xc3\xa4", b""),)), 40, "is not a device name"),
    (state(devices=((b"b", b""), (b"a", b""))), 49, "device a after b: names must ascend"),
    (state(devices=((b"a", b""), (b"a", b""))), 49, "device a after a: names must ascend"),
    (state(devices=((b"a", b"xyz"),))[:-1], 36, "device a takes 0x3 bytes, but 0x2 are left"),
    (
        struct.pack("<8I", 2, 1, 0, 0, 0, 0, 0, 0) + struct.pack("<HHI", 1, 0, 0xFFFF_FFFF) + b"a",
        36,
        "0xffffffff bytes in a device's state: 0x0 to 0x100000 are possible",
    ),
    (
        struct.pack("<8I", 2, 1, 0, 0, 0, 0, 0, 0) + struct.pack("<HHI", 1, 7, 0) + b"a",
        34,
        "a reserved field is 0x7 and must be zero",
    ),
]

# Offsets of the GIC's parts: it begins at 32, behind the head and two vCPUs without registers.
GIC_STATE_CASES = [
    (state(gic=gic_state(head=(4097, 0))), 32, "0x1001 registers of a GIC distributor: 0x0 to"),
    (state(gic=gic_state(head=(0, 31))), 36, "0x1f words of SPI levels: 0x0 to 0x1e are possible"),
    (state(gic=gic_state(head=(1, 0))[:8]), 40, "8 bytes are needed for offset, value, but 0x0"),
    (state(gic=gic_state(head=(0, 2))[:12]), 36, "the levels of SPIs takes 0x8 bytes, but 0x4"),
    (
        state(gic=gic_state(registers=((8, 0), (8, 0)))),
        48,
        "GIC register 0x8 after 0x8: they must ascend",
    ),
    (
        state(gic=gic_state(registers=((8, 0), (4, 0)))),
        48,
        "GIC register 0x4 after 0x8: they must ascend",
    ),
    (state(gic=gic_state(vcpu=(65, 0, 0, 0))), 40, "0x41 registers of a GIC redistributor: 0x0"),
    (state(gic=gic_state(vcpu=(0, 65, 0, 0))), 44, "0x41 registers of a GIC CPU interface: 0x0"),
    (state(gic=gic_state(vcpu=(0, 0, 0, 1))), 52, "a reserved field is 0x1 and must be zero"),
    (state(gic=gic_state()[:-16]), 56, "10 bytes are needed for register_count, interface_count"),
    (
        state(gic=gic_state() + bytes(8)),
        72,
        "0x8 bytes are left over after the state",
    ),
    (
        state(gic=gic_state(interface=((5, 0, 0), (5, 0, 0)))),
        72,
        "GIC register 0x5 after 0x5: they must ascend",
    ),
    (state(gic=gic_state(interface=((5, 1, 0),))), 60, "a reserved field is 0x1 and must be zero"),
]

ROUND_CASES = [
    (struct.pack("<IIQ", 2, 0, 0), 0, "the source's round has the number 0x2, not 0x1"),
    (struct.pack("<IIQ", 1, 1, 0), 4, "a reserved field is 0x1 and must be zero"),
    (struct.pack("<IIQ", 1, 0, 5), 8, "the source's round has the page_count 0x5, not 0x0"),
]

HELD_CASES = [
    (struct.pack("<QQ", RAM, 0) + b"x", 8, "page_count is 0x0, possible are 0x1 to 0x80000"),
    (struct.pack("<QQ", RAM, (1 << 19) + 1) + b"x", 8, "page_count is 0x80001"),
    (struct.pack("<QQ", RAM, 9) + b"x", 8, "0x9 pages take 0x2 bytes of bits, but 0x1 follow"),
    (struct.pack("<QQ", RAM, 9) + b"\1\2", 17, "bits are set beyond the last of 0x9 pages"),
    (struct.pack("<QQ", RAM + 1, 8) + b"x", 0, "must be whole pages of one region, from 0x0 on"),
    (struct.pack("<QQ", RAM + 0xF_F000, 8) + b"x", 0, "must be whole pages of one region"),
    (struct.pack("<QQ", 0xFFFF_FFFF_FFFF_F000, 8) + b"x", 0, "must be whole pages of one region"),
]

RESUMED_CASES = [
    (struct.pack("<II", 0, 0), 0, "the destination has 0x0 rounds, the source 0x1"),
    (struct.pack("<II", 3, 0), 0, "the destination has 0x3 rounds, the source 0x1"),
    (struct.pack("<II", 1, 1), 4, "a reserved field is 0x1 and must be zero"),
]

CHANNEL_CASES = [
    (MIGRATION_ID + struct.pack("<II", 0, 0), 16, "number is 0x0, possible are 0x1 to 0xf"),
    (MIGRATION_ID + struct.pack("<II", 16, 0), 16, "number is 0x10, possible are 0x1 to 0xf"),
    (MIGRATION_ID + struct.pack("<II", 2, 0), 16, "channel 0x2 answers channel 0x1"),
    (bytes(16) + struct.pack("<II", 1, 0), 0, "is not the one under way, a0a1a2"),
]

ABORT_CASES = [
    (struct.pack("<II", 0, 0), 0, "0x0 is not a reason to abort"),
    (struct.pack("<II", 99, 0), 0, "0x63 is not a reason to abort"),
    (struct.pack("<II", 4, 3) + b"ab", 4, "a text of 0x3 bytes, but 0x2 follow"),
    (struct.pack("<II", 4, 3) + b"ab\xff", 10, "the text is not UTF-8: invalid start byte"),
    (
        struct.pack("<II", 4, 4) + b"\xc3\xa4\x1b[",
        10,
        "the text has the character U+001B, which must",
    ),
    *(
        (
            struct.pack("<II", 4, 2 + len(bad.encode())) + b"ok" + bad.encode(),
            10,
            f"the text has the character U+{ord(bad):04X}, which must not be shown",
        )
        for bad in (
            "\u202e",
            "\u2028",
            "\u2029",
            "\u200b",
            "\x7f",
            "\ue000",
            "\U000e0041",
            "\u0085",
        )
    ),
]

COMMIT_CASES = [
    (struct.pack("<II", 2, 0), 0, "run is 0x2, possible are 0x0, 0x1"),
    (struct.pack("<II", 1, 1), 4, "a reserved field is 0x1 and must be zero"),
]

Case = tuple[Phase, RecordType, bytes, int, str]

CASES: list[Case] = [
    *((Phase.START, RecordType.HELLO, *case) for case in HELLO_CASES),
    *((Phase.AGREED, RecordType.MACHINE, *case) for case in MACHINE_CASES),
    *((Phase.COPYING, RecordType.PAGES, *case) for case in PAGES_CASES),
    *((Phase.COPYING, RecordType.STATE, *case) for case in STATE_CASES),
    *((Phase.COPYING, RecordType.STATE, *case) for case in GIC_STATE_CASES),
    *((Phase.COPYING, RecordType.ROUND, *case) for case in ROUND_CASES),
    *((Phase.COPYING, RecordType.ABORT, *case) for case in ABORT_CASES),
    *((Phase.READY, RecordType.COMMIT, *case) for case in COMMIT_CASES),
]


ANSWERS: list[Case] = [
    *((Phase.RESUMING, RecordType.HELD, *case) for case in HELD_CASES),
    *((Phase.RESUMING, RecordType.RESUMED, *case) for case in RESUMED_CASES),
    *((Phase.CHANNEL_SENT, RecordType.CHANNEL, *case) for case in CHANNEL_CASES),
    (
        Phase.HELLO_SENT,
        RecordType.HELLO,
        hello(role=2, channels=2),
        36,
        "channels is 0x2 where 0x1",
    ),
    (Phase.HELLO_SENT, RecordType.HELLO, hello(role=2, reconnect_s=1), 40, "reconnect_s is 0x1"),
]
