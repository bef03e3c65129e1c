"""The real host where it cannot do its work: it says why. What it can is in tests/access."""

import platform
from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.access import Direction, Need, View, native_host
from tagalong.access.host import CopyCall, Fault, tagged_addr_ctrl
from tagalong.access.native_host import NativeHost
from tagalong.errors import AddressError, HostError, RunStateError
from tagalong.memory import Gpa, GuestMemory, Region
from tagalong.mte.registers import TagCheckMode

BASE = Gpa(0x4000_0000)
PAGE = 4096


@pytest.fixture
def host() -> Iterator[NativeHost]:
    memory = GuestMemory([Region.create(BASE, 16 * PAGE)])
    made = NativeHost(memory)
    yield made
    made.close()
    memory.close()


@pytest.mark.parametrize("need", Need)
def test_host_that_is_no_arm64_lacks_everything_and_says_so(
    host: NativeHost, need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_host, "IS_ARM64", False)

    assert host.lacks(need) == f"this host is {platform.machine()}"


def test_plain_view_is_the_memory_itself(host: NativeHost) -> None:
    region = host.memory.regions[0]

    assert host.address(View.PLAIN, Gpa(BASE + 5), 8) == region.data.ctypes.data + 5
    with pytest.raises(AddressError, match="is not in one region of guest RAM"):
        host.address(View.PLAIN, Gpa(BASE + 16 * PAGE - 1), 2)


@pytest.mark.parametrize("copy_call", CopyCall)
def test_kernel_copies_both_ways_and_gives_the_errno(host: NativeHost, copy_call: CopyCall) -> None:
    host.memory.write(Gpa(BASE + 3), b"guest")
    address, array = host.address(View.PLAIN, Gpa(BASE + 3), 5), np.zeros(5, np.uint8)

    assert host.kernel_copy(copy_call, address, array, Direction.FROM_GUEST) == 0
    assert array.tobytes() == b"guest"
    array[:] = ord("x")
    assert host.kernel_copy(copy_call, address, array, Direction.TO_GUEST) == 0
    assert host.memory.read(Gpa(BASE + 2), 7) == b"\0xxxxx\0"
    assert host.kernel_copy(copy_call, 0x40, array, Direction.FROM_GUEST) in (5, 14)
    assert host.counts.system_calls == 3


def test_system_calls_on_memory_are_made(host: NativeHost) -> None:
    host.memory.write(BASE, b"guest")
    address = host.address(View.PLAIN, BASE, 5)

    assert host.write_syscall(address, 5) == 0
    assert host.read_syscall(address, b"other") == 0
    assert host.memory.read(BASE, 5) == b"other"
    assert (host.write_syscall(0x40, 5), host.read_syscall(0x40, b"x")) == (14, 14)


def test_copy_tags_without_a_vm_is_refused(host: NativeHost) -> None:
    with pytest.raises(HostError, match="the memory belongs to no KVM guest"):
        host.copy_tags(BASE, np.zeros(256, np.uint8), Direction.FROM_GUEST)


def test_closed_memory_has_no_address(host: NativeHost) -> None:
    host.memory.close()

    with pytest.raises(RunStateError, match="is closed"):
        host.address(View.PLAIN, BASE, 1)


@pytest.mark.parametrize(
    ("fault", "text", "is_tag_check"),
    [
        (Fault(11, 9, 0x1_0000), "SEGV_MTESERR at 0x10000", True),
        (Fault(11, 8, 0), "SEGV_MTEAERR at 0x0", True),
        (Fault(11, 2, 0x20), "SEGV_ACCERR at 0x20", False),
        (Fault(7, 9, 0x20), "signal 7 code 9 at 0x20", False),
    ],
)
def test_fault_says_what_it_is(fault: Fault, text: str, is_tag_check: bool) -> None:
    assert (str(fault), fault.is_tag_check) == (text, is_tag_check)


def test_control_values_are_the_kernel_s() -> None:
    assert [tagged_addr_ctrl(mode) for mode in TagCheckMode] == [1, 3, 5, 7]
