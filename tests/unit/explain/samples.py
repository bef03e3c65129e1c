"""Crash reports as their writers format them, built here."""

import struct

TOMBSTONE = """\
*** *** *** *** *** *** *** *** *** *** *** *** *** *** *** ***
Build fingerprint: 'example/device:15/AP3A/1:user/release-keys'
ABI: 'arm64'
Cmdline: com.example.app
pid: 4321, tid: 4329, name: worker  >>> com.example.app <<<
uid: 10123
tagged_addr_ctrl: 000000000007fff3 (PR_TAGGED_ADDR_ENABLE, PR_MTE_TCF_SYNC, mask 0xfffe)
signal 11 (SIGSEGV), code 9 (SEGV_MTESERR), fault addr 0x0b000077a4d2e0f0
Cause: [MTE]: {cause}
    x0  0b000077a4d2e0f0  x1  0000000000000001  x2  0000000000000000  x3  0000000000000000
    lr  000000781234567c  sp  0000007fe1234560  pc  0000007812345680  pst 0000000060001000

backtrace:
      #00 pc 0000000000005680  /data/app/lib/libexample.so (consume+20) (BuildId: 0011)
      #01 pc 0000000000004abc  /data/app/lib/libexample.so (BuildId: 0011)

deallocated by thread 4321:
      #00 pc 0000000000001111  /apex/libc.so (free+84) (BuildId: 0022)
      #01 pc 0000000000002222  /data/app/lib/libexample.so (release+8) (BuildId: 0011)

allocated by thread 4321:
      #00 pc 0000000000003333  /apex/libc.so (malloc+36) (BuildId: 0022)

Memory tags around the fault address (0xb000077a4d2e0f0), one tag per 16 bytes:
      0x77a4d2e000: 0  6  6  6  6  6  6  6  6  6  6  6  6  6
    =>0x77a4d2e0e0: 0 [4] 4  4  0  9  9  9
      0x77a4d2e160: 0  2  2  2  0  5  5  5

memory near x0 ([anon:scudo:primary]):
    000000{header} 000000000002011b 0000000000000000  ................
    04000077a4d2e0f0 2063657465726365 6f6e207370696c6c  secret spills no

memory map (2 entries): (fault address prefixed with --->)
    00000077'a4d20000-00000077'a4d5ffff rw-         0     40000  [anon:scudo:primary]
    00000078'12340000-00000078'12347fff r-x         0      8000  /data/app/lib/libexample.so
"""

USE_AFTER_FREE = "Use After Free, 0 bytes into a 48-byte allocation at 0x77a4d2e0f0"

GRAPHENE = """\
type: crash
osVersion: google/husky/husky:15/AP3A/1:user/release-keys
cmdline: com.example.app
signal: 11 (SIGSEGV), code 9 (SEGV_MTESERR), faultAddr {address}
threadName: worker
MTE: enabled

backtrace:
    /data/app/base.apk!libexample.so (consume(void*)+12, pc 123d00)
    /data/app/base.apk!libexample.so (pc 64458d4)
"""

KASAN_SW = """\
[   12.345678] ==================================================================
[   12.345680] BUG: KASAN: slab-use-after-free in reader+0x48/0x90
[   12.345690] Read of size 8 at addr 5bff00000abcd108 by task test/99
[   12.345691] Pointer tag: [5b], memory tag: [fe]
[   12.345692] Call trace:
[   12.345693]  dump_stack_lvl+0x10/0x20
[   12.345694]  kasan_report+0x10/0x20
[   12.345695]  reader+0x48/0x90
[   12.345696]  worker_thread+0x20/0x40

[   12.345697] Allocated by task 98:
[   12.345698]  kasan_save_stack+0x10/0x20
[   12.345699]  maker+0x10/0x20

[   12.345700] Freed by task 98:
[   12.345701]  kfree+0x10/0x20

[   12.345702] The buggy address belongs to the object at ffff00000abcd100
[   12.345702]  which belongs to the cache kmalloc-64 of size 64
[   12.345703] The buggy address is located 8 bytes inside of
[   12.345703]  64-byte region [ffff00000abcd100, ffff00000abcd140)
[   12.345704] Memory state around the buggy address:
[   12.345705]  ffff00000abcd000: 11 11 11 11 fe fe fe fe 22 22 22 22 33 33 33 33
[   12.345706] >ffff00000abcd100: fe fe fe fe 44 44 44 44 55 55 55 55 66 66 66 66
[   12.345707]                    ^
[   12.345708] ==================================================================
"""

APPLE = """\
{"app_name":"example","bug_type":"309","os_version":"macOS 26.1"}
{"procName":"example","exception":{"type":"EXC_BAD_ACCESS","signal":"SIGKILL",
"codes":"0x0000000000000106, 0x0a00000104812345",
"subtype":"EXC_ARM_MTE_TAGCHECK_FAIL at 0x0a00000104812345"},
"termination":{"namespace":"MTE_FAIL","code":262},"mtePageTags":[],
"threads":[{"triggered":true,"frames":[{"imageOffset":4660,"imageIndex":0,"symbol":"use",
"symbolLocation":16}],"threadState":{"x":[{"value":720575944786518853}],"pc":{"value":4374000000},
"sp":{"value":6100000000},"fp":{"value":6100000016},"lr":{"value":4374000001}}}],
"usedImages":[{"base":4373995340,"size":65536,"path":"/usr/bin/example",
"uuid":"5d1ea7a8-0000-4000-8000-000000000001"}]}
"""

APPLE_TEXT = """\
-------------------------------------
Translated Report (Full Report Below)
-------------------------------------
Process:               example [1234]
Path:                  /usr/bin/example
Code Type:             ARM-64 (Native)
OS Version:            macOS 26.1 (25B1)

Exception Type:        EXC_BAD_ACCESS (SIGKILL)
Exception Subtype:     EXC_ARM_MTE_TAGCHECK_FAIL at 0x0a00000104812345
Exception Codes:       0x0000000000000106, 0x0a00000104812345
Termination Reason:    Namespace MTE_FAIL, Code 262

Thread 0:
0   libsystem_kernel.dylib        0x0000000186598dd4 mach_msg_trap + 8

Thread 1 Crashed:: worker
0   example                       0x0000000104801234 use(void*) + 16
1   example                       0x0000000104801100 0x104800000 + 4352

Thread 1 crashed with ARM Thread State (64-bit):
    x0: 0x0a00000104812345   x1: 0x0000000000000041
    fp: 0x000000016d7d6460   lr: 0x0000000104801100
    sp: 0x000000016d7d6390   pc: 0x0000000104801234 cpsr: 0x60001000

Binary Images:
       0x104800000 -        0x10480ffff example (1) <00112233> /usr/bin/example
       0x186598000 -        0x1865cffff libsystem_kernel.dylib (*) <44> /usr/lib/libsystem.dylib
"""


def tombstone(cause: str = USE_AFTER_FREE) -> bytes:
    return TOMBSTONE.format(cause=cause, header="77a4d2e0e0"[-10:]).encode()


def field(number: int, value: int | bytes) -> bytes:
    """Return one field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def tombstone_proto() -> bytes:
    """Return an overflow: one byte behind a block of 32 bytes with tag 7; a free one follows."""
    pointer = 0x0700_0077_A4D2_E030
    tags = bytes([0, 7, 7, 5, 5, 0] + [0] * 10)
    metadata = field(1, tags)
    dump = field(1, b"x0") + field(3, 0x77_A4D2_E000) + field(4, bytes(256)) + field(6, metadata)
    signal = (
        field(1, 11) + field(2, b"SIGSEGV") + field(3, 9) + field(4, b"SEGV_MTESERR")
        + field(8, 1) + field(9, pointer) + field(10, dump)
    )  # fmt: skip
    register = field(1, b"x0") + field(2, pointer)
    frame = (
        field(1, 0x5680)
        + field(2, 0x78_1234_5680)
        + field(4, b"consume")
        + field(5, 20)
        + (field(6, b"/lib/libexample.so"))
        + field(8, b"ab12")
    )
    thread = (
        field(1, 4329) + field(3, register) + field(4, frame) + field(5, dump) + field(6, 0x7FFF3)
    )
    heap = field(1, pointer & (1 << 56) - 1) + field(2, 32)
    cause = field(1, b"[MTE]: Buffer Overflow, 0 bytes right of a 32-byte allocation at "
                     b"0x77a4d2e010") + field(2, field(1, 1) + field(3, heap))  # fmt: skip
    mapping = (
        field(1, 0x77_A4D2_0000) + field(2, 0x77_A4D6_0000) + field(7, b"[anon:scudo:primary]")
    )
    return (
        field(5, 4321) + field(6, 4329) + field(9, b"com.example.app") + field(10, signal)
        + field(15, cause) + field(16, field(1, 4329) + field(2, thread)) + field(17, mapping)
        + varint(30 << 3 | 1) + struct.pack("<Q", 1)
    )  # fmt: skip
