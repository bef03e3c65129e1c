"""Tags that stay where they are: both VMMs have the guest's memory, and no tag is sent."""

import asyncio
import errno
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tagalong.beside.incoming import AwaitedTags, TagsIncoming
from tagalong.beside.link_format import LinkOperation, MemorySlot, SlotFlag
from tagalong.beside.monitor import VmmMigration, VmmMonitor
from tagalong.beside.outgoing import TagsOutgoing, VmmAccess
from tagalong.beside.staying import StayingGuest
from tagalong.beside.vmm_settings import SettingsFile
from tagalong.errors import DigestMismatchError, MigrationError
from tagalong.migrate import MigrationOptions, MigrationReport, SocketListener, migrate_to
from tagalong.qapi.migration import MigrationRequest, MigrationStatus
from tagalong.qapi.reports import MigrationResult
from tests.support.fake_tag_server import GPA, PAGE, FakeLibrary
from tests.support.scripted_monitor import ScriptedMonitor
from tests.unit.beside.test_guest import Destination, ScriptedDeparture, ScriptedSteering

WAIT_S = 60.0


class Quiet(ScriptedDeparture):
    """A VMM whose guest has stopped already, as that of an update in place."""

    def begin(self) -> None:
        self.is_final = True


class Steady(ScriptedSteering):
    """Begins the switch-over at once: nothing changes any more."""

    def begin_switchover(self) -> bool:
        self._departure.at_stop()
        return True


@pytest.fixture
def libraries(tmp_path: Path) -> Iterator[tuple[FakeLibrary, FakeLibrary]]:
    """Two VMMs with the same memory, the second of which must never be written to."""
    source = FakeLibrary(tmp_path / "source.kvm")
    destination = FakeLibrary(tmp_path / "destination.kvm", held=True)
    source.tags[:] = np.random.default_rng(1).integers(0, 256, source.tags.shape, np.uint8)
    destination.tags = source.tags
    source.slots = [MemorySlot(3, SlotFlag.SHARED, GPA, source.pages * PAGE)]
    destination.slots = list(source.slots)
    destination.refusals = {LinkOperation.WRITE_TAGS: errno.EPERM}
    yield source, destination
    source.close()
    destination.close()


def compare(source: FakeLibrary, uri: str, departure: ScriptedDeparture) -> MigrationReport:
    with closing(StayingGuest(source.link(), departure)) as guest:
        return migrate_to(uri, guest, MigrationOptions(), steering=Steady(departure, guest))


def test_tags_in_place_are_compared_and_none_is_sent(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    report = compare(source, awaited.uri, Quiet(source))
    awaited.thread.join()

    assert awaited.error is None
    assert awaited.arrival is not None
    assert report.tags_in_place
    assert report.verified
    assert report.source_digest == awaited.arrival.digest
    assert report.tag_bytes_raw == report.tag_bytes_wire == awaited.arrival.pages == 0
    assert not destination.held


def test_tags_in_place_of_an_earlier_attempt_are_left_alone(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = Quiet(source)
    departure.at_stop = lambda: setattr(source, "running", 1)
    first = Destination(destination, f"unix:{tmp_path}/in")
    with pytest.raises(MigrationError, match="1 vCPUs are in the guest"):
        compare(source, first.uri, departure)
    first.thread.join()
    source.running = 0

    second = Destination(destination, f"unix:{tmp_path}/again")
    second.touched.update(first.touched)
    compare(source, second.uri, Quiet(source))
    second.thread.join()

    assert second.error is None
    assert not destination.held


def test_other_tags_than_the_sources_hand_nothing_over(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    destination.tags = source.tags.copy()
    destination.tags[77, 5] ^= 0x10
    awaited = Destination(destination, f"unix:{tmp_path}/in")

    with pytest.raises(DigestMismatchError):
        compare(source, awaited.uri, Quiet(source))
    awaited.thread.join()

    assert destination.held
    assert awaited.touched[GPA].count() == destination.pages


def test_guest_that_ran_after_the_comparison_is_not_handed_over(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    departure = Quiet(source)
    awaited = Destination(destination, f"unix:{tmp_path}/in")
    guest = StayingGuest(source.link(), departure)
    populated = guest.populated_pages

    def look_and_run() -> list[object]:
        pages = populated()
        source.runs += guest.description.tags_in_place and pages[0].count() > 0  # for the digest
        return pages  # type: ignore[return-value]

    guest.populated_pages = look_and_run  # type: ignore[method-assign, assignment]
    with pytest.raises(MigrationError, match="the guest ran on after its last tags were read"):
        migrate_to(awaited.uri, guest, steering=Steady(departure, guest))
    guest.close()
    awaited.thread.join()

    assert destination.held


# --- which way the tags of a migration that another client drives go ---


async def moved(
    libraries: tuple[FakeLibrary, FakeLibrary], folder: Path, mode: str
) -> TagsOutgoing:
    """Send the tags beside a migration of this mode, and wait for its end."""
    source, destination = libraries
    monitor = ScriptedMonitor(folder / "settings")
    monitor.mode, monitor.state = mode, "postmigrate"
    monitor.status = VmmMigration("completed")
    access = VmmAccess(cast("VmmMonitor", monitor), source.path, SettingsFile(folder / "settings"))
    incoming = TagsIncoming(
        AwaitedTags(f"unix:{folder}/in"), destination.path, lambda _: None, lambda _: None
    )
    incoming.start()
    outgoing = TagsOutgoing(access, lambda _: None)
    outgoing.start(MigrationRequest(incoming.uri))
    async with asyncio.timeout(WAIT_S):
        while outgoing.is_under_way:
            await asyncio.sleep(0.01)
    await incoming.close(WAIT_S)
    return outgoing


def report_of(outgoing: TagsOutgoing) -> MigrationReport:
    record = outgoing.record
    assert record is not None
    assert record.status is MigrationStatus.COMPLETED, record.error
    assert isinstance(record.report, MigrationResult)
    return record.report.report


def test_update_in_place_sends_no_tags(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    report = report_of(asyncio.run(moved(libraries, tmp_path, "cpr-transfer")))

    assert report.tags_in_place
    assert not libraries[1].held


@pytest.mark.parametrize(
    ("mode", "flags"), [("normal", SlotFlag.SHARED), ("cpr-transfer", SlotFlag(0))]
)
def test_tags_of_memory_that_does_not_stay_are_sent(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, mode: str, flags: SlotFlag
) -> None:
    source, destination = libraries
    source.slots = [MemorySlot(3, flags, GPA, source.pages * PAGE)]
    destination.tags, destination.refusals = np.zeros_like(source.tags), {}

    report = report_of(asyncio.run(moved(libraries, tmp_path, mode)))

    assert not report.tags_in_place
    assert np.array_equal(source.tags, destination.tags)


def test_source_that_comes_while_the_destination_still_closes_its_listener_comes_again(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = libraries
    destination.tags, destination.refusals = np.full_like(source.tags, 0x77), {}
    close = SocketListener.close

    def close_late(listener: SocketListener) -> None:
        time.sleep(0.2)
        close(listener)

    monkeypatch.setattr(SocketListener, "close", close_late)

    report = report_of(asyncio.run(moved(libraries, tmp_path, "cpr-transfer")))

    assert not report.tags_in_place
    assert np.array_equal(source.tags, destination.tags)


def test_tags_that_are_not_in_place_after_all_are_sent(
    libraries: tuple[FakeLibrary, FakeLibrary], tmp_path: Path
) -> None:
    source, destination = libraries
    source.tags[:20] = 0
    destination.tags, destination.refusals = np.full_like(source.tags, 0x77), {}

    report = report_of(asyncio.run(moved(libraries, tmp_path, "cpr-transfer")))

    assert not report.tags_in_place
    assert np.array_equal(source.tags, destination.tags)
    assert not destination.held
