"""KVM only: the second mapping of guest RAM, through which LDG and STG reach the guest's tags."""

import contextlib
import ctypes
import mmap
from collections.abc import Callable

import numpy as np
import pytest

from tagalong.errors import HostError
from tagalong.kvm import KvmMachine
from tagalong.kvm.ram import tagged_alias
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, PrivatePlane, Region
from tests.support import a64
from tests.support.bare import encoded

PAGE = mmap.PAGESIZE


def host_code(*words: int) -> Callable[[int, int], int]:
    """Return a function of x0 and x1 that runs these instructions on the host."""
    pages = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    pages.write(encoded([*words, a64.ret()]))
    address = np.frombuffer(pages, np.uint8).ctypes.data
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(address)
    function.pages = pages  # type: ignore[attr-defined]
    return function


def test_tagged_alias_shows_and_changes_the_guest_s_tags() -> None:
    machine = KvmMachine.create(ram_bytes=16 * PAGE)
    region = machine.memory.regions[0]
    machine.memory.write(Gpa(region.gpa + PAGE), b"guest")
    machine.write_tags(Gpa(region.gpa + PAGE), np.full(PAGE // 32, 0x73, np.uint8))
    ldg, stg = host_code(a64.ldg(0, 0)), host_code(a64.stg(1, 0))
    if not is_shared(region):  # before Linux 6.2: there is no second mapping, and that is said
        with pytest.raises(HostError, match="guest memory tagalong-ram is anonymous"):
            tagged_alias(region)
        machine.close()
        return
    alias = tagged_alias(region)
    address = np.frombuffer(alias, np.uint8).ctypes.data + PAGE

    assert alias[PAGE : PAGE + 5] == b"guest"
    assert [ldg(address + 16 * n, 0) >> 56 for n in (0, 1)] == [3, 7]
    assert ldg(region.data.ctypes.data + PAGE, 0) >> 56 == 0  # this mapping has no PROT_MTE
    stg(address, 0xA << 56)
    assert machine.read_tags(Gpa(region.gpa + PAGE), PAGE)[0] == 0x7A
    machine.close()


def test_tagged_alias_of_anonymous_ram_is_refused() -> None:
    data = PrivatePlane("ram", PAGE)
    description = RegionDescription(Gpa(0x4000_0000), PAGE)
    region = Region(description.gpa, PAGE, data, data)

    with pytest.raises(HostError, match="there is no file to share"):
        tagged_alias(region)


def is_shared(region: Region) -> bool:
    with contextlib.suppress(HostError):
        return region.data_fd >= 0
    return False
