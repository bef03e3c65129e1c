"""What the Machine Protocol promises, with a guest that notices when it is not kept."""

import time
from pathlib import Path

import numpy as np
import pytest

from tagalong.errors import UsageError
from tagalong.machine import Machine, MachineState, RunState
from tagalong.memory import Gpa
from tests.support.running_guest import Boot

CHURN = "working-set=2M report=2000"


def test_pause_and_resume_under_churn_nothing_is_lost(boot: Boot) -> None:
    guest = boot("churn", CHURN, vcpu_count=2)

    for count in range(1, 20):
        guest.machine.resume()
        guest.wait_for("progress", count)
        guest.machine.pause()

    assert not guest.lines_with("FAIL")


def test_throttled_guest_does_less_and_loses_nothing(boot: Boot) -> None:
    guest = boot("churn", CHURN, vcpu_count=2)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    began = time.monotonic()
    guest.wait_for("progress", 8)
    full_speed_s = time.monotonic() - began

    guest.machine.throttle(80)
    began = time.monotonic()
    guest.wait_for("progress", 14, seconds=120)
    throttled_s = time.monotonic() - began
    guest.machine.pause()
    guest.machine.throttle(0)

    assert throttled_s > 2 * full_speed_s  # five times as long, on a host with time to spare
    assert guest.machine.save_state()
    assert not guest.lines_with("FAIL")


def test_throttle_and_pause_from_two_threads_do_not_lock_each_other_out(boot: Boot) -> None:
    guest = boot("churn", CHURN)
    guest.machine.throttle(80)
    for count in range(1, 4):
        guest.machine.resume()
        guest.wait_for("progress", count, seconds=120)
        guest.machine.peek_state()
        guest.machine.pause()
        assert guest.machine.run_state is RunState.PAUSED
    guest.machine.throttle(0)

    assert not guest.lines_with("FAIL")


def test_machine_resumed_while_it_is_held_runs_when_the_block_ends(boot: Boot) -> None:
    guest = boot("churn", CHURN)
    with guest.machine.hold_if_paused() as is_held:
        assert is_held
        guest.machine.resume()
        assert guest.machine.run_state is RunState.RUNNING
        time.sleep(0.3)
        assert not guest.lines

    guest.wait_for("progress", 1)
    with guest.machine.hold_if_paused() as is_held:
        assert not is_held
        guest.wait_for("progress", len(guest.lines_with("progress")) + 1)


def test_throttle_that_is_no_percentage_is_refused(boot: Boot) -> None:
    guest = boot("churn", CHURN)

    for percent in (-1, 100):
        with pytest.raises(UsageError, match="give 0 to 99 percent"):
            guest.machine.throttle(percent)


def test_state_and_memory_copied_to_another_machine_guest_goes_on(boot: Boot) -> None:
    guest, other = (boot("churn", CHURN, vcpu_count=2) for _ in range(2))
    guest.machine.resume()
    guest.wait_for("progress", 4)
    guest.machine.pause()

    copy_all(guest.machine, other.machine)
    other.machine.resume()
    other.wait_for("progress", 4)

    assert not other.lines_with("FAIL")


def test_tags_lost_in_the_copy_guest_notices(boot: Boot) -> None:
    guest, other = (boot("churn", CHURN) for _ in range(2))
    guest.machine.resume()
    guest.wait_for("progress", 2)
    guest.machine.pause()

    copy_all(guest.machine, other.machine, with_tags=False)
    other.machine.resume()
    other.machine.wait(120)

    assert other.lines_with("FAIL")


def test_one_granules_tag_changed_from_outside_guest_notices(boot: Boot, page: int) -> None:
    guest = boot("churn", "working-set=256K")
    guest.machine.resume()
    guest.wait_for("progress", 1)
    guest.machine.pause()
    machine = guest.machine
    for region, pages in zip(machine.memory.regions, machine.populated_pages(), strict=True):
        for first, count in pages.runs().tolist():
            gpa, length = Gpa(region.gpa + first * page), count * page
            tags = machine.read_tags(gpa, length)
            machine.write_tags(gpa, np.where(tags, tags ^ 0x33, tags).astype(np.uint8))

    machine.resume()
    machine.wait(120)

    assert guest.lines_with("FAIL")


def test_dirty_log_under_churn_copy_by_harvests_equals_memory(boot: Boot, page: int) -> None:
    guest = boot("churn", CHURN, vcpu_count=2)
    machine = guest.machine
    region = machine.memory.regions[0]
    machine.start_dirty_log()
    data, tags = np.zeros_like(region.data), np.zeros(len(region.data) // 32, np.uint8)
    for first, count in machine.populated_pages()[0].runs().tolist():
        place, length = first * page, count * page
        data[place:][:length] = region.data[place:][:length]

    def take() -> int:
        dirty = machine.harvest_dirty_log()[0]
        for first, count in dirty.runs().tolist():
            place, length = first * page, count * page
            data[place:][:length] = region.data[place:][:length]
            gpa = Gpa(region.gpa + place)
            tags[place // 32 :][: length // 32] = machine.read_tags(gpa, length)
        return dirty.count()

    machine.resume()
    harvested = 0
    for count in range(1, 10):
        guest.wait_for("progress", count)
        harvested += take()
    machine.pause()
    take()

    assert harvested > 0
    assert np.array_equal(data, region.data)
    assert np.array_equal(tags, machine.read_tags(region.gpa, region.size_bytes))


def test_populated_pages_small_guest_in_large_ram_most_stay_holes(boot: Boot, page: int) -> None:
    guest = boot("churn", "working-set=1M", ram_bytes=4 << 30)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    guest.machine.pause()

    populated = guest.machine.populated_pages()[0]

    assert 0 < populated.count() * page < 8 << 20


def test_save_state_twice_gives_the_same(boot: Boot) -> None:
    guest = boot("churn", CHURN, vcpu_count=2)
    guest.machine.resume()
    guest.wait_for("progress", 1)
    guest.machine.pause()

    first, second = guest.machine.save_state(), guest.machine.save_state()

    assert isinstance(first, MachineState)
    assert first == second


def test_peek_state_while_running_another_machine_could_take_it(boot: Boot) -> None:
    guest, other = (boot("churn", CHURN, vcpu_count=2) for _ in range(2))
    before = other.machine.save_state()
    guest.machine.resume()
    guest.wait_for("progress", 1)

    other.machine.check_state(guest.machine.peek_state())
    guest.wait_for("progress", 2)

    assert guest.machine.run_state is RunState.RUNNING
    assert other.machine.save_state() == before
    assert not guest.lines_with("FAIL")


def test_threads_of_vcpus_are_of_this_process_once_the_machine_ran(boot: Boot) -> None:
    guest = boot("retag", vcpu_count=2)
    machine = guest.machine
    before = machine.vcpu_threads()

    machine.resume()
    guest.wait_for("retag: buffer=", 1)

    assert before == (None, None)
    tasks = {int(path.name) for path in Path("/proc/self/task").iterdir()}
    assert {thread for thread in machine.vcpu_threads() if thread is not None} <= tasks
    assert None not in machine.vcpu_threads()


def copy_all(source: Machine, target: Machine, *, with_tags: bool = True) -> None:
    """Copy memory, tags and state; the target has the same description."""
    page = source.description.page_size_bytes
    for region, pages in zip(source.memory.regions, source.populated_pages(), strict=True):
        target.memory.write(region.gpa, region.data)
        for first, count in pages.runs().tolist():
            gpa, length = Gpa(region.gpa + first * page), count * page
            if with_tags:
                target.write_tags(gpa, source.read_tags(gpa, length))
    target.load_state(source.save_state())
