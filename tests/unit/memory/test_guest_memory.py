"""Guest memory by gpa: location, data, tags, refusals."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagalong.errors import AddressError, RunStateError, UsageError
from tagalong.memory import Gpa, GuestMemory, Region

LOW, HIGH = Gpa(0x4000_0000), Gpa(0x8000_0000)
SIZE = 0x10000

# The fixture's memory may go on from example to example: each writes what it reads.
modest = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    high, low = Region.create(HIGH, SIZE, name="high"), Region.create(LOW, SIZE, name="low")
    with GuestMemory([high, low]) as memory:
        yield memory


class TestRegions:
    def test_regions_given_in_any_order_are_sorted(self, memory: GuestMemory) -> None:
        assert [region.gpa for region in memory.regions] == [LOW, HIGH]

    def test_adjacent_regions_are_accepted(self) -> None:
        regions = [Region.create(LOW, SIZE), Region.create(Gpa(LOW + SIZE), SIZE)]

        with GuestMemory(regions) as memory:
            assert memory.locate(Gpa(LOW + SIZE), 1) == (regions[1], 0)

    def test_overlapping_regions_are_refused(self) -> None:
        with (
            Region.create(LOW, SIZE) as one,
            Region.create(Gpa(LOW + SIZE - 0x1000), SIZE) as other,
            pytest.raises(
                UsageError,
                match=r"^regions <Region \[0x40000000, 0x40010000\)> and "
                r"<Region \[0x4000f000, 0x4001f000\)> overlap$",
            ),
        ):
            GuestMemory([other, one])

    def test_regions_of_two_page_sizes_are_refused(self) -> None:
        with (
            Region.create(LOW, SIZE) as one,
            Region.create(HIGH, SIZE, page_size_bytes=0x4000) as other,
            pytest.raises(UsageError, match=r"differ in page size: 0x1000 and 0x4000$"),
        ):
            GuestMemory([one, other])

    def test_no_region_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^guest memory needs at least one region$"):
            GuestMemory([])


class TestLocate:
    @pytest.mark.parametrize(
        ("gpa", "length", "region", "offset"),
        [
            (LOW, SIZE, 0, 0),
            (LOW + SIZE - 1, 1, 0, SIZE - 1),
            (HIGH + 0x123, 0x10, 1, 0x123),
            (HIGH, 0, 1, 0),
        ],
    )
    def test_locate_inside_a_region_gives_it_and_the_offset(
        self, memory: GuestMemory, gpa: int, length: int, region: int, offset: int
    ) -> None:
        assert memory.locate(Gpa(gpa), length) == (memory.regions[region], offset)

    @pytest.mark.parametrize(
        ("gpa", "length"),
        [
            (LOW - 1, 1),
            (LOW - 1, 2),
            (LOW + SIZE, 0),
            (LOW + SIZE - 1, 2),
            (LOW, HIGH - LOW + 1),
            (HIGH + SIZE, 1),
        ],
    )
    def test_locate_not_wholly_in_one_region_is_refused_and_names_the_ram(
        self, memory: GuestMemory, gpa: int, length: int
    ) -> None:
        with pytest.raises(AddressError) as caught:
            memory.locate(Gpa(gpa), length)

        assert str(caught.value) == (
            f"gpa range [{gpa:#x}, {gpa + length:#x}) is not in one region of guest RAM: "
            "[0x40000000, 0x40010000), [0x80000000, 0x80010000)"
        )

    def test_locate_negative_length_is_refused(self, memory: GuestMemory) -> None:
        with pytest.raises(AddressError, match=r"^length -0x1 is negative$"):
            memory.locate(LOW, -1)


class TestData:
    @modest
    @given(st.integers(0, SIZE - 300), st.binary(max_size=300))
    def test_read_after_write_any_bytes_gives_them_back(
        self, memory: GuestMemory, offset: int, data: bytes
    ) -> None:
        memory.write(Gpa(HIGH + offset), data)

        assert memory.read(Gpa(HIGH + offset), len(data)) == data

    @pytest.mark.parametrize(
        "data",
        [b"\x01\x02", bytearray(b"\x01\x02"), memoryview(b"\x01\x02"), np.array([1, 2], np.uint8)],
        ids=lambda data: type(data).__name__,
    )
    def test_write_any_bytes_like_changes_exactly_its_range(
        self, memory: GuestMemory, data: bytes
    ) -> None:
        memory.write(LOW, b"\xee" * SIZE)

        memory.write(Gpa(LOW + 5), data)

        assert memory.read(Gpa(LOW + 4), 4) == b"\xee\x01\x02\xee"

    def test_write_data_leaves_the_tags(self, memory: GuestMemory) -> None:
        memory.write_tags(LOW, np.array([0x21], np.uint8))

        memory.write(LOW, bytes(64))

        assert memory.read_tags(LOW, 64).tolist() == [0x21, 0x00]

    def test_write_across_the_end_is_refused_and_changes_nothing(self, memory: GuestMemory) -> None:
        with pytest.raises(AddressError):
            memory.write(Gpa(LOW + SIZE - 2), b"abc")

        assert memory.read(Gpa(LOW + SIZE - 2), 2) == b"\0\0"

    def test_view_is_the_memory_itself_and_read_only(self, memory: GuestMemory) -> None:
        view = memory.view(Gpa(LOW + 8), 4)

        memory.write(Gpa(LOW + 9), b"\x5a")

        assert view.tobytes() == b"\0\x5a\0\0"
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1

    def test_storing_gives_the_memory_itself_and_the_log_has_its_pages(
        self, memory: GuestMemory
    ) -> None:
        stores = memory.regions[0].stores
        stores.start()

        with memory.storing(Gpa(LOW + 0xFFF), 2) as view:
            view[:] = (0x5A, 0xA5)

        assert memory.read(Gpa(LOW + 0xFFF), 2) == b"\x5a\xa5"
        assert stores.harvest().pages().tolist() == [0, 1]

    def test_read_and_read_tags_of_unused_pages_leave_them_holes(self, memory: GuestMemory) -> None:
        memory.read(LOW, SIZE)
        memory.read_tags(LOW, SIZE)

        assert memory.regions[0].populated_pages().count() == 0


class TestTags:
    @modest
    @given(st.integers(0, SIZE // 32 - 40), st.binary(max_size=40))
    def test_read_tags_after_write_tags_gives_them_back(
        self, memory: GuestMemory, pair: int, packed: bytes
    ) -> None:
        gpa = Gpa(HIGH + 32 * pair)
        written = np.frombuffer(packed, np.uint8)

        memory.write_tags(gpa, written)

        assert np.array_equal(memory.read_tags(gpa, 32 * written.size), written)

    def test_write_tags_changes_exactly_its_range_and_no_data(self, memory: GuestMemory) -> None:
        region = memory.regions[0]
        region.raw_tags[:] = 0xEE

        memory.write_tags(Gpa(LOW + 0x40), np.array([0x21, 0x43], np.uint8))

        assert region.tags[:6].tolist() == [0xEE, 0xEE, 0x21, 0x43, 0xEE, 0xEE]
        assert not region.data.any()

    def test_read_tags_is_a_copy(self, memory: GuestMemory) -> None:
        packed = memory.read_tags(LOW, 32)

        packed[0] = 0xFF

        assert memory.read_tags(LOW, 32).tolist() == [0]

    @pytest.mark.parametrize(
        ("gpa", "length", "message"),
        [
            (LOW + 16, 32, r"^gpa 0x40000010 is not a multiple of 0x20$"),
            (LOW, 48, r"^length 0x30 is not a multiple of 0x20$"),
            (LOW + SIZE - 32, 64, r"is not in one region of guest RAM"),
        ],
    )
    def test_read_tags_of_an_impossible_range_is_refused(
        self, memory: GuestMemory, gpa: int, length: int, message: str
    ) -> None:
        with pytest.raises(AddressError, match=message):
            memory.read_tags(Gpa(gpa), length)

    def test_write_tags_beyond_the_end_is_refused_and_changes_nothing(
        self, memory: GuestMemory
    ) -> None:
        with pytest.raises(AddressError, match=r"is not in one region of guest RAM"):
            memory.write_tags(Gpa(LOW + SIZE - 32), np.full(2, 0x11, np.uint8))

        assert not memory.regions[0].tags.any()

    def test_write_tags_of_another_type_is_refused(self, memory: GuestMemory) -> None:
        with pytest.raises(UsageError, match=r"one row of uint8, not int64 of shape \(2,\)$"):
            memory.write_tags(LOW, np.zeros(2, np.int64))


class TestClose:
    def test_close_closes_every_region(self, memory: GuestMemory) -> None:
        memory.close()
        memory.close()

        for gpa in (LOW, HIGH):
            with pytest.raises(RunStateError, match=r"is closed$"):
                memory.read(gpa, 1)


@pytest.mark.parametrize("pages", [[-1, 3], [0, SIZE // 4096], [SIZE // 4096]])
def test_region_of_pages_outside_of_it_is_refused(pages: list[int]) -> None:
    with GuestMemory([Region.create(LOW, SIZE)]) as memory:
        assert memory.region_of_pages(0, np.array([0, 1], np.int64)) is memory.regions[0]

        with pytest.raises(AddressError, match="are not all in <Region"):
            memory.region_of_pages(0, np.array(pages, np.int64))
