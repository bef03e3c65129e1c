"""VMCOREINFO: what a Linux kernel says about itself for crash tools, as text in its memory.

The kernel writes lines `KEY=value` at boot into a page of its own; drgn and crash need them to
read a dump that is keyed by physical addresses. Source: Linux kernel/vmcore_info.c and
arch/arm64/kernel/vmcore_info.c (both were crash_core.c before 6.9), Documentation/admin-guide/
kdump/vmcoreinfo.rst.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Self

from tagalong.binary.layout import MalformedError
from tagalong.machine import RegisterId, register_ids
from tagalong.mte import PAGE_SIZES_BYTES

START: Final = b"OSRELEASE="
"""How the text begins, at the start of a page."""

MAX_BYTES: Final = 64 << 10
"""The longest text: the kernel has a page for it (VMCOREINFO_BYTES), of 64 KiB at most."""

_MASK: Final = (1 << 64) - 1
_LINE: Final = re.compile(rb"([!-<>-~]+)=([ -~]*)")
# Fields of SCTLR_EL1, TCR_EL1 and MAIR_EL1 (Arm ARM, D24.2).
_MMU_ON: Final = 1
_T1SZ_SHIFT, _T1SZ_MASK, _TG1_SHIFT = 16, 0x3F, 30
_TG1: Final = {0x1000: 2, 0x4000: 1, 0x1_0000: 3}
_IPS_48_BITS, _IPS_52_BITS = 5 << 32, 6 << 32
_DS: Final = 1 << 59
_T1SZ_48_BITS: Final = 16
_LARGEST_PAGE: Final = PAGE_SIZES_BYTES[-1]
_LINUX_MEMORY_TYPES: Final = 0xFF | 0xF0 << 8  # Normal, Normal Tagged; the others have no tags

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})")
_WITHOUT_VABITS_ACTUAL: Final = (6, 9)

_MAX_RELEASE: Final = 64  # struct new_utsname has 65 bytes for it, the zero byte included


@dataclass(frozen=True)
class Vmcoreinfo:
    r"""A VMCOREINFO text that makes sense; made by `parse`.

    >>> lines = b"OSRELEASE=6.12\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffff800081a10000\n"
    >>> info = Vmcoreinfo.parse(lines + b"NUMBER(kimage_voffset)=0xffff80003fe00000\n")
    >>> info.osrelease, hex(info.kernel_table)
    ('6.12', '0x41c10000')
    """

    text: bytes

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Return what `content` says up to its first zero byte.

        Raises MalformedError, its offset counted from the start, for what is not the text of an
        arm64 kernel: lines of another form, or no release, page size or kernel tables.
        """
        text = content[: MAX_BYTES + 1].split(b"\0", maxsplit=1)[0]
        if len(text) > MAX_BYTES:
            raise MalformedError(f"VMCOREINFO of more than {MAX_BYTES:#x} bytes", offset=MAX_BYTES)
        if not text.startswith(START):
            raise MalformedError(f"VMCOREINFO does not begin with {START.decode()}")
        if not text.endswith(b"\n"):
            raise MalformedError("the last line of VMCOREINFO has no end", offset=len(text))
        found = cls(text)
        found._check()
        return found

    def _check(self) -> None:
        if not 0 < len(self.osrelease) <= _MAX_RELEASE:
            raise MalformedError("VMCOREINFO has no OSRELEASE of at most 64 characters")
        if self.page_size_bytes not in PAGE_SIZES_BYTES:
            raise MalformedError(f"VMCOREINFO has PAGESIZE={self.lines.get('PAGESIZE', '')}")
        if self.kernel_table % PAGE_SIZES_BYTES[0]:
            raise MalformedError(
                f"VMCOREINFO puts the kernel's tables at gpa {self.kernel_table:#x}, which is no "
                "page"
            )

    @cached_property
    def lines(self) -> Mapping[str, str]:
        """Return the values by their keys. Raises MalformedError for a line of another form."""
        found, at = {}, 0
        for line in self.text.splitlines(keepends=True):
            match = _LINE.fullmatch(line[:-1])
            if match is None:
                raise MalformedError("a line of VMCOREINFO is not KEY=value", offset=at)
            found[match[1].decode("ascii")] = match[2].decode("ascii")
            at += len(line)
        return MappingProxyType(found)

    @property
    def osrelease(self) -> str:
        """Return the kernel's release, as `uname -r` prints it."""
        return self.lines.get("OSRELEASE", "")

    @property
    def version(self) -> tuple[int, int] | None:
        """Return the first two numbers of the release, None if it has none."""
        found = _VERSION.match(self.osrelease)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def page_size_bytes(self) -> int:
        """Return the kernel's page size. Raises MalformedError."""
        return self._number("PAGESIZE", 10)

    @property
    def kernel_offset(self) -> int | None:
        """Return by how much KASLR moved the kernel, in bytes; None if the text does not say."""
        return self._number("KERNELOFFSET", 16) if "KERNELOFFSET" in self.lines else None

    @property
    def kernel_table(self) -> int:
        """Return the gpa of swapper_pg_dir, the first table of the kernel's half."""
        symbol = self._number("SYMBOL(swapper_pg_dir)", 16)
        return symbol - self._number("NUMBER(kimage_voffset)", 0) & _MASK

    @property
    def crash_phys_offset(self) -> int | None:
        """Return the gpa that crash must be told as phys_offset, None if it finds that itself.

        A kernel built for wider addresses than it uses counts PHYS_OFFSET from the wider half
        (arch/arm64/mm/init.c, arm64_memblock_init). crash counts it from the one in use where the
        kernel has no variable vabits_actual, as since Linux 6.9.
        """
        if (self.version or _WITHOUT_VABITS_ACTUAL) < _WITHOUT_VABITS_ACTUAL:
            return None
        try:
            built = self._number("NUMBER(VA_BITS)", 10)
            used = 64 - (self._number("NUMBER(TCR_EL1_T1SZ)", 0) & _T1SZ_MASK)
            stated = self._number("NUMBER(PHYS_OFFSET)", 0)
        except MalformedError:
            return None
        return stated + (1 << built) - (1 << used) & _MASK if used < built <= 64 else None

    @property
    def table_registers(self) -> Mapping[RegisterId, int]:
        """Return what a vCPU in the kernel has in the registers that its tables hang on.

        For one whose registers are not known. Those are fixed in Linux since 5.10, tags included:
        type 1 of memory is Normal Tagged (arch/arm64/include/asm/memory.h). Raises MalformedError
        if the text does not say how wide addresses are.
        """
        granule = _TG1[self.page_size_bytes]
        size = self._number("NUMBER(TCR_EL1_T1SZ)", 0) & _T1SZ_MASK
        # Addresses of more than 48 bits: with small pages Linux uses FEAT_LPA2 for them.
        is_large = size < _T1SZ_48_BITS and self.page_size_bytes != _LARGEST_PAGE
        return {
            register_ids.SCTLR_EL1: _MMU_ON,
            register_ids.TCR_EL1: size << _T1SZ_SHIFT
            | granule << _TG1_SHIFT
            | (_IPS_52_BITS | _DS if is_large else _IPS_48_BITS),
            register_ids.TTBR1_EL1: self.kernel_table,
            register_ids.MAIR_EL1: _LINUX_MEMORY_TYPES,
        }

    def _number(self, key: str, base: int) -> int:
        try:
            value = int(self.lines[key], base)
        except (KeyError, ValueError) as error:
            raise MalformedError(f"VMCOREINFO has no number {key}") from error
        if not 0 <= value <= _MASK:
            raise MalformedError(f"VMCOREINFO has a number {key} of more than 64 bits")
        return value
