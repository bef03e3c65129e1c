"""Harvests of KVM's dirty logs: with and without manual protection."""

from typing import cast

import numpy as np
import pytest

from tagalong.errors import RunStateError
from tagalong.kvm.dirty_log import KvmDirtyLog
from tagalong.kvm.vm_fd import KvmVm, Slot
from tagalong.memory import Gpa, Region
from tests.support.fake_vm import FakeVm

PAGES = 200_000
SLOT = Slot(0, 0x4000_0000, PAGES * 4096, 0)


def log_of(vm: FakeVm) -> KvmDirtyLog:
    region = Region.create(Gpa(SLOT.gpa), SLOT.size_bytes)
    return KvmDirtyLog(cast("KvmVm", vm), (SLOT,), (region,))


@pytest.mark.parametrize("manual", [0, 1, 3])
def test_harvest_gives_each_mark_once(manual: int) -> None:
    vm = FakeVm(PAGES, manual=manual)
    log = log_of(vm)
    vm.guest_writes([7])
    log.start()
    vm.guest_writes([3, 70_000, PAGES - 1])

    first, second = log.harvest()[0], log.harvest()[0]

    assert first.pages().tolist() == [3, 70_000, PAGES - 1]
    assert second.count() == 0


def test_manual_protection_is_enabled_without_initially_set() -> None:
    vm = FakeVm(PAGES, manual=3)

    assert log_of(vm).is_manual
    assert vm.calls == [("enable", 168, 1)]


def test_harvest_clears_only_stretches_with_a_mark() -> None:
    vm = FakeVm(PAGES)
    log = log_of(vm)
    log.start()
    vm.guest_writes([70_000, PAGES - 1])

    log.harvest()

    assert [call for call in vm.calls if call[0] == "clear"] == [
        ("clear", 65536, 65536),
        ("clear", 196_608, PAGES - 196_608),
    ]


def test_harvest_not_started_is_refused() -> None:
    log = log_of(FakeVm(PAGES))

    with pytest.raises(RunStateError, match="the dirty log was not started"):
        log.harvest()
    log.start()
    log.stop()
    with pytest.raises(RunStateError, match="the dirty log was not started"):
        log.harvest()


def test_suspended_records_nothing_and_loses_nothing() -> None:
    vm = FakeVm(PAGES)
    log = log_of(vm)
    log.start()
    vm.guest_writes([5])

    with log.suspended():
        assert vm.flags == 0
    vm.guest_writes([6])

    assert vm.flags == 1
    assert log.harvest()[0].pages().tolist() == [5, 6]


def test_suspended_without_a_log_does_nothing() -> None:
    vm = FakeVm(PAGES, manual=0)

    with log_of(vm).suspended():
        pass

    assert vm.calls == []


def test_start_again_forgets_what_was_recorded() -> None:
    vm = FakeVm(PAGES)
    log = log_of(vm)
    log.start()
    vm.guest_writes([5])

    log.start()

    assert log.harvest()[0].count() == 0


def test_stores_of_the_host_are_in_the_harvest_beside_the_guest_s() -> None:
    vm = FakeVm(PAGES)
    region = Region.create(Gpa(SLOT.gpa), SLOT.size_bytes)
    log = KvmDirtyLog(cast("KvmVm", vm), (SLOT,), (region,))
    region.write_data(1 * 4096, np.ones(1, np.uint8))
    log.start()
    vm.guest_writes([5])
    region.write_data(3 * 4096, np.ones(1, np.uint8))
    with log.suspended():
        region.write_data(9 * 4096, np.ones(1, np.uint8))

    first, second = log.harvest()[0], log.harvest()[0]
    region.write_data(11 * 4096, np.ones(1, np.uint8))
    log.stop()
    log.start()

    assert first.pages().tolist() == [3, 5, 9]
    assert second.count() == log.harvest()[0].count() == 0


@pytest.mark.parametrize(
    ("host", "machine", "dirty", "expected"),
    [
        (0x1000, 0x4000, [0, 5, 6, 255], [0, 1, 63]),
        (0x1000, 0x10000, [15, 16], [0, 1]),
        (0x4000, 0x1000, [2, 63], [8, 9, 10, 11, 252, 253, 254, 255]),
        (0x10000, 0x1000, [1], [*range(16, 32)]),
        (0x10000, 0x4000, [0, 15], [0, 1, 2, 3, 60, 61, 62, 63]),
        (0x4000, 0x4000, [7], [7]),
        (0x10000, 0x10000, [7], [7]),
    ],
)
def test_harvest_is_in_pages_of_the_machine_and_kvm_is_asked_in_the_host_s(
    host: int, machine: int, dirty: list[int], expected: list[int]
) -> None:
    size_bytes = 1 << 20
    vm = FakeVm(size_bytes // host, page_bytes=host)
    region = Region.create(Gpa(SLOT.gpa), size_bytes, page_size_bytes=machine)
    slot = Slot(0, SLOT.gpa, size_bytes, 0)
    log = KvmDirtyLog(cast("KvmVm", vm), (slot,), (region,), host)
    log.start()
    vm.guest_writes(dirty)
    with log.suspended():
        pass
    again = dirty[:1]
    vm.guest_writes(again)
    region.write_data(size_bytes // 2, np.ones(1, np.uint8))

    first, second = log.harvest()[0], log.harvest()[0]

    assert first.pages().tolist() == sorted({*expected, size_bytes // 2 // machine})
    assert second.count() == 0
    assert vm.dirty.count() == 0
