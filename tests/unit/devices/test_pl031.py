"""The real-time clock: its registers, its alarm, its state, and what it counts by."""

import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.boot.linux import LINUX_RTC
from tagalong.devices import HostTime, IrqLine, Pl031
from tagalong.devices.pl031 import FIRST_TIME_S, STATE_LAYOUT
from tagalong.devices.time_source import NS_PER_S
from tagalong.errors import StateError, UsageError
from tagalong.machine import DeviceDescription
from tagalong.memory import Gpa, GuestMemory, Region
from tests.support.format_document import FormatDocument

DR, MR, LR, CR, IMSC, RIS, MIS, ICR = range(0, 0x20, 4)
UTC_S = 1_800_000_000
WAIT_S = 60.0


class ScriptedTime:
    """A source whose time passes when it is told to; implements TimeSource and Alarm."""

    def __init__(self, now_s: float = UTC_S, *, is_utc: bool = True) -> None:
        self.is_utc = is_utc
        self._now_ns = int(now_s * NS_PER_S)
        self.at_ns: int | None = None
        self._ring: Callable[[], None] | None = None

    def now_ns(self) -> int:
        return self._now_ns

    def alarm(self, ring: Callable[[], None]) -> "ScriptedTime":
        self._ring = ring
        return self

    def set(self, at_ns: int | None) -> None:
        self.at_ns = at_ns

    def close(self) -> None:
        self.at_ns = None

    def leap(self, seconds: float) -> None:
        """Let the time pass, or be set, and ring nobody."""
        self._now_ns += int(seconds * NS_PER_S)

    def go_on(self, seconds: float) -> None:
        """Let the time pass, and ring at the moment that is set."""
        end_ns = self._now_ns + int(seconds * NS_PER_S)
        while self.at_ns is not None and self.at_ns <= end_ns:
            self._now_ns, self.at_ns = self.at_ns, None
            assert self._ring is not None
            self._ring()
        self._now_ns = end_ns


class Scene:
    """A clock that goes, and its interrupt line."""

    def __init__(self, source: ScriptedTime | None = None, *, goes: bool = True) -> None:
        self.memory = GuestMemory([Region.create(Gpa(0x4000_0000), 4096)])
        self.line = IrqLine(34, lambda *_: None)
        self.time = source or ScriptedTime()
        self.rtc = Pl031(LINUX_RTC, self.time)
        self.rtc.attach(self.memory, self.line)
        if goes:
            self.resume()

    def resume(self) -> None:
        self.rtc.resume(lambda error: pytest.fail(str(error)))

    def read(self, offset: int) -> int:
        return self.rtc.read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.rtc.write(0, offset, 4, value)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def moved(scene: Scene, target: ScriptedTime) -> Scene:
    """Pause a clock and let another one, which counts by `target`, go on with its state."""
    scene.rtc.pause()
    other = Scene(target, goes=False)
    other.rtc.load(scene.rtc.save())
    other.resume()
    return other


def test_identification_says_pl031(scene: Scene) -> None:
    assert [scene.read(0xFE0 + 4 * i) for i in range(8)] == [
        0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1,
    ]  # fmt: skip


def test_new_clock_shows_utc_and_counts_seconds(scene: Scene) -> None:
    first = scene.read(DR)
    scene.time.leap(2.5)

    assert (first, scene.read(DR)) == (UTC_S, UTC_S + 2)


def test_new_clock_of_a_guests_own_time_shows_a_date_that_is_always_the_same() -> None:
    scene = Scene(ScriptedTime(7.5, is_utc=False))

    first = scene.read(DR)
    scene.time.leap(0.5)

    assert (first, scene.read(DR)) == (FIRST_TIME_S, FIRST_TIME_S + 1)


def test_clock_that_is_set_goes_on_from_there(scene: Scene) -> None:
    scene.write(LR, 1000)
    first = scene.read(DR)
    scene.time.leap(3)

    assert (first, scene.read(DR), scene.read(LR)) == (1000, 1003, 1000)


def test_count_wraps_behind_32_bits(scene: Scene) -> None:
    scene.write(LR, 0xFFFF_FFFF)
    scene.time.leap(2)

    assert scene.read(DR) == 1


def test_clock_cannot_be_stopped_and_what_is_read_only_stays(scene: Scene) -> None:
    for offset in (DR, CR, RIS, MIS, 0xFE0, 0x20):
        scene.write(offset, 0xDEAD_BEEF)

    found = [scene.read(offset) for offset in (DR, CR, RIS, MIS, 0xFE0, 0x20)]

    assert found == [UTC_S, 1, 0, 0, 0x31, 0]


def test_alarm_comes_by_itself_and_is_cleared(scene: Scene) -> None:
    scene.write(IMSC, 1)
    scene.write(MR, UTC_S + 2)
    scene.time.go_on(1.5)
    early = scene.line.level
    scene.time.go_on(0.5)
    due = scene.line.level, scene.read(RIS), scene.read(MIS)

    scene.write(ICR, 1)
    scene.time.go_on(100)

    assert (early, due) == (False, (True, 1, 1))
    assert (scene.line.level, scene.read(RIS)) == (False, 0)


def test_alarm_that_is_masked_is_raised_but_not_told(scene: Scene) -> None:
    scene.write(MR, UTC_S + 1)
    scene.time.leap(5)
    raised = scene.read(RIS), scene.read(MIS), scene.line.level

    scene.write(IMSC, 1)

    assert (raised, scene.line.level, scene.time.at_ns) == ((1, 0, False), True, None)


@pytest.mark.parametrize(("offset", "value"), [(MR, UTC_S), (LR, 0)])
def test_alarm_of_this_very_second_comes_at_once(scene: Scene, offset: int, value: int) -> None:
    scene.write(IMSC, 1)

    scene.write(offset, value)

    assert scene.line.level


def test_host_clock_that_is_set_back_raises_no_alarm(scene: Scene) -> None:
    scene.write(IMSC, 1)
    scene.write(MR, UTC_S + 10)

    scene.time.leap(-3600)
    back = scene.read(DR), scene.read(RIS)
    scene.time.go_on(3610)

    assert (back, scene.read(RIS)) == ((UTC_S - 3600, 0), 1)


def test_reset_forgets_the_alarm_and_keeps_the_time(scene: Scene) -> None:
    scene.write(LR, 1000)
    scene.write(IMSC, 1)
    scene.write(MR, 1000)

    scene.rtc.reset()
    scene.time.leap(1)

    assert [scene.read(each) for each in (DR, MR, LR, IMSC, RIS)] == [1001, 0, 0, 0, 0]
    assert not scene.line.level


def test_pause_keeps_the_alarm_away_until_the_machine_runs(scene: Scene) -> None:
    scene.write(IMSC, 1)
    scene.write(MR, UTC_S + 1)
    scene.rtc.pause()
    first = scene.rtc.save()
    scene.time.go_on(10)
    paused = scene.line.level, scene.rtc.save() == first

    scene.resume()

    assert (paused, scene.line.level, scene.read(DR)) == ((False, True), True, UTC_S + 10)


def test_clock_that_moves_between_hosts_has_not_stood_still(scene: Scene) -> None:
    scene.write(LR, 500)
    scene.write(IMSC, 1)
    scene.write(MR, 520)

    there = moved(scene, ScriptedTime(UTC_S + 60))

    assert (there.read(DR), there.read(RIS), there.line.level) == (560, 1, True)


def test_clock_that_moves_before_its_alarm_has_it_there(scene: Scene) -> None:
    scene.write(IMSC, 1)
    scene.write(MR, UTC_S + 100)

    there = moved(scene, ScriptedTime(UTC_S + 60))
    early = there.line.level
    there.time.go_on(40)

    assert (early, there.line.level) == (False, True)


@pytest.mark.parametrize(("is_utc", "goes_to_utc"), [(True, False), (False, True), (False, False)])
def test_clock_that_changes_what_it_counts_goes_on_from_what_it_showed(
    is_utc: bool, goes_to_utc: bool
) -> None:
    scene = Scene(ScriptedTime(50, is_utc=is_utc))
    scene.write(LR, 4000)

    there = moved(scene, ScriptedTime(9000, is_utc=goes_to_utc))
    first = there.read(DR)
    there.time.leap(1)

    assert (first, there.read(DR)) == (4000, 4001)


def test_paused_clock_that_is_set_is_set_when_it_goes() -> None:
    scene = Scene(goes=False)
    scene.write(LR, FIRST_TIME_S + 10)

    scene.resume()

    assert scene.read(DR) == UTC_S + 10


@given(
    st.tuples(st.just(1), st.integers(0, 0xFFFF_FFFF)) | st.just((0, 0)),
    st.lists(st.integers(0, 0xFFFF_FFFF), min_size=3, max_size=3),
    st.lists(st.integers(0, 1), min_size=2, max_size=2),
)
def test_state_is_saved_as_it_was_loaded(
    utc: tuple[int, int], values: list[int], flags: list[int]
) -> None:
    state = struct.pack("<8I", 1, *utc, *values, *flags)
    rtc = Pl031(LINUX_RTC, ScriptedTime())

    rtc.load(state)

    assert rtc.save() == state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"", "rtc state has 0 bytes, expected 32"),
        (struct.pack("<7I", 1, *[0] * 6), "rtc state has 28 bytes, expected 32"),
        (struct.pack("<8I", 2, *[0] * 7), "rtc state has version 2, expected 1"),
        (struct.pack("<8I", 1, 2, *[0] * 6), "rtc state has is_utc 0x2, expected 0 or 1"),
        (struct.pack("<8I", 1, *[0] * 6, 9), "rtc state has ris 0x9, expected 0 or 1"),
        (struct.pack("<8I", 1, 0, 5, *[0] * 5), "rtc state has utc_offset 0x5, but is_utc is 0"),
    ],
)
def test_state_that_cannot_be_is_refused(state: bytes, message: str) -> None:
    rtc = Pl031(LINUX_RTC, ScriptedTime())
    before = rtc.save()

    with pytest.raises(StateError) as caught:
        rtc.load(state)

    assert (str(caught.value), rtc.save()) == (message, before)


def test_description_that_no_pl031_has_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Pl031(DeviceDescription("rtc", "pl031", 0x0901_0000, 0x200), ScriptedTime())

    assert str(caught.value) == (
        "device 'rtc' has a window of 0x200 bytes and 0 bytes of configuration: a PL031 has "
        "0x1000 bytes and no configuration here"
    )


def test_document_has_the_layout() -> None:
    FormatDocument("pl031.md").require_byte_table("State", STATE_LAYOUT)


def test_alarm_of_the_host_rings_when_its_time_has_come_and_not_when_unset() -> None:
    rung: list[int] = []
    came = threading.Event()
    source = HostTime()

    def ring() -> None:
        rung.append(source.now_ns())
        came.set()

    alarm = source.alarm(ring)
    try:
        alarm.set(source.now_ns() + 3600 * NS_PER_S)
        alarm.set(None)
        at_ns = source.now_ns() + NS_PER_S // 20
        alarm.set(at_ns)
        assert came.wait(WAIT_S)
    finally:
        alarm.close()
        alarm.close()

    assert len(rung) == 1
    assert rung[0] >= at_ns


def test_alarm_of_the_host_that_is_closed_rings_no_more() -> None:
    rung: list[float] = []
    alarm = HostTime().alarm(lambda: rung.append(time.monotonic()))

    alarm.set(HostTime().now_ns() + 3600 * NS_PER_S)
    alarm.close()
    alarm.set(0)

    assert rung == []


def test_bug_in_the_thread_of_an_alarm_is_reported() -> None:
    failures: list[Exception] = []
    scene = Scene()

    def break_down(intid: int, level: bool) -> None:
        del intid
        if level:
            raise OSError("no such line")

    scene.rtc.attach(scene.memory, IrqLine(34, break_down))
    scene.rtc.resume(failures.append)
    scene.write(IMSC, 1)
    scene.write(MR, UTC_S + 1)

    scene.time.go_on(1)

    assert [str(each) for each in failures] == ["no such line"]
