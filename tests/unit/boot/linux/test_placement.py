"""Where things go: by booting.rst, and what does not fit is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.boot.linux.image import KernelForm, KernelImage
from tagalong.boot.linux.placement import place
from tagalong.errors import GuestImageError
from tagalong.machine import RegionDescription

MIB, GIB = 1 << 20, 1 << 30
BASE = 0x4000_0000


def kernel(size_bytes: int, text_offset: int = 0) -> KernelImage:
    return KernelImage(memoryview(b""), text_offset, size_bytes, None, KernelForm.IMAGE)


def ram(size_bytes: int, gpa: int = BASE) -> RegionDescription:
    return RegionDescription(gpa, size_bytes)


def test_place_in_large_ram_puts_the_disk_128_mib_behind_the_start() -> None:
    found = place(ram(5 * GIB), kernel(40 * MIB), 3 * MIB)

    assert found.kernel == BASE
    assert (found.initrd, found.initrd_end) == (BASE + 128 * MIB, BASE + 131 * MIB)
    assert found.tree == BASE + 132 * MIB


def test_place_in_small_ram_puts_the_disk_behind_the_kernel() -> None:
    found = place(ram(64 * MIB), kernel(21 * MIB), 38 * MIB)

    assert (found.initrd, found.tree) == (BASE + 22 * MIB, BASE + 60 * MIB)


def test_place_ram_that_begins_off_2_mib_starts_at_the_next() -> None:
    found = place(ram(64 * MIB, BASE + 4096), kernel(MIB, text_offset=0x80000), 0)

    assert found.kernel == BASE + 2 * MIB + 0x80000


def test_place_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GuestImageError) as caught:
        place(ram(64 * MIB), kernel(65 * MIB), 0)

    assert str(caught.value) == (
        "kernel: it needs 0x4100000 bytes from 0x40000000 on, and RAM ends at 0x44000000; give "
        "more --ram"
    )


def test_place_initrd_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GuestImageError) as caught:
        place(ram(64 * MIB), kernel(21 * MIB), 41 * MIB)

    assert str(caught.value) == (
        "the initial RAM disk of 0x2900000 bytes and 0x200000 for the device tree do not fit "
        "between the kernel, which ends at 0x41500000, and the end of RAM at 0x44000000; give more "
        "--ram"
    )


def test_place_initrd_beyond_the_kernels_window_is_refused() -> None:
    with pytest.raises(GuestImageError, match="ends more than 0x800000000 behind the kernel"):
        place(ram(64 * GIB), kernel(40 * MIB), 32 * GIB)


@given(
    st.integers(1, 1 << 36),
    st.integers(0, 1 << 64),
    st.integers(1, 1 << 64),
    st.integers(0, 1 << 36),
)
def test_place_anything_is_in_ram_and_apart_or_refused(
    ram_bytes: int, text_offset: int, kernel_bytes: int, initrd_bytes: int
) -> None:
    try:
        found = place(ram(ram_bytes), kernel(kernel_bytes, text_offset), initrd_bytes)
    except GuestImageError:
        return

    kernel_end = found.kernel + kernel_bytes
    assert BASE <= found.kernel < kernel_end <= found.initrd
    assert found.initrd_end == found.initrd + initrd_bytes <= found.tree
    assert found.tree + 2 * MIB <= BASE + ram_bytes
    assert (found.initrd | found.tree) % (2 * MIB) == 0
    assert found.initrd_end <= BASE + 32 * GIB
