"""Anonymous RAM, and what takes the place of its tag plane."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from tagalong.errors import AddressError, HostError, RunStateError, UsageError
from tagalong.kvm.ram import TagsInPages, create_region
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, PrivatePlane, Region

PAGE = mmap.PAGESIZE
PAGES = 64
RAM = RegionDescription(Gpa(0x4000_0000), PAGES * PAGE)


@pytest.fixture(params=[True, False], ids=["shared", "anonymous"])
def region(request: pytest.FixtureRequest) -> Region:
    return create_region(RAM, PAGE, shared=bool(request.param))


def test_region_is_all_holes_at_first(region: Region) -> None:
    assert region.populated_pages().count() == 0
    assert not region.used_pages(0, PAGES).any()


def test_region_used_pages_are_found_and_finding_uses_none(region: Region) -> None:
    for page in (3, 4, 40):
        region.raw_data[page * PAGE + 5] = 1

    assert region.populated_pages().pages().tolist() == [3, 4, 40]
    assert np.flatnonzero(region.used_pages(2, 3)).tolist() == [1, 2]
    assert np.flatnonzero(region.used_pages(5, 59)).tolist() == [35]
    assert region.populated_pages().count() == 3


def test_region_read_of_holes_gives_zero_and_keeps_them(region: Region) -> None:
    region.raw_data[7 * PAGE + 100] = 9

    copy = region.read_data(7 * PAGE + 99, 3 * PAGE)

    assert copy[1] == 9
    assert np.count_nonzero(copy) == 1
    assert region.populated_pages().pages().tolist() == [7]


def test_region_tags_are_refused_and_not_zero(region: Region) -> None:
    with pytest.raises(UsageError, match="use read_tags and write_tags of the machine"):
        region.tags  # noqa: B018 (the property raises)
    with pytest.raises(UsageError, match="a KVM guest's tags are in its pages"):
        region.read_packed_tags(0, PAGE)


def test_tags_in_pages_every_way_to_the_plane_is_refused() -> None:
    plane = TagsInPages()

    with pytest.raises(UsageError):
        plane.fd  # noqa: B018 (the property raises)
    with pytest.raises(UsageError):
        plane.used_pages(0, PAGE, 1)
    assert list(plane.extents()) == []
    plane.close()


def test_anonymous_plane_has_no_file() -> None:
    with pytest.raises(HostError, match=r"guest memory ram is anonymous: there is no file"):
        PrivatePlane("ram", PAGE).fd  # noqa: B018 (the property raises)


def test_anonymous_plane_after_close_refuses() -> None:
    plane = PrivatePlane("ram", PAGE)

    plane.close()
    plane.close()

    with pytest.raises(RunStateError, match=r"guest memory ram is closed"):
        plane.array  # noqa: B018 (the property raises)


def test_anonymous_plane_too_large_says_so() -> None:
    with pytest.raises(HostError, match=r"cannot create 0x4000000000000000 bytes of memory"):
        PrivatePlane("ram", 1 << 62)


def test_large_empty_region_costs_nothing_to_look_at() -> None:
    large = RegionDescription(Gpa(0x4000_0000), 4 << 30)
    region = create_region(large, PAGE, shared=False)
    before = resident_bytes()

    assert region.populated_pages().count() == 0
    assert not region.read_data(1 << 30, 8 << 20).any()
    assert resident_bytes() - before < 64 << 20


def test_create_region_misaligned_is_refused() -> None:
    with pytest.raises(AddressError, match="is not a multiple of"):
        create_region(RegionDescription(Gpa(0x4000_0001), PAGE), PAGE, shared=True)


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
