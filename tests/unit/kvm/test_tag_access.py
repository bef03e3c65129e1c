"""Tags between KVM's form and ours, and pages that were never used stay holes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.access.host import Direction
from tagalong.access.ioctl import Ioctl
from tagalong.access.native_host import NativeHost
from tagalong.errors import AddressError, UsageError
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.ram import create_region
from tagalong.kvm.tag_access import KvmTagAccess
from tagalong.kvm.tag_port import IoctlPort
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, GuestMemory, PageBitmap
from tests.support.fake_vm import PAGE, FakeVm

if TYPE_CHECKING:
    from tagalong.kvm.vm_fd import KvmVm

BASE = Gpa(0x4000_0000)
PAGES = 3008  # whole pages of any host


class Fixture:
    """Tag access over a fake VM, with the times that the log was suspended."""

    def __init__(self, host_page_bytes: int = PAGE) -> None:
        self.vm = FakeVm(PAGES * PAGE // host_page_bytes, page_bytes=host_page_bytes)
        region = create_region(RegionDescription(BASE, PAGES * PAGE), PAGE, shared=True)
        self.memory = GuestMemory([region])
        self.suspensions = 0
        self.port = IoctlPort(cast("KvmVm", self.vm), self.suspend, host_page_bytes)
        self.access = KvmTagAccess(self.port, self.memory)

    @contextmanager
    def suspend(self) -> Iterator[None]:
        self.suspensions += 1
        flags, self.vm.flags = self.vm.flags, 0
        yield
        self.vm.flags = flags

    def use(self, *pages: int) -> None:
        for page in pages:
            self.memory.write(Gpa(BASE + page * PAGE), b"x")


@pytest.fixture
def tags() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.memory.close()


def test_read_holes_are_zero_and_kvm_is_not_asked(tags: Fixture) -> None:
    assert not tags.access.read(BASE, PAGES * PAGE).any()
    assert tags.vm.calls == []


def test_read_used_pages_packs_low_nibble_first(tags: Fixture) -> None:
    tags.use(2, 3, 9)
    tags.vm.tags[2 * 256], tags.vm.tags[2 * 256 + 1], tags.vm.tags[9 * 256 + 255] = 5, 9, 7

    packed = tags.access.read(BASE, 16 * PAGE)

    assert packed.size == 16 * 128
    assert (packed[256], packed[9 * 128 + 127]) == (0x95, 0x70)
    assert np.count_nonzero(packed) == 2
    assert tags.vm.calls == [("copy", 2 * PAGE, 512), ("copy", 9 * PAGE, 256)]


def test_read_noted_pages_needs_no_second_look(tags: Fixture) -> None:
    tags.access.note_used([PageBitmap.from_pages(PAGES, [4])])

    tags.access.read(Gpa(BASE + 4 * PAGE), PAGE)

    assert tags.vm.calls == [("copy", 4 * PAGE, 256)]


def test_read_a_large_range_goes_in_chunks(tags: Fixture) -> None:
    tags.use(*range(PAGES))

    tags.access.read(BASE, PAGES * PAGE)

    assert [size for _, _, size in tags.vm.calls] == [1 << 18, 1 << 18, (PAGES - 2048) * 256]


def test_write_unpacks(tags: Fixture) -> None:
    tags.use(1)
    packed = np.zeros(128, np.uint8)
    packed[0], packed[127] = 0x95, 0xE0

    tags.access.write(Gpa(BASE + PAGE), packed)

    assert tags.vm.tags[256:258].tolist() == [5, 9]
    assert tags.vm.tags[511] == 0xE


def test_write_zero_leaves_holes_and_clears_used_pages(tags: Fixture) -> None:
    tags.use(1)
    tags.vm.tags[:] = 3
    packed = np.zeros(4 * 128, np.uint8)
    packed[3 * 128] = 1

    tags.access.write(BASE, packed)

    assert tags.vm.calls == [("copy", PAGE, 256), ("copy", 3 * PAGE, 256)]
    assert tags.vm.tags[256] == 0
    assert tags.vm.tags[3 * 256] == 1
    assert tags.memory.regions[0].populated_pages().pages().tolist() == [1]


def test_write_where_kvm_takes_no_tags_while_logging_suspends_the_log(tags: Fixture) -> None:
    tags.use(0)
    tags.vm.flags, tags.vm.refuses_tags_while_logging = 1, True

    tags.access.write(BASE, np.full(128, 0x11, np.uint8))

    assert tags.suspensions == 1
    assert tags.vm.flags == 1
    assert tags.vm.tags[:256].tolist() == [1] * 256


def test_misaligned_and_foreign_ranges_are_refused(tags: Fixture) -> None:
    with pytest.raises(AddressError, match=r"tags of 0x40000010\+0x1000: not aligned to 0x1000"):
        tags.access.read(Gpa(BASE + 16), PAGE)
    with pytest.raises(AddressError, match="is not in one region of guest RAM"):
        tags.access.read(Gpa(BASE - PAGE), PAGE)
    with pytest.raises(UsageError, match="packed tags must be one row of uint8"):
        tags.access.write(BASE, np.zeros((2, 128), np.uint8))
    assert tags.vm.calls == []


def test_read_pages_asks_for_the_runs_of_those_that_are_used(tags: Fixture) -> None:
    tags.use(2, 3, 9)
    tags.vm.tags[2 * 256], tags.vm.tags[3 * 256 + 1], tags.vm.tags[9 * 256 + 255] = 5, 9, 7

    rows = tags.access.read_pages(0, np.array([1, 2, 3, 9, 20], np.int64))

    assert rows.shape == (5, 128)
    assert (rows[1, 0], rows[2, 0], rows[3, 127]) == (0x05, 0x90, 0x70)
    assert np.count_nonzero(rows) == 3
    assert tags.vm.calls == [("copy", 2 * PAGE, 512), ("copy", 9 * PAGE, 256)]


@pytest.mark.parametrize("used", [(2, 9), (1, 2, 9)])
def test_read_pages_into_given_memory_overwrites_all_of_it(
    tags: Fixture, used: tuple[int, ...]
) -> None:
    tags.use(*used)
    tags.vm.tags[2 * 256], tags.vm.tags[9 * 256 + 255] = 5, 7
    out = np.full((3, 128), 0xEE, np.uint8)

    rows = tags.access.read_pages(0, np.array([1, 2, 9], np.int64), out)

    assert rows is out
    assert (out[1, 0], out[2, 127]) == (0x05, 0x70)
    assert np.count_nonzero(out) == 2


def test_write_pages_leaves_holes_that_stay_zero(tags: Fixture) -> None:
    tags.use(1)
    tags.vm.tags[:] = 3
    rows = np.zeros((3, 128), np.uint8)
    rows[2, 0] = 0x21

    tags.access.write_pages(0, np.array([1, 5, 8], np.int64), rows)

    assert tags.vm.calls == [("copy", PAGE, 256), ("copy", 8 * PAGE, 256)]
    assert not tags.vm.tags[256:512].any()
    assert tags.vm.tags[8 * 256 : 8 * 256 + 3].tolist() == [1, 2, 0]


def test_write_pages_where_kvm_takes_no_tags_while_logging_suspends_the_log(tags: Fixture) -> None:
    tags.use(0, 2)
    tags.vm.flags, tags.vm.refuses_tags_while_logging = 1, True

    tags.access.write_pages(0, np.array([0, 2], np.int64), np.full((2, 128), 0x11, np.uint8))

    assert (tags.suspensions, tags.vm.flags) == (1, 1)
    assert tags.vm.tags[:768].tolist() == [1] * 256 + [0] * 256 + [1] * 256


@pytest.mark.parametrize("shape", [(1, 128), (3, 128), (2, 127), (2, 129), (256,)])
def test_write_pages_of_other_rows_than_those_of_the_pages_is_refused(
    tags: Fixture, shape: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        tags.access.write_pages(0, np.array([4, 7], np.int64), np.full(shape, 0x11, np.uint8))

    assert str(caught.value) == (
        f"tags of 2 pages must be uint8 of shape (2, 128), not uint8 of shape {shape}"
    )
    assert tags.vm.calls == []


def test_pages_outside_of_the_region_are_refused(tags: Fixture) -> None:
    with pytest.raises(AddressError, match="are not all in"):
        tags.access.read_pages(0, np.array([PAGES], np.int64))


@pytest.fixture(params=[0x4000, 0x10000])
def parts(request: pytest.FixtureRequest) -> Iterator[Fixture]:
    """Return the tags of a machine with pages of 4 KiB on a host with larger ones."""
    fixture = Fixture(request.param)
    fixture.use(*range(PAGES))
    fixture.vm.tags[:] = np.arange(fixture.vm.tags.size) % 13
    yield fixture
    fixture.memory.close()


PARTS = np.array([1, 2, 3, 4, 21, 62, 63, 2999], np.int64)


def unpacked(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack((rows & 15, rows >> 4), axis=-1).reshape(rows.shape[0], -1)


def test_read_pages_smaller_than_the_host_s_asks_for_the_host_s(parts: Fixture) -> None:
    rows = parts.access.read_pages(0, PARTS)

    assert np.array_equal(unpacked(rows), parts.vm.tags.reshape(PAGES, -1)[PARTS])


def test_write_pages_smaller_than_the_host_s_leaves_the_tags_around(parts: Fixture) -> None:
    rows = np.full((PARTS.size, 128), 0xFE, np.uint8)
    rows[:, 0] = np.arange(PARTS.size)
    expected = parts.vm.tags.reshape(PAGES, -1).copy()
    expected[PARTS] = unpacked(rows)

    parts.access.write_pages(0, PARTS, rows)

    assert np.array_equal(parts.vm.tags.reshape(PAGES, -1), expected)


def test_write_of_a_part_of_the_host_s_page_where_kvm_takes_no_tags_while_logging(
    parts: Fixture,
) -> None:
    parts.vm.flags, parts.vm.refuses_tags_while_logging = 1, True
    before = parts.vm.tags[:256].copy()

    parts.access.write(Gpa(BASE + PAGE), np.full(2 * 128, 0x11, np.uint8))

    assert (parts.suspensions, parts.vm.flags) == (1, 1)
    assert parts.vm.tags[:256].tolist() == before.tolist()
    assert parts.vm.tags[256:768].tolist() == [1] * 512
    assert parts.access.read(Gpa(BASE + 2 * PAGE), PAGE).tolist() == [0x11] * 128


@pytest.fixture
def strategy(parts: Fixture) -> Ioctl:
    """Return strategy `ioctl` as a program uses it by itself."""

    def copy(gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        is_read = direction is Direction.FROM_GUEST
        flags = KVM_ARM_TAGS_FROM_GUEST if is_read else KVM_ARM_TAGS_TO_GUEST
        parts.port.copy(gpa, tags, flags)

    return Ioctl(NativeHost(parts.memory, copy))


def test_strategy_by_itself_reads_parts_of_pages_of_the_host(
    parts: Fixture, strategy: Ioctl
) -> None:
    packed = np.empty(6 * 128, np.uint8)

    strategy.read_tags(Gpa(BASE + 3 * PAGE), packed)

    assert unpacked(packed.reshape(6, -1)).tolist() == (
        parts.vm.tags.reshape(PAGES, -1)[3:9].tolist()
    )


def test_strategy_by_itself_writes_parts_of_pages_of_the_host_and_no_tags_around(
    parts: Fixture, strategy: Ioctl
) -> None:
    packed = np.arange(6 * 128).astype(np.uint8)
    expected = parts.vm.tags.reshape(PAGES, -1).copy()
    expected[3:9] = unpacked(packed.reshape(6, -1))

    strategy.write_tags(Gpa(BASE + 3 * PAGE), packed)

    assert np.array_equal(parts.vm.tags.reshape(PAGES, -1), expected)


def test_copy_of_whole_pages_of_the_host_is_one_call_of_kvm(parts: Fixture) -> None:
    tags = np.empty(16 * 256, np.uint8)

    parts.port.copy(BASE + 16 * PAGE, tags, KVM_ARM_TAGS_FROM_GUEST)

    assert parts.vm.calls == [("copy", 16 * PAGE, 16 * 256)]
    assert parts.port.is_whole(BASE + 16 * PAGE, 16 * PAGE)
    assert not parts.port.is_whole(BASE + PAGE, 16 * PAGE)


def test_copy_of_less_than_a_packed_byte_is_kvm_s_to_refuse(parts: Fixture) -> None:
    with pytest.raises(IoctlError) as caught:
        parts.port.copy(BASE + 16, np.empty(1, np.uint8), KVM_ARM_TAGS_FROM_GUEST)

    assert caught.value.errno == errno.EINVAL
