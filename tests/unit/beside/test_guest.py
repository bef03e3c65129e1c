"""A guest's tags go from one library to another over the real stream, without any VMM."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tagalong.beside.arriving import ArrivingGuest
from tagalong.beside.guest import DepartingGuest
from tagalong.beside.link_format import LinkOperation, MemorySlot, SlotFlag, VmFlag
from tagalong.beside.moments import Moments
from tagalong.errors import (
    ConvergenceError,
    HandoverUncertainError,
    HostError,
    MachineMismatchError,
    MigrationError,
)
from tagalong.machine import Machine, MachineDescription, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate import (
    Arrival,
    EndOrder,
    MigrationOptions,
    Steering,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.migrate.switchover import SwitchOver
from tests.support.fake_tag_server import GPA, PAGE, FakeLibrary


class ScriptedDeparture:
    """A VMM that logs at `begin`, and stops its guest when the carrier asks for the second time."""

    def __init__(self, library: FakeLibrary) -> None:
        self.library = library
        self.moments = Moments()
        self.stopped_at: float | None = None
        self.is_final = False
        self.is_near_end = False
        self.asked = 0
        self.thawed = 0
        self.due_bytes: list[int] = []
        self.is_late = False
        self.at_stop: Callable[[], object] = lambda: None

    @property
    def run_state(self) -> RunState:
        return RunState.PAUSED if self.is_final else RunState.RUNNING

    def begin(self) -> None:
        self.library.log_on()
        self.library.clear(0, 128)

    def check(self) -> None:
        pass

    def check_time(self) -> None:
        if self.is_final and self.is_late:
            raise ConvergenceError("longer than the guest may be stopped")

    def note_due(self, ram_bytes: int) -> None:
        self.due_bytes.append(ram_bytes)

    def freeze(self) -> bool:
        return True

    def thaw(self) -> None:
        self.thawed += 1


class ScriptedSteering(Steering):
    """Lets the scripted VMM stop the guest between two rounds."""

    def __init__(self, departure: ScriptedDeparture, guest: DepartingGuest) -> None:
        super().__init__(freezer=departure)
        self._departure = departure
        self._guest = guest

    def confirm_last(self) -> None:
        self._guest.require_final()

    def begin_switchover(self) -> bool:
        departure = self._departure
        departure.asked += 1
        if departure.asked == 1:
            departure.library.guest_writes(5, 9)  # a page that was sent
            departure.library.clear(0, 10)
            departure.library.guest_writes(6, 3)
            return False
        departure.at_stop()
        departure.is_final = True
        return super().begin_switchover()


@pytest.fixture
def libraries(tmp_path: Path) -> Iterator[tuple[FakeLibrary, FakeLibrary]]:
    source = FakeLibrary(tmp_path / "source.kvm")
    destination = FakeLibrary(tmp_path / "destination.kvm", held=True)
    source.tags[:] = np.random.default_rng(1).integers(0, 256, source.tags.shape, np.uint8)
    source.tags[50:60] = 0
    yield source, destination
    source.close()
    destination.close()


def send(
    source: FakeLibrary,
    uri: str,
    departure: ScriptedDeparture,
    options: MigrationOptions,
    *,
    ahead: bool = False,
    guest_id: bytes = b"",
) -> None:
    with closing(DepartingGuest(source.link(), departure, guest_id=guest_id)) as guest:
        steering = ScriptedSteering(departure, guest)
        steering.commits_ahead = ahead
        migrate_to(uri, guest, options, steering=steering)


class Destination:
    """Receives tags into a library, in a thread."""

    def __init__(self, library: FakeLibrary, uri: str, *, guest_id: bytes = b"") -> None:
        self.arrival: Arrival | None = None
        self._guest_id = guest_id
        self.error: Exception | None = None
        self.touched = dict[int, PageBitmap]()
        self._link = library.link()
        self._listener = listen(parse_address(uri))
        self.uri = str(self._listener.address)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _build(self, description: MachineDescription) -> Machine:
        guest = ArrivingGuest(
            self._link,
            self.touched,
            tags_in_place=description.tags_in_place,
            guest_id=self._guest_id,
        )
        guest.require_like(description)
        return guest

    def _take_over(self, _machine: Machine, _ran: bool) -> None:
        self._link.hold(False)

    def _run(self) -> None:
        try:
            with self._listener:
                self.arrival = receive_from(
                    self._listener,
                    self._build,
                    take_over=self._take_over,
                    tags_only=True,
                )
            self.arrival.machine.close()
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.error = error


@pytest.mark.parametrize("channels", [1, 3])
def test_tags_of_a_guest_that_changes_them_arrive_whole(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, channels: int
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    send(source, awaited.uri, departure, MigrationOptions(channels=channels, verify=True))
    awaited.thread.join()

    assert awaited.error is None
    assert awaited.arrival is not None
    assert np.array_equal(source.tags, destination.tags)
    assert source.tags[5, 0] == 0x99
    assert not destination.held
    assert awaited.arrival.digest is not None


def test_tags_of_another_guest_are_refused_by_name(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    """Two guests of one shape whose tags were given each other's addresses."""
    source, destination = libraries
    awaited = Destination(destination, f"unix:{tmp_path}/in", guest_id=b"guest  2")

    with pytest.raises(MachineMismatchError, match="the source's VMM has another UUID"):
        send(
            source, awaited.uri, ScriptedDeparture(source), MigrationOptions(), guest_id=b"guest  1"
        )
    awaited.thread.join()

    assert isinstance(awaited.error, MachineMismatchError)
    assert destination.held
    assert not awaited.touched


@pytest.mark.parametrize(
    ("there", "here"), [(b"guest  1", b"guest  1"), (b"", b"guest  1"), (b"guest  1", b"")]
)
def test_tags_of_a_guest_arrive_if_it_is_the_same_or_one_end_has_no_name_for_it(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, there: bytes, here: bytes
) -> None:
    """A VMM may have no UUID, and a peer of an earlier release does not tell."""
    source, destination = libraries
    awaited = Destination(destination, f"unix:{tmp_path}/in", guest_id=here)

    send(
        source, awaited.uri, ScriptedDeparture(source), MigrationOptions(channels=3), guest_id=there
    )
    awaited.thread.join()

    assert awaited.arrival is not None
    assert bytes.fromhex(awaited.arrival.migration_id).endswith(there)
    assert np.array_equal(source.tags, destination.tags)


@pytest.mark.parametrize("channels", [1, 3])
def test_pages_whose_tags_were_sent_as_they_are_are_not_sent_again(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, channels: int
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    def store_data_everywhere_and_a_tag_to_page_7() -> None:
        source.guest_writes(7, 4)
        source.dirty[:] = True

    departure.at_stop = store_data_everywhere_and_a_tag_to_page_7

    send(source, awaited.uri, departure, MigrationOptions(channels=channels, verify=True))
    awaited.thread.join()

    assert np.array_equal(source.tags, destination.tags)
    assert awaited.arrival is not None
    # All 200 pages once; those with other tags, 5 in the second round, 6 and 7 in the last.
    assert awaited.arrival.pages == 203


def test_tags_that_change_back_before_they_are_sent_are_not_sent_again(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")
    source.tags[7] = 0x44

    def change_a_tag_and_change_it_back() -> None:
        source.guest_writes(7, 9)
        source.guest_writes(7, 4)

    departure.at_stop = change_a_tag_and_change_it_back

    send(source, awaited.uri, departure, MigrationOptions(verify=True))
    awaited.thread.join()

    assert np.array_equal(source.tags, destination.tags)
    assert awaited.arrival is not None
    assert awaited.arrival.pages == 202


@pytest.mark.parametrize("channels", [1, 3])
def test_tags_that_are_committed_ahead_arrive_whole(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, channels: int
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    departure.is_near_end = True
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    send(source, awaited.uri, departure, MigrationOptions(channels=channels), ahead=True)
    awaited.thread.join()

    assert awaited.error is None
    assert np.array_equal(source.tags, destination.tags)
    assert not destination.held
    assert source.stolen[6]  # a protecting harvest took it: the VMM has yet to hear of it


def test_tags_that_are_committed_ahead_into_a_file_come_back_whole(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    saved = f"file:{tmp_path}/saved.tags"

    send(source, saved, ScriptedDeparture(source), MigrationOptions(), ahead=True)
    restored = Destination(destination, saved)
    restored.thread.join()

    assert restored.error is None
    assert np.array_equal(source.tags, destination.tags)
    assert not destination.held


def test_destination_that_cannot_write_the_last_tags_holds_its_guest_despite_the_commit(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)

    def refuse() -> None:
        source.guest_writes(7, 3)
        destination.refusals[LinkOperation.WRITE_TAGS] = 16

    departure.at_stop = refuse
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(MigrationError, match="dirty-logged"):
        send(source, awaited.uri, departure, MigrationOptions(), ahead=True)
    awaited.thread.join()

    assert destination.held
    assert departure.thawed


def test_last_tags_that_are_late_after_the_commit_are_given_up(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")
    commit = SwitchOver._commit

    def commit_late(phase: SwitchOver) -> None:
        commit(phase)
        departure.is_late = True

    monkeypatch.setattr(SwitchOver, "_commit", commit_late)
    monkeypatch.setattr(ScriptedSteering, "check", lambda _: departure.check_time(), raising=False)
    with pytest.raises(HandoverUncertainError, match="longer than the guest may be stopped"):
        send(source, awaited.uri, departure, MigrationOptions(), ahead=True)
    awaited.thread.join()


def test_tags_whose_guest_ran_again_are_not_handed_over(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")
    guest = DepartingGuest(source.link(), departure)
    read = guest.read_page_tags

    def read_and_run(region: int, pages: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        rows = read(region, pages, out)
        source.runs += departure.is_final  # after the final harvest
        return rows

    guest.read_page_tags = read_and_run  # type: ignore[method-assign]
    with pytest.raises(MigrationError, match="the guest ran on after its last tags were read"):
        migrate_to(awaited.uri, guest, steering=ScriptedSteering(departure, guest))
    guest.close()
    awaited.thread.join()

    assert destination.held
    assert departure.thawed


def test_tags_while_a_vcpu_runs_are_not_the_last(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    departure.at_stop = lambda: setattr(source, "running", 1)
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(MigrationError, match="a vCPU is in the guest although"):
        send(source, awaited.uri, departure, MigrationOptions())
    awaited.thread.join()

    assert destination.held


def test_last_tags_that_are_late_are_given_up_in_the_middle_of_a_pass(
    tmp_path: Path,
) -> None:
    source = FakeLibrary(tmp_path / "source.kvm", pages=20_000)  # more than one reply has tags of
    destination = FakeLibrary(tmp_path / "destination.kvm", pages=20_000, held=True)
    departure = ScriptedDeparture(source)
    departure.is_late = True
    departure.at_stop = lambda: source.dirty.fill(True)
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(ConvergenceError, match="longer than the guest may be stopped"):
        send(source, awaited.uri, departure, MigrationOptions())
    awaited.thread.join()
    source.close()
    destination.close()

    assert destination.held
    assert departure.thawed


def test_memory_that_is_plugged_meanwhile_ends_the_migration(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = ScriptedDeparture(source)
    departure.at_stop = lambda: source.slots.append(
        MemorySlot(4, SlotFlag(0), GPA + (1 << 30), PAGE)
    )
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(MigrationError, match="memory slots have changed"):
        send(source, awaited.uri, departure, MigrationOptions())
    awaited.thread.join()

    assert destination.held


def test_second_attempt_leaves_nothing_of_the_first(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    first = Destination(destination, f"unix:{tmp_path}/in")
    departure = ScriptedDeparture(source)
    departure.at_stop = lambda: setattr(source, "running", 1)
    with pytest.raises(MigrationError):
        send(source, first.uri, departure, MigrationOptions())
    first.thread.join()
    source.tags[:64], source.running = 0, 0  # pages of which the first attempt wrote tags

    second = Destination(destination, f"unix:{tmp_path}/again")
    second.touched.update(first.touched)
    send(source, second.uri, ScriptedDeparture(source), MigrationOptions())
    second.thread.join()

    assert second.error is None
    assert np.array_equal(source.tags, destination.tags)


def test_destination_with_other_memory_is_refused_by_name(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    destination.slots = [MemorySlot(0, SlotFlag(0), GPA, 100 * PAGE)]
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(MachineMismatchError, match=r"memory \[0x40000000, 0x400c8000\), which is"):
        send(source, awaited.uri, ScriptedDeparture(source), MigrationOptions())
    awaited.thread.join()

    assert isinstance(awaited.error, MachineMismatchError)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (VmFlag(0), "made no VM with memory yet"),
        (VmFlag.HAS_VM, "does not give its VMs tags"),
        (VmFlag.HAS_VM | VmFlag.HAS_MTE | VmFlag.VMM_ASKED_FOR_MTE, "without mte=on"),
        (VmFlag.HAS_VM | VmFlag.HAS_MTE | VmFlag.DIRTY_RING, "without dirty-ring-size"),
        (VmFlag.HAS_VM | VmFlag.HAS_MTE | VmFlag.TOO_MANY_SLOTS, "more than 512 memory slots"),
    ],
)
def test_vm_whose_tags_cannot_be_carried_is_refused_by_name(
    libraries: tuple[FakeLibrary, FakeLibrary], flags: VmFlag, words: str
) -> None:
    libraries[0].flags = flags

    with pytest.raises(HostError, match=words):
        ArrivingGuest(libraries[0].link(), {})


def test_kvm_that_refuses_tags_ends_the_migration_with_its_reason(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    destination.refusals = {LinkOperation.WRITE_TAGS: 16}  # EBUSY
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(MigrationError, match="dirty-logged"):
        send(source, awaited.uri, ScriptedDeparture(source), MigrationOptions())
    awaited.thread.join()

    assert destination.held


def test_whole_vm_and_tags_are_refused_by_each_other(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, _ = libraries
    errors: list[Exception] = []
    listener, end = listen(parse_address(f"unix:{tmp_path}/in")), EndOrder()

    def receive_whole() -> None:
        try:
            receive_from(listener, lambda _: pytest.fail("built"), cancel=end)
        except MigrationError as error:
            errors.append(error)

    waiting = threading.Thread(target=receive_whole)
    waiting.start()
    with pytest.raises(MigrationError, match="this end takes whole VMs"):
        send(source, str(listener.address), ScriptedDeparture(source), MigrationOptions())
    still_waits = waiting.is_alive()
    end.set()
    waiting.join()
    listener.close()

    assert still_waits
    assert "cancelled" in str(errors[0])


def test_guest_from_a_host_with_other_pages_is_refused_by_name(
    libraries: tuple[FakeLibrary, FakeLibrary],
) -> None:
    with closing(ArrivingGuest(libraries[1].link(), {})) as guest:
        described = replace(guest.description, page_size_bytes=0x4000)

        with pytest.raises(MachineMismatchError) as caught:
            guest.require_like(described)

    assert str(caught.value) == (
        "the source's host has pages of 0x4000 bytes, this one of 0x1000: tags move beside a VMM "
        "between hosts with pages of one size"
    )
