"""Names of the functions of a guest's kernel: from its own memory by drgn, or from System.map."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from tagalong.core import Core
from tagalong.core.vmcoreinfo import Vmcoreinfo
from tagalong.errors import TagalongError
from tagalong.explain.crash import StackFrame
from tagalong.explain.drgn_frames import DrgnStacks
from tagalong.mte.pointers import SELECT_BIT
from tagalong.printable import one_line

SYSTEM_MAP: Final = "System.map"
_MAX_MAP_BYTES: Final = 64 << 20
_FUNCTION_KINDS: Final = "tTwW"
_LARGEST_FUNCTION: Final = 1 << 20


class KernelNames:
    """The names of one core's kernel. `folder`: where its vmlinux or System.map may be."""

    def __init__(self, core: Core, folder: Path | None) -> None:
        self._core = core
        self._folder = folder
        self._drgn = DrgnStacks(core, folder)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what drgn could not tell, in sentences."""
        return self._drgn.notes

    def frames(self, addresses: Sequence[int]) -> tuple[StackFrame, ...]:
        """Return a frame per address, the kernel's with names as far as they are known."""
        plain = tuple(StackFrame(address) for address in addresses)
        kernel = [address for address in addresses if address >> SELECT_BIT & 1]
        if not kernel or self._info is None:
            return plain
        if self._map:
            return tuple(StackFrame(address, self._by_map(address)) for address in addresses)
        return self._drgn.of_kernel(addresses) or plain

    def _by_map(self, address: int) -> str | None:
        number = bisect_right(self._map, (address, "\U0010ffff")) - 1
        if number < 0 or address - self._map[number][0] > _LARGEST_FUNCTION:
            return None
        start, name = self._map[number]
        return f"{name}+{address - start:#x}"

    @cached_property
    def _info(self) -> Vmcoreinfo | None:
        try:
            return self._core.vmcoreinfo
        except TagalongError:  # a note that makes no sense says nothing
            return None

    @cached_property
    def _map(self) -> Sequence[tuple[int, str]]:
        """Return the functions of System.map in order, where KASLR put them; empty without one."""
        info = self._info
        path = None if self._folder is None else self._folder / SYSTEM_MAP
        if path is None or info is None or not path.is_file():
            return ()
        with path.open("rb") as file:
            text = file.read(_MAX_MAP_BYTES).decode("ascii", "replace")
        found = []
        for line in text.splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[1] in _FUNCTION_KINDS:  # address, kind, name
                try:
                    found.append((int(parts[0], 16) + (info.kernel_offset or 0), parts[2]))
                except ValueError:
                    return ()  # not what its name says
        return [(start, one_line(name)) for start, name in sorted(found)]
