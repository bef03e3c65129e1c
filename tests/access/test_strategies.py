"""Every strategy reads and writes data and tags, whatever the thread's checking mode is."""

import numpy as np
import pytest

from tagalong.access import (
    STRATEGIES,
    CallFlags,
    CopyCall,
    Fault,
    Hazard,
    Need,
    Routine,
    View,
    tagged_addr_ctrl,
)
from tagalong.access.host import SEGV_MTEAERR, SEGV_MTESERR, SIGSEGV
from tagalong.access.kernel import Kernel
from tagalong.errors import AddressError, UsageError
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tests.support.access_bench import Bench

NAMES = list(STRATEGIES)
MODES = list(TagCheckMode)


def set_mode(bench: Bench, mode: TagCheckMode) -> None:
    bench.host.set_tagged_addr_ctrl(tagged_addr_ctrl(mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
class TestRoundTrip:
    def test_read_gives_the_guest_s_data_and_tags(
        self, bench: Bench, name: str, mode: TagCheckMode
    ) -> None:
        data, packed = bench.fill(2, 3)
        strategy = bench.strategy(name)
        got, tags = np.zeros(len(data), np.uint8), np.zeros(packed.size, np.uint8)
        set_mode(bench, mode)

        assert strategy.read(bench.at(2), got) is None
        assert strategy.read_tags(bench.at(2), tags) is None

        assert got.tobytes() == data
        np.testing.assert_array_equal(tags, packed)

    def test_write_changes_data_and_no_tag(
        self, bench: Bench, name: str, mode: TagCheckMode
    ) -> None:
        data, packed = bench.fill(2, 3)
        new = np.frombuffer(data, np.uint8) ^ np.uint8(0x5A)
        set_mode(bench, mode)

        assert bench.strategy(name).write(bench.at(2), new) is None

        assert bench.data(bench.at(2), len(data)) == new.tobytes()
        np.testing.assert_array_equal(bench.machine.read_tags(bench.at(2), len(data)), packed)

    def test_write_tags_changes_tags_and_no_data(
        self, bench: Bench, name: str, mode: TagCheckMode
    ) -> None:
        data, packed = bench.fill(2, 3)
        new = np.roll(packed, 1)
        new[:64] = 0x77  # pairs of equal tags, which take another instruction
        set_mode(bench, mode)

        assert bench.strategy(name).write_tags(bench.at(2), new) is None

        assert bench.data(bench.at(2), len(data)) == data
        np.testing.assert_array_equal(bench.machine.read_tags(bench.at(2), len(data)), new)

    def test_write_zeros_changes_both(self, bench: Bench, name: str, mode: TagCheckMode) -> None:
        data, packed = bench.fill(2, 3)
        new = np.roll(packed, 1)
        new[64:128] = 0x33
        set_mode(bench, mode)

        assert bench.strategy(name).write_zeros(bench.at(2), new) is None

        assert bench.data(bench.at(2), len(data)) == bytes(len(data))
        np.testing.assert_array_equal(bench.machine.read_tags(bench.at(2), len(data)), new)

    def test_neighbours_of_what_is_written_stay(
        self, bench: Bench, name: str, mode: TagCheckMode
    ) -> None:
        data, packed = bench.fill(1, 3)
        page = bench.page
        strategy = bench.strategy(name)
        set_mode(bench, mode)

        strategy.write_zeros(bench.at(2), np.full(page // 32, 0x44, np.uint8))

        assert bench.data(bench.at(1), page) == data[:page]
        assert bench.data(bench.at(3), page) == data[2 * page :]
        tags = bench.machine.read_tags(bench.at(1), 3 * page).reshape(3, -1)
        np.testing.assert_array_equal(tags[[0, 2]], packed.reshape(3, -1)[[0, 2]])


@pytest.mark.parametrize("name", NAMES)
class TestRanges:
    @pytest.mark.parametrize("start", [0, 1, 7, 15, 16, 17])
    def test_any_start_and_length_is_read_and_written(
        self, bench: Bench, name: str, start: int
    ) -> None:
        data, _ = bench.fill(0, 3)
        strategy = bench.strategy(name)
        set_mode(bench, TagCheckMode.SYNC)
        at = bench.page + start
        for length in (1, 8, 15, 16, 17, 31, 47, 64, 65, 127, bench.page + 13):
            got = np.zeros(length, np.uint8)
            new = np.arange(length).astype(np.uint8) ^ np.uint8(0xA5)

            assert strategy.read(bench.at(1, start), got) is None
            assert got.tobytes() == data[at : at + length]

            assert strategy.write(bench.at(1, start), new) is None
            assert bench.data(bench.at(0), len(data)) == (
                data[:at] + new.tobytes() + data[at + length :]
            )
            bench.put(bench.at(1, start), data[at : at + length])

    def test_range_outside_ram_is_refused(self, bench: Bench, name: str) -> None:
        strategy = bench.strategy(name)
        end = Gpa(bench.machine.memory.regions[0].end - 8)

        with pytest.raises(AddressError, match="is not in one region of guest RAM"):
            strategy.read(end, np.zeros(16, np.uint8))
        with pytest.raises(AddressError, match="is not in one region of guest RAM"):
            strategy.write(end, np.zeros(16, np.uint8))

    def test_tags_of_parts_of_pages_are_refused(self, bench: Bench, name: str) -> None:
        strategy = bench.strategy(name)
        packed = np.zeros(bench.page // 32, np.uint8)

        for gpa, tags in ((Gpa(bench.gpa + 32), packed), (bench.gpa, packed[:3])):
            with pytest.raises(AddressError, match="not aligned to"):
                strategy.read_tags(gpa, tags)
            with pytest.raises(AddressError, match="not aligned to"):
                strategy.write_tags(gpa, tags)

    def test_array_that_is_no_row_of_bytes_is_refused(self, bench: Bench, name: str) -> None:
        with pytest.raises(UsageError, match="one contiguous row of uint8, not uint8 of shape"):
            bench.strategy(name).read(bench.gpa, np.zeros((32, 32), np.uint8)[:, ::2].T)


class TestControl:
    """What happens without a strategy: the same accesses, through pointers with tag 0."""

    def access(self, bench: Bench, routine_loads: bool) -> Fault | None:
        address = bench.host.address(View.TAGGED, bench.at(2), 64)
        buffer = np.zeros(64, np.uint8)
        with bench.host.borrow(buffer) as mine:
            pair = (mine, address) if routine_loads else (address, mine)
            return bench.host.call(Routine.COPY, *pair, 64).fault

    @pytest.mark.parametrize("loads", [True, False])
    def test_plain_access_faults_under_sync(self, bench: Bench, loads: bool) -> None:
        bench.fill(2, 1)
        address = bench.host.address(View.TAGGED, bench.at(2), 64)
        set_mode(bench, TagCheckMode.SYNC)

        fault = self.access(bench, loads)

        assert fault is not None
        assert (fault.signal, fault.code, fault.address) == (SIGSEGV, SEGV_MTESERR, address)
        assert fault.name == "SEGV_MTESERR"
        assert fault.is_tag_check

    @pytest.mark.parametrize("loads", [True, False])
    def test_plain_access_is_reported_without_an_address_under_async(
        self, bench: Bench, loads: bool
    ) -> None:
        bench.fill(2, 1)
        set_mode(bench, TagCheckMode.ASYNC)

        fault = self.access(bench, loads)

        assert fault is not None
        assert (fault.signal, fault.code, fault.address) == (SIGSEGV, SEGV_MTEAERR, 0)

    def test_asymmetric_mode_is_sync_for_loads_and_async_for_stores(self, bench: Bench) -> None:
        bench.fill(2, 1)
        set_mode(bench, TagCheckMode.ASYMMETRIC)

        load, store = self.access(bench, True), self.access(bench, False)

        assert load is not None
        assert load.code == SEGV_MTESERR
        assert store is not None
        assert store.code == SEGV_MTEAERR

    def test_plain_access_goes_through_without_checking(self, bench: Bench) -> None:
        bench.fill(2, 1)
        set_mode(bench, TagCheckMode.NONE)

        assert self.access(bench, True) is None
        assert self.access(bench, False) is None


@pytest.mark.parametrize("name", NAMES)
class TestSystemCalls:
    """write(2) and read(2) on what a strategy can lend, with checking on."""

    @pytest.mark.parametrize("mode", [TagCheckMode.NONE, TagCheckMode.SYNC])
    def test_lent_memory_is_taken_unless_the_hazard_says_no(
        self, bench: Bench, name: str, mode: TagCheckMode
    ) -> None:
        bench.fill(2, 1)
        strategy = bench.strategy(name)
        set_mode(bench, mode)

        with strategy.lend(bench.at(2), 256) as address:
            codes = (
                bench.host.write_syscall(address, 256),
                bench.host.read_syscall(address, bytes(256)),
            )

        hazard = Hazard.NOT_FOR_SYSCALLS in strategy.hazards
        refused = hazard and mode is TagCheckMode.SYNC
        assert codes == ((14, 14) if refused else (0, 0))  # EFAULT

    def test_needs_are_what_this_host_has(self, bench: Bench, name: str) -> None:
        needs = bench.strategy(name).needs

        assert needs <= set(Need)
        assert [bench.host.lacks(need) for need in needs] == [None] * len(needs)


@pytest.mark.parametrize("mode", [TagCheckMode.SYNC, TagCheckMode.ASYNC])
@pytest.mark.parametrize("copy_call", CopyCall)
def test_kernel_copies_unchecked_through_either_door(
    bench: Bench, copy_call: CopyCall, mode: TagCheckMode
) -> None:
    data, packed = bench.fill(2, 1)
    strategy, got = Kernel(bench.host, copy_call), np.zeros(len(data), np.uint8)
    set_mode(bench, mode)

    assert strategy.read(bench.at(2), got) is None
    assert strategy.write(bench.at(2), got[::-1].copy()) is None

    assert got.tobytes() == data
    assert bench.data(bench.at(2), len(data)) == data[::-1]
    np.testing.assert_array_equal(bench.machine.read_tags(bench.at(2), len(data)), packed)
    assert strategy.copy_call is copy_call


class TestHazards:
    """Each is real: it shows where it is said, and not where it is not."""

    @pytest.mark.parametrize("name", NAMES)
    def test_look_at_an_unused_page_allocates_it(self, fresh: Bench, name: str) -> None:
        region = fresh.machine.memory.regions[0]
        strategy = fresh.strategy(name)
        assert not region.used_pages(9, 1)[0]

        strategy.read(fresh.at(9), np.zeros(64, np.uint8))

        assert region.used_pages(9, 1)[0] == (Hazard.POPULATES_MEMORY in strategy.hazards)

    @pytest.mark.parametrize("name", NAMES)
    def test_other_accesses_of_the_thread_lose_their_checks(self, bench: Bench, name: str) -> None:
        """What lends with checking off, or copies between two checked places, shows it."""
        bench.fill(2, 2)
        strategy = bench.strategy(name)
        if strategy.view is View.PLAIN and not bench.has_two_views:
            pytest.skip(f"{name} lends the mapping without PROT_MTE, and there is but one mapping")
        other = bench.host.address(View.TAGGED, bench.at(3), 64)
        set_mode(bench, TagCheckMode.SYNC)
        load = {"tco": Routine.COPY_TCO, "sp": Routine.SP_LOAD, "match": Routine.MATCH_LOAD}
        flags = {"prctl": CallFlags.CHECKS_OFF, "sp": CallFlags.STACK_APART}

        # The buffer that the copy goes to is guest memory too: an access besides the guest's.
        with strategy.lend(bench.at(2), 64) as address:
            fault = bench.host.call(
                load.get(name, Routine.COPY), other, address, 64,
                flags=flags.get(name, CallFlags.NONE),
            ).fault  # fmt: skip

        assert (fault is None) == (Hazard.LOSES_CHECKING in strategy.hazards)
