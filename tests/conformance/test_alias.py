"""KVM only: the mapping with PROT_MTE, through which LDG and STG reach the guest's tags."""

import ctypes
import mmap
from collections.abc import Callable

import numpy as np
import pytest

from tagalong.access import Need, View
from tagalong.access.native_host import NativeHost
from tagalong.errors import HostError
from tagalong.kvm import KvmMachine
from tagalong.kvm.ram import TagsInPages
from tagalong.memory import Gpa, GuestMemory, PrivatePlane, Region
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


def test_tagged_view_shows_and_changes_the_guest_s_tags() -> None:
    machine = KvmMachine.create(ram_bytes=16 * PAGE)
    gpa = Gpa(machine.memory.regions[0].gpa + PAGE)
    machine.memory.write(gpa, b"guest")
    machine.write_tags(gpa, np.full(PAGE // 32, 0x73, np.uint8))
    ldg, stg = host_code(a64.ldg(0, 0)), host_code(a64.stg(1, 0))
    address = machine.host.address(View.TAGGED, gpa, PAGE)

    assert ctypes.string_at(address, 5) == b"guest"
    assert [ldg(address + 16 * n, 0) >> 56 for n in (0, 1)] == [3, 7]
    stg(address, 0xA << 56)
    assert machine.read_tags(gpa, PAGE)[0] == 0x7A
    anonymous = machine.host.lacks(Need.SHARED_MEMORY)
    if anonymous is None:
        plain = machine.host.address(View.PLAIN, gpa, PAGE)
        assert ldg(plain, 0) >> 56 == 0  # this mapping has no PROT_MTE
    else:  # before Linux 6.2: there is no second mapping, and that is said
        assert "guest memory tagalong-ram is anonymous" in anonymous
        with pytest.raises(HostError, match="has one mapping, and that has PROT_MTE"):
            machine.host.address(View.PLAIN, gpa, PAGE)
    machine.close()


def test_plain_and_tagged_views_of_anonymous_ram_are_not_both_there() -> None:
    gpa, data = Gpa(0x4000_0000), PrivatePlane("ram", PAGE)
    with GuestMemory([Region(gpa, PAGE, data, TagsInPages())]) as memory:
        host = NativeHost(memory)

        assert host.address(View.TAGGED, gpa, PAGE) == data.array.ctypes.data
        assert "there is no file to share" in str(host.lacks(Need.SHARED_MEMORY))
        with pytest.raises(HostError, match="RAM at gpa 0x40000000 has one mapping"):
            host.address(View.PLAIN, gpa, PAGE)
        host.close()
