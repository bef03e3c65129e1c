"""Everything in abi.py against the kernel's own headers, compiled for arm64.

The compiler comes with the headers of Linux for aarch64. Nothing has to run: every size,
offset and number becomes a static assertion, so that a wrong one does not compile.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from tagalong.kvm import abi

ROOT = Path(__file__).resolve().parents[3]
HEADERS = ("linux/kvm.h", "asm/kvm.h", "sys/mman.h", "stddef.h")
ENUMS: tuple[type[IntEnum], ...] = (
    abi.KvmIoctl,
    abi.Cap,
    abi.KvmExitReason,
    abi.SystemEvent,
    abi.MpState,
    abi.VgicGroup,
    abi.VgicAddress,
)
STRUCTS = [
    value
    for name, value in vars(abi).items()
    if name.startswith("kvm_") and isinstance(value, type)
]


def offsets(struct: Any, path: str = "", base: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yield path, offset and size of every field, those of inner structs included."""
    for name, kind, *_ in struct._fields_:
        field = getattr(struct, name)
        inner = isinstance(kind, type) and issubclass(kind, ctypes.Structure | ctypes.Union)
        if name in getattr(struct, "_anonymous_", ()):
            yield from offsets(kind, path, base + field.offset)
        elif inner:
            yield from offsets(kind, f"{path}{name}.", base + field.offset)
        else:
            yield f"{path}{name}", base + field.offset, field.size


def assertions() -> list[str]:
    """Return C lines that compile only if abi.py is right."""
    lines = []
    for struct in STRUCTS:
        name = f"struct {struct.__name__}"
        # The header's struct is longer, or ends with an array without a size.
        if struct not in (abi.kvm_run, abi.kvm_signal_mask):
            lines.append(f"sizeof({name}) == {ctypes.sizeof(struct)}")
        for path, offset, size in offsets(struct):
            lines.append(f"offsetof({name}, {path}) == {offset}")
            if (struct, path) != (abi.kvm_signal_mask, "sigset"):
                lines.append(f"sizeof((({name} *)0)->{path}) == {size}")
    for enum in ENUMS:
        lines += [f"{member.name} == {member.value:#x}" for member in enum]
    lines += [f"{member.name} == {member.value:#x}" for member in abi.MemoryFlag]
    lines += [
        f"{name} == {value:#x}"
        for name, value in vars(abi).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, int)
        and not isinstance(value, type)
    ]  # fmt: skip
    return lines


def compiles(folder: Path, lines: list[str]) -> subprocess.CompletedProcess[str]:
    source = folder / "assertions.c"
    body = [f"#include <{header}>" for header in HEADERS]
    body += [f'_Static_assert({line}, "{line}");' for line in lines]
    source.write_text("\n".join(body) + "\n")
    environment = dict(os.environ)
    for cache in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        environment.setdefault(cache, str(ROOT / "build" / "zig-cache"))
    return subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-std=gnu11",
         "-c", "-o", str(folder / "assertions.o"), str(source)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_structs_numbers_and_ids_are_those_of_the_headers(tmp_path: Path) -> None:
    lines = assertions()

    result = compiles(tmp_path, lines)

    assert result.returncode == 0, result.stderr
    assert len(lines) > 150


def test_a_wrong_number_does_not_compile(tmp_path: Path) -> None:
    wrong = [
        "KVM_RUN == 0xae81",
        "sizeof(struct kvm_one_reg) == 24",
        "KVM_CAP_ARM_MTE == 204",
        "offsetof(struct kvm_run, mmio.len) == 44",
    ]

    result = compiles(tmp_path, wrong)

    assert result.returncode != 0
    assert all(line in result.stderr for line in wrong)


def test_register_ids_agree_with_the_package_s_own() -> None:
    from tagalong.machine import register_ids  # noqa: PLC0415 (compared here only)

    assert register_ids.TIMER_COUNT == abi.KVM_REG_ARM_TIMER_CNT
    assert register_ids.sysreg(3, 3, 14, 0, 1) == abi.KVM_REG_ARM_PTIMER_CNT
    assert register_ids.x(0) == abi.KVM_REG_ARM64 | 3 << abi.KVM_REG_SIZE_SHIFT | (
        abi.KVM_REG_ARM_CORE
    )
