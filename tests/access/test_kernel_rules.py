"""What the kernel does with tagged memory: the embedded machine's host is held to the real one."""

import errno
import os

import numpy as np
import pytest

from tagalong.access import CopyCall, Direction, Routine, View, tagged_addr_ctrl
from tagalong.access.host import PSTATE_TCO
from tagalong.access.native_host import NativeHost
from tagalong.errors import HostError
from tagalong.mte.pointers import with_logical_tag
from tagalong.mte.registers import TagCheckMode
from tests.support.access_bench import Bench

BYTES = 256
CHECKED = {
    # write(2) loads from the memory, read(2) stores to it
    TagCheckMode.NONE: (0, 0),
    TagCheckMode.SYNC: (errno.EFAULT, errno.EFAULT),
    TagCheckMode.ASYNC: (0, 0),
    TagCheckMode.ASYMMETRIC: (errno.EFAULT, 0),
}


@pytest.mark.parametrize("tco", [0, PSTATE_TCO])
@pytest.mark.parametrize("mode", list(TagCheckMode))
def test_system_call_on_mismatching_memory_is_checked_as_the_thread_is_and_heeds_no_tco(
    bench: Bench, mode: TagCheckMode, tco: int
) -> None:
    data, _ = bench.fill(2, 1)
    address = bench.host.address(View.TAGGED, bench.at(2), BYTES)
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
    bench.host.call(Routine.SET_TCO, tco)

    codes = (
        bench.host.write_syscall(address, BYTES),
        bench.host.read_syscall(address, bytes(BYTES)),
    )
    after = bench.host.call(Routine.GET_TCO)
    bench.host.call(Routine.SET_TCO, 0)
    bench.host.set_tagged_addr_ctrl(0)  # the machine's own mapping may be the one with PROT_MTE

    assert codes == CHECKED[mode]
    assert bench.machine.memory.read(bench.at(2), BYTES) == (
        data[:BYTES] if codes[1] else b"\0" * BYTES
    )
    assert (after.value, after.fault) == (tco, None)


@pytest.mark.parametrize(
    ("skip", "length", "code"), [(0, 256, 0), (0, 300, errno.EFAULT), (250, 20, errno.EFAULT)]
)
def test_system_call_on_memory_that_matches_in_part_fails(
    bench: Bench, skip: int, length: int, code: int
) -> None:
    _, packed = bench.fill(2, 1)
    packed[: 256 // 32] = 0
    bench.machine.write_tags(bench.at(2), packed)
    address = bench.host.address(View.TAGGED, bench.at(2), 4096) + skip
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(TagCheckMode.SYNC))

    assert bench.host.write_syscall(address, length) == code


def test_system_call_on_a_pointer_with_the_memory_s_tag_goes_through(bench: Bench) -> None:
    bench.fill(2, 1)
    bench.machine.write_tags(bench.at(2), np.full(bench.page // 32, 0x77, np.uint8))
    address = bench.host.address(View.TAGGED, bench.at(2), BYTES)
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(TagCheckMode.SYNC))

    assert bench.host.write_syscall(with_logical_tag(address, 7), BYTES) == 0
    assert bench.host.write_syscall(with_logical_tag(address, 6), BYTES) == errno.EFAULT


@pytest.mark.parametrize("copy_call", list(CopyCall))
@pytest.mark.parametrize("mode", list(TagCheckMode))
def test_kernel_s_own_copy_is_never_checked_whatever_the_pointer_s_tag(
    bench: Bench, copy_call: CopyCall, mode: TagCheckMode
) -> None:
    data, _ = bench.fill(2, 1)
    address = bench.host.address(View.TAGGED, bench.at(2), BYTES)
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))
    got = np.zeros(BYTES, np.uint8)

    for tag in (0, 5):
        code = bench.host.kernel_copy(
            copy_call, with_logical_tag(address, tag), got, Direction.FROM_GUEST
        )
        if tag and copy_call is CopyCall.PROC_MEM and takes_no_tag_in_an_offset(bench):
            assert code == errno.EIO
        else:
            assert (code, got.tobytes()) == (0, data[:BYTES])


def takes_no_tag_in_an_offset(bench: Bench) -> bool:
    """Return whether /proc/PID/mem takes its offset as it is: seen on 6.1, and not on 6.12."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return isinstance(bench.host, NativeHost) and release < (6, 4)


def test_address_with_nothing_there_is_refused_by_every_call(bench: Bench) -> None:
    nowhere = np.zeros(64, np.uint8)

    copied = [
        bench.host.kernel_copy(copy_call, 0x40, nowhere, direction)
        for copy_call in (CopyCall.PROCESS_VM, CopyCall.PROC_MEM)
        for direction in Direction
    ]

    assert copied == [errno.EFAULT, errno.EFAULT, errno.EIO, errno.EIO]
    assert bench.host.write_syscall(0x40, 64) == errno.EFAULT
    assert bench.host.read_syscall(0x40, bytes(64)) == errno.EFAULT


@pytest.mark.parametrize("value", [0x80001, 0x100001])
def test_prctl_with_unknown_bits_is_refused_and_changes_nothing(bench: Bench, value: int) -> None:
    before = bench.host.get_tagged_addr_ctrl()

    with pytest.raises(HostError, match=r"PR_SET_TAGGED_ADDR_CTRL, 0x\w+\) failed: Invalid arg"):
        bench.host.set_tagged_addr_ctrl(value)

    assert bench.host.get_tagged_addr_ctrl() == before


@pytest.mark.parametrize("value", [0x2, 0x6, 0x8, 0x7FFF9])
def test_prctl_gives_back_what_was_set(bench: Bench, value: int) -> None:
    bench.host.set_tagged_addr_ctrl(value)

    assert bench.host.get_tagged_addr_ctrl() == value
