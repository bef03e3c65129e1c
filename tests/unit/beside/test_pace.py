"""A VMM copies at the pace of its guest's tags, and stops the guest when few are left."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tagalong.beside.pace import Pace
from tests.support.scripted_monitor import FULL, SLOWLY, ScriptedMonitor

if TYPE_CHECKING:
    from tagalong.beside.monitor import VmmMonitor

LIMIT_MS = 300
PAGE = 4096


@pytest.fixture
def monitor(tmp_path: Path) -> ScriptedMonitor:
    return ScriptedMonitor(tmp_path)


def new_pace(monitor: ScriptedMonitor, **parameters: int) -> Pace:
    """Return the pace of a VMM that has a limit of its own, and these parameters."""
    before = {"downtime-limit": 300, **{k.replace("_", "-"): v for k, v in parameters.items()}}
    return Pace(cast("VmmMonitor", monitor), before, LIMIT_MS)


def catching(monitor: ScriptedMonitor, **parameters: int) -> Pace:
    """Return the pace of a migration whose VMM's first pass is just over."""
    pace = new_pace(monitor, **(parameters or {"max_bandwidth": FULL}))
    pace.begin()
    pace.note_round()
    pace.note_syncs(2)
    return pace


def play(pace: Pace, *due_pages: int) -> None:
    """Rounds, after each of which a harvest takes so many pages."""
    for pages in due_pages:
        pace.note_due(pages * PAGE)
        pace.note_round()


def test_vmm_is_slow_until_its_tags_are_there_and_again_while_many_are_due(
    monitor: ScriptedMonitor,
) -> None:
    pace = new_pace(monitor, max_bandwidth=FULL)
    pace.begin()
    pace.note_round()
    pace.note_due(1 << 20)
    pace.note_due(1 << 30)
    pace.note_due(1 << 30)
    pace.note_round()

    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL, SLOWLY, FULL]
    assert not pace.is_near_end


def test_first_pass_is_not_over_by_the_look_at_its_start(monitor: ScriptedMonitor) -> None:
    pace = new_pace(monitor, max_bandwidth=FULL)
    pace.note_syncs(1)
    assert not pace.is_near_end

    pace.note_syncs(2)

    assert pace.is_near_end


def test_rounds_follow_each_other_until_they_have_caught_up(monitor: ScriptedMonitor) -> None:
    pace = catching(monitor)
    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL, SLOWLY]

    play(pace, 1000)
    assert pace.next_round_s == 0.0
    play(pace, 300)  # much less than before: one more
    assert pace.next_round_s == 0.0
    play(pace, 40)
    assert monitor.values_of("max-bandwidth")[-1] == FULL
    assert pace.next_round_s == 0.0
    play(pace, 60)  # one more, while the VMM sends its own rest

    assert pace.next_round_s > 0.0
    assert monitor.values_of("max-bandwidth") == [SLOWLY, FULL, SLOWLY, FULL]
    assert monitor.values_of("downtime-limit") == [1]


def test_first_harvest_of_all_changes_is_sent_however_small_it_is(
    monitor: ScriptedMonitor,
) -> None:
    pace = catching(monitor)

    play(pace, 1)
    assert monitor.values_of("max-bandwidth")[-1] == SLOWLY
    play(pace, 1)

    assert monitor.values_of("max-bandwidth")[-1] == FULL


def test_guest_that_changes_too_much_to_catch_up_with_is_stopped_all_the_same(
    monitor: ScriptedMonitor,
) -> None:
    pace = catching(monitor)

    play(pace, 3000, 1500, 1400, 1400)
    assert monitor.values_of("downtime-limit") == [1]
    play(pace, 1400)  # it was not stopped at the limit of a millisecond

    assert monitor.values_of("downtime-limit") == [1, LIMIT_MS]
    assert 0.0 < pace.next_round_s < 0.1
    play(pace, 1400)
    assert monitor.values_of("downtime-limit") == [1, LIMIT_MS]


def test_vmm_whose_speed_cannot_be_set_is_not_asked_for_it(monitor: ScriptedMonitor) -> None:
    pace = catching(monitor, x=1)

    play(pace, 1000, 40, 40, 40)

    assert monitor.values_of("max-bandwidth") == []
    assert monitor.values_of("downtime-limit") == [1, LIMIT_MS]


def test_vmm_without_a_limit_of_its_own_gets_that_back(monitor: ScriptedMonitor) -> None:
    catching(monitor, max_bandwidth=0)

    assert monitor.values_of("max-bandwidth") == [SLOWLY, 0, SLOWLY]


def test_vmm_stops_its_guest_with_little_left_and_not_before(monitor: ScriptedMonitor) -> None:
    pace = catching(monitor, max_bandwidth=FULL, avail_switchover_bandwidth=7)
    assert monitor.values_of("avail-switchover-bandwidth") == [1000]

    play(pace, 1000, 40, 40)

    assert monitor.values_of("avail-switchover-bandwidth") == [1000, (256 << 10) * 1000]
    assert monitor.values_of("max-bandwidth")[-1] == FULL
    play(pace, 1000)  # it was not stopped
    assert monitor.values_of("avail-switchover-bandwidth")[-1] == 7
    assert monitor.values_of("downtime-limit") == [1, LIMIT_MS]
