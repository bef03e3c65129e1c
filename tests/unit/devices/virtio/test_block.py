"""Disks: requests, errors, locks, and what a VM can take with it."""

import errno
import os
import struct
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tagalong.devices import DeviceBus
from tagalong.devices.virtio.abi import Status, VirtioFeature
from tagalong.devices.virtio.backing import DiskBacking, VirtioBackings
from tagalong.devices.virtio.block import BlockFeature, BlockFunction, DiskError, RequestType
from tagalong.devices.virtio.chain import Buffers
from tagalong.devices.virtio.image import Image
from tagalong.devices.virtio.work import ThreadedWork
from tagalong.errors import HostError, UsageError
from tests.support.bare import wait_until
from tests.support.virtio_driver import RAM, Buffer, VirtioDriver, new_memory
from tests.support.virtio_scene import VirtioScene, disk_scene, make_devices, no_failure

OK, IOERR, UNSUPP = 0, 1, 2
SECTOR = 512


def request(
    driver: VirtioDriver,
    kind: int,
    sector: int = 0,
    data: bytes = b"",
    room: int = 0,
    *,
    features: int = 1 << 32,
) -> tuple[int, bytes]:
    """Make one request in the disk's own words; return its status and what was read."""
    queue = driver.queues[0]
    source = driver.readable(struct.pack("<IIQ", kind, 0, sector), *([data] if data else []))
    target = driver.writable(*([room] if room else []), 1)
    head = (
        queue.describe_indirect(*source, *target)
        if features & VirtioFeature.INDIRECT_DESC
        else queue.describe(*source, *target)
    )
    queue.make_available(head)
    ((found, written),) = queue.take_used()
    assert found == head
    answer = driver.contents(target)
    assert written in (1, room + 1) or kind == RequestType.GET_ID
    return answer[-1], answer[:-1]


def an_image(folder: Path, sectors: int = 64) -> Path:
    path = folder / "disk.img"
    path.write_bytes(b"".join(bytes([n % 256]) * SECTOR for n in range(sectors)))
    return path


def segments(*ranges: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *each) for each in ranges)


def started(path: Path, *, read_only: bool = False) -> tuple[VirtioScene, list[DiskError]]:
    scene, errors = disk_scene(path, read_only=read_only, serial="serial-1")
    scene.driver.start(1)
    return scene, errors


def test_configuration_says_what_the_disk_is(tmp_path: Path) -> None:
    scene, _ = disk_scene(an_image(tmp_path, 64 * 16 * 63))

    config = scene.driver.read_config(60)

    assert struct.unpack_from("<QIIHBBI", config) == (64 * 16 * 63, 0, 254, 64, 16, 63, 512)
    assert struct.unpack_from("<H", config, 34) == (1,)
    assert struct.unpack_from("<6I", config, 36)[:2] == (1 << 22, 16)
    assert scene.driver.offered() & (BlockFeature.RO | BlockFeature.FLUSH) == BlockFeature.FLUSH


def test_read_and_write_reach_the_image(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    scene, errors = started(path)

    read = request(scene.driver, RequestType.IN, 3, room=2 * SECTOR)
    written = request(scene.driver, RequestType.OUT, 62, b"w" * 2 * SECTOR)
    flushed = request(scene.driver, RequestType.FLUSH)

    assert read == (OK, b"\3" * SECTOR + b"\4" * SECTOR)
    assert (written, flushed, errors) == ((OK, b""), (OK, b""), [])
    assert path.read_bytes()[62 * SECTOR :] == b"w" * 2 * SECTOR


def test_request_in_many_small_buffers_is_one_transfer(tmp_path: Path) -> None:
    scene, _ = started(an_image(tmp_path))
    driver, queue = scene.driver, scene.driver.queues[0]
    head = driver.readable(b"\0\0", bytes(6), struct.pack("<Q", 7))
    target = driver.writable(*[1] * 100, 412, 1)

    queue.make_available(queue.describe(*head, *target))

    assert driver.contents(target) == b"\7" * SECTOR + bytes([OK])


def test_requests_that_cannot_be_end_with_their_status(tmp_path: Path) -> None:
    scene, errors = started(an_image(tmp_path))
    driver = scene.driver
    cases = {
        "beyond the end": (RequestType.IN, 63, b"", 2 * SECTOR, IOERR),
        "far beyond the end": (RequestType.IN, (1 << 64) - 1, b"", SECTOR, IOERR),
        "no whole sector": (RequestType.IN, 0, b"", SECTOR - 1, IOERR),
        "nothing to read": (RequestType.IN, 0, b"", 0, IOERR),
        "write beyond the end": (RequestType.OUT, 64, bytes(SECTOR), 0, IOERR),
        "unknown type": (99, 0, b"", 0, UNSUPP),
        "secure erase": (14, 0, segments((0, 1, 0)), 0, UNSUPP),
        "discard with flags": (RequestType.DISCARD, 0, segments((0, 1, 1)), 0, UNSUPP),
        "discard of half a segment": (RequestType.DISCARD, 0, bytes(8), 0, IOERR),
        "discard beyond the end": (RequestType.DISCARD, 0, segments((63, 2, 0)), 0, IOERR),
        "too many segments": (RequestType.DISCARD, 0, segments(*[(0, 1, 0)] * 17), 0, IOERR),
        "zeroes with unknown flags": (RequestType.WRITE_ZEROES, 0, segments((0, 1, 2)), 0, UNSUPP),
        "too many zeroes": (RequestType.WRITE_ZEROES, 0, segments((0, 1 << 31, 0)), 0, IOERR),
    }

    found = {
        name: request(driver, kind, sector, data, room)[0]
        for name, (kind, sector, data, room, _) in cases.items()
    }

    assert found == {name: expected for name, (*_, expected) in cases.items()}
    assert errors == []  # the disk itself has not failed


def test_serial_number_is_read_as_far_as_there_is_room(tmp_path: Path) -> None:
    driver = started(an_image(tmp_path))[0].driver

    found = [request(driver, RequestType.GET_ID, room=room) for room in (20, 6)]

    assert found == [(OK, b"serial-1" + bytes(12)), (OK, b"serial")]


def test_discard_and_write_zeroes_leave_holes_or_zeroes(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    driver = started(path)[0].driver

    statuses = [
        request(driver, RequestType.DISCARD, 0, segments((0, 8, 0), (16, 8, 0)))[0],
        request(driver, RequestType.WRITE_ZEROES, 0, segments((32, 8, 1)))[0],
        request(driver, RequestType.WRITE_ZEROES, 0, segments((41, 1, 0)))[0],
    ]

    content = path.read_bytes()
    assert statuses == [OK, OK, OK]
    assert len(content) == 64 * SECTOR
    assert not any(content[32 * SECTOR : 40 * SECTOR] + content[41 * SECTOR : 42 * SECTOR])
    assert content[40 * SECTOR] == 40


def test_zeroes_are_written_where_the_file_system_has_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = an_image(tmp_path, 256)
    driver = started(path)[0].driver
    monkeypatch.setattr(Image, "_allocate", lambda *_: False)

    status, _ = request(driver, RequestType.WRITE_ZEROES, 0, segments((1, 200, 1)))

    content = path.read_bytes()
    assert status == OK
    assert not any(content[SECTOR : 201 * SECTOR])
    assert content[201 * SECTOR] == 201


def test_disk_that_is_only_read_refuses_to_be_written(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    path.chmod(0o400)
    scene, errors = started(path, read_only=True)
    before = path.read_bytes()

    statuses = [
        request(scene.driver, RequestType.OUT, 0, bytes(SECTOR))[0],
        request(scene.driver, RequestType.DISCARD, 0, segments((0, 1, 0)))[0],
        request(scene.driver, RequestType.FLUSH)[0],
    ]

    assert statuses == [IOERR, IOERR, OK]
    assert scene.driver.offered() & BlockFeature.RO
    assert not scene.driver.offered() & BlockFeature.DISCARD
    assert (path.read_bytes(), errors) == (before, [])


def test_errors_of_the_disk_reach_the_guest_and_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, errors = started(an_image(tmp_path))

    def fail(number: int) -> None:
        def raise_it(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        for name in ("read", "write", "flush"):
            monkeypatch.setattr(Image, name, raise_it)

    fail(errno.EIO)
    statuses = [request(scene.driver, RequestType.IN, room=SECTOR)[0]]
    fail(errno.ENOSPC)
    statuses += [request(scene.driver, RequestType.OUT, 0, bytes(SECTOR))[0]]
    fail(errno.EIO)
    statuses += [request(scene.driver, RequestType.FLUSH)[0]]

    assert statuses == [IOERR, IOERR, IOERR]
    assert errors == [
        DiskError("disk0", "read", "Input/output error", no_space=False),
        DiskError("disk0", "write", "No space left on device", no_space=True),
        DiskError("disk0", "write", "Input/output error", no_space=False),
    ]


def test_error_that_repeats_is_told_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = an_image(tmp_path)
    scene, errors = started(path)
    os.truncate(path, SECTOR)
    now = 0.1
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def read() -> int:
        return request(scene.driver, RequestType.IN, 1, room=SECTOR)[0]

    statuses = [read() for _ in range(10)]
    at_first = len(errors)
    for _ in range(2):
        now += 1.0
        statuses += [read()]

    said = "disk disk0: read failed: the file ends before the disk"
    assert statuses == [IOERR] * 12
    assert (at_first, len(errors)) == (1, 3)
    assert caplog.messages == [said, f"{said} (and 9 times since the last message)", said]


def test_image_that_was_cut_short_is_an_error_of_the_disk(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    scene, errors = started(path)
    os.truncate(path, SECTOR)

    status, _ = request(scene.driver, RequestType.IN, 1, room=SECTOR)

    assert status == IOERR
    assert errors == [DiskError("disk0", "read", "the file ends before the disk", no_space=False)]


def test_driver_that_never_flushes_has_its_writes_on_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _ = disk_scene(an_image(tmp_path))
    flushes: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushes.append)

    scene.driver.start(1, int(VirtioFeature.VERSION_1))
    request(scene.driver, RequestType.OUT, 0, bytes(SECTOR))
    without = len(flushes)
    scene.driver.start(1, int(VirtioFeature.VERSION_1 | BlockFeature.FLUSH))
    request(scene.driver, RequestType.OUT, 0, bytes(SECTOR))

    assert (without, len(flushes)) == (1, 1)


def test_request_without_header_or_status_stops_the_disk(tmp_path: Path) -> None:
    for buffers in (
        (Buffer(RAM, 15), Buffer(RAM, 1, is_writable=True)),
        (Buffer(RAM, 16),),
        (Buffer(RAM, 16, is_writable=True),),
    ):
        driver = started(an_image(tmp_path))[0].driver

        driver.queues[0].make_available(driver.queues[0].describe(*buffers))

        assert driver.status & Status.DEVICE_NEEDS_RESET


def test_requests_of_many_threads_all_come_back(tmp_path: Path) -> None:
    path = an_image(tmp_path, 256)
    scene, errors = disk_scene(path, work=ThreadedWork)
    scene.driver.start(1)
    driver, queue = scene.driver, scene.driver.queues[0]
    back = threading.Event()
    scene.device.interrupt_status.follow(_Line(back))  # type: ignore[arg-type]
    wanted = {}
    for sector in range(60):
        target = driver.writable(SECTOR, 1)
        header = driver.readable(struct.pack("<IIQ", RequestType.IN, 0, sector))
        wanted[queue.describe(*header, *target)] = (sector, target)

    queue.make_available(*wanted)
    found: dict[int, int] = {}
    while len(found) < 60:
        assert back.wait(60)
        back.clear()
        driver.acknowledge()
        while used := queue.take_used():  # what came before an interrupt was asked for has none
            found.update(used)
            queue.request_interrupt(queue.next_used)
    scene.close()

    assert errors == []
    for head, (sector, target) in wanted.items():
        assert found[head] == SECTOR + 1
        assert driver.contents(target) == bytes([sector]) * SECTOR + bytes([OK])


class _Line:
    """A line that sets an event when it goes up."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def set(self, level: bool) -> None:
        if level:
            self._event.set()


def test_request_that_comes_while_another_is_slow_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _ = disk_scene(an_image(tmp_path), work=ThreadedWork)
    scene.driver.start(1)
    began, may_end = threading.Event(), threading.Event()
    read = Image.read

    def slow(image: Image, target: Buffers, offset: int) -> None:
        began.set()
        assert may_end.wait(60)
        read(image, target, offset)

    monkeypatch.setattr(Image, "read", slow)
    driver, queue = scene.driver, scene.driver.queues[0]

    def ask(kind: RequestType) -> int:
        header = driver.readable(struct.pack("<IIQ", kind, 0, 5))
        head = queue.describe(*header, *driver.writable(SECTOR, 1))
        queue.make_available(head)
        return head

    work = scene.device._work
    assert isinstance(work, ThreadedWork)
    ask(RequestType.GET_ID)
    wait_until(lambda: queue.used_index == 1 and not work._awake)
    queue.take_used()
    ask(RequestType.IN)
    assert began.wait(60)
    quick = ask(RequestType.GET_ID)
    try:
        wait_until(lambda: queue.used_index == 2)
        first = list(dict(queue.take_used()))
    finally:
        may_end.set()
        scene.close()

    assert first == [quick]


def test_pause_waits_for_requests_under_way_and_begins_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _ = disk_scene(an_image(tmp_path), work=ThreadedWork)
    scene.driver.start(1)
    began, may_end = threading.Event(), threading.Event()
    read = Image.read

    def slow(image: Image, target: Buffers, offset: int) -> None:
        began.set()
        assert may_end.wait(60)
        read(image, target, offset)

    monkeypatch.setattr(Image, "read", slow)
    driver, queue = scene.driver, scene.driver.queues[0]

    def ask() -> None:
        header = driver.readable(struct.pack("<IIQ", RequestType.IN, 0, 5))
        queue.make_available(queue.describe(*header, *driver.writable(SECTOR, 1)))

    ask()
    assert began.wait(60)
    pausing = threading.Thread(target=scene.bus.pause)
    pausing.start()
    pausing.join(0.05)
    waits = pausing.is_alive()
    may_end.set()
    pausing.join(60)
    at_pause = queue.used_index
    ask()
    while_paused = queue.used_index
    scene.bus.resume(no_failure)
    while queue.used_index < 2:
        pass
    scene.close()

    assert (waits, at_pause, while_paused) == (True, 1, 1)


def test_reset_waits_for_requests_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _ = disk_scene(an_image(tmp_path), work=ThreadedWork)
    scene.driver.start(1)
    began, may_end = threading.Event(), threading.Event()

    def slow(*_: object) -> int:
        began.set()
        assert may_end.wait(60)
        raise OSError(errno.EIO, "slow")

    monkeypatch.setattr(Image, "read", slow)
    driver, queue = scene.driver, scene.driver.queues[0]
    header = driver.readable(struct.pack("<IIQ", RequestType.IN, 0, 5))
    queue.make_available(queue.describe(*header, *driver.writable(SECTOR, 1)))
    assert began.wait(60)

    resetting = threading.Thread(target=driver.write, args=(0x70, 0))
    resetting.start()
    resetting.join(0.05)
    waits = resetting.is_alive()
    may_end.set()
    resetting.join(60)
    scene.close()

    assert (waits, driver.status) == (True, 0)


# --- what backs it ---


def test_images_that_cannot_be_disks_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(bytes(513))
    cases: dict[str, tuple[type[Exception], str]] = {
        "": (UsageError, "is a directory: give a file or a block device"),
        "pipe": (UsageError, "is a pipe: give a file or a block device"),
        "empty": (UsageError, "has 0 bytes: a disk has whole sectors of 512 bytes"),
        "odd": (UsageError, "has 513 bytes"),
        "none": (HostError, "No such file or directory"),
        "/dev/null": (UsageError, "is a character device"),
    }

    for name, (error, message) in cases.items():
        with pytest.raises(error) as caught:
            Image(tmp_path / name, "disk0", read_only=False)
        assert message in str(caught.value)
        assert f"image {tmp_path / name} of disk 'disk0'" in str(caught.value)


def test_image_is_locked_from_activation_to_inactivation(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    first = Image(path, "disk0", read_only=False)
    second = Image(path, "disk1", read_only=False)
    first.activate()

    with pytest.raises(HostError) as caught:
        second.activate()
    first.inactivate()
    second.activate()
    with pytest.raises(HostError):
        first.activate()
    second.close()
    first.activate()
    first.close()

    assert str(caught.value) == (
        f"image {path} of disk 'disk1' is in use by another process, which does not share it "
        "(lock on byte 201): end what uses it, or give another file"
    )


def test_images_that_are_only_read_are_shared(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    readers = [Image(path, f"disk{n}", read_only=True) for n in range(2)]
    writer = Image(path, "writer", read_only=False)

    for reader in readers:
        reader.activate()

    with pytest.raises(HostError, match="in use by another process"):
        writer.activate()
    assert [each.is_active for each in (*readers, writer)] == [True, True, False]


def test_image_that_changed_its_size_is_not_activated(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    image = Image(path, "disk0", read_only=False)
    os.truncate(path, 32 * SECTOR)

    with pytest.raises(HostError, match="has 16384 bytes now, it had 32768 when it was opened"):
        image.activate()

    assert not image.is_active


def test_bus_activates_all_disks_or_none(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(bytes(SECTOR))
    backings = VirtioBackings(disks={f"disk{n}": DiskBacking(path) for n, path in enumerate(paths)})
    other = Image(paths[1], "other", read_only=False)
    other.activate()
    bus = DeviceBus(make_devices(backings, backings.describe()), new_memory(), lambda *_: None)

    with pytest.raises(HostError, match="disk 'disk1' is in use"):
        bus.activate()
    Image(paths[0], "free", read_only=False).activate()
    other.close()


def test_flush_that_fails_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = disk_scene(an_image(tmp_path))
    scene.bus.activate()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(HostError) as caught:
        scene.bus.inactivate()

    assert str(caught.value) == (
        f"cannot bring image {tmp_path}/disk.img of disk 'disk0' to the disk: Input/output error"
    )
    assert scene.device.is_active


def test_flush_that_failed_once_never_succeeds_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, errors = started(an_image(tmp_path))
    scene.bus.activate()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        first, _ = request(scene.driver, RequestType.FLUSH)
    second, _ = request(scene.driver, RequestType.FLUSH)
    with pytest.raises(HostError) as caught:
        scene.bus.inactivate()

    assert (first, second) == (IOERR, IOERR)
    assert [error.reason for error in errors] == [
        "Input/output error",
        "Input/output error, when it was flushed before",
    ]
    assert str(caught.value).endswith("to the disk: Input/output error, when it was flushed before")
    assert scene.device.is_active


def test_destination_refuses_by_name_what_is_not_the_vm_s_disk(tmp_path: Path) -> None:
    path, smaller = an_image(tmp_path), tmp_path / "small.img"
    smaller.write_bytes(bytes(SECTOR))
    described = VirtioBackings(disks={"disk0": DiskBacking(path)}).describe()
    cases = {
        "no disk": (VirtioBackings(), "the VM has disk 'disk0': give it as --disk FILE,name=disk0"),
        "another size": (
            VirtioBackings(disks={"disk0": DiskBacking(smaller)}),
            f"disk 'disk0' has 32768 bytes, image {smaller} has 512: give the file that the VM had",
        ),
        "read-only": (
            VirtioBackings(disks={"disk0": DiskBacking(path, read_only=True)}),
            f"disk 'disk0' can be written, image {path} is given otherwise",
        ),
    }

    for name, (backings, message) in cases.items():
        with pytest.raises(UsageError) as caught:
            make_devices(backings, described)
        assert message in str(caught.value), name


def test_backings_and_devices_are_compared_by_name(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    described = VirtioBackings(disks={"disk0": DiskBacking(path)}).describe()
    other = VirtioBackings(disks={"root": DiskBacking(path)})

    assert list(other.objections(described)) == [
        "the VM has disk 'disk0': give it as --disk FILE,name=disk0",
        "the VM has no disk 'root': leave out its --disk",
    ]
    assert not list(VirtioBackings(disks={"disk0": DiskBacking(path)}).objections(described))


def test_descriptions_that_no_disk_has_are_refused_by_name(tmp_path: Path) -> None:
    path = an_image(tmp_path)
    backings = VirtioBackings(disks={"disk0": DiskBacking(path)})
    (right,) = backings.describe()
    config = right.config
    cases = {
        replace(right, interrupt=None): "has a window of 0x200 bytes and interrupt None",
        replace(right, size_bytes=0x1000): "has a window of 0x1000 bytes",
        replace(right, config=b""): "begins with nothing is not of version 1",
        replace(right, config=b"\2" + config[1:]): "is not of version 1",
        replace(right, config=config[:4] + b"\2" + config[5:]): "has 2 queues: it needs 1",
        replace(right, config=config[:6] + b"\3" + config[7:]): "has queues of 259",
        replace(right, config=config[:15] + b"\x80" + config[16:]): "offers features 0x80000000",
        replace(right, config=config[:12] + b"\0" + config[13:]): "does not offer features 0x1000",
        replace(right, config=config[:-1]): "27 bytes describe a disk, expected 28",
        replace(right, config=config[:16] + bytes(8) + config[24:]): "a disk of 0 sectors",
    }

    for description, message in cases.items():
        with pytest.raises(UsageError) as caught:
            make_devices(backings, (description,))
        assert message in str(caught.value)
        assert "'disk0'" in str(caught.value)


def test_serial_numbers_that_a_guest_could_not_read_are_refused(tmp_path: Path) -> None:
    for serial in ("x" * 21, "naïve", "a\nb"):
        backings = VirtioBackings(disks={"disk0": DiskBacking(an_image(tmp_path), serial=serial)})
        with pytest.raises(UsageError, match="at most 20 printable ASCII characters"):
            backings.describe()


def test_kind_of_a_disk_is_in_its_description(tmp_path: Path) -> None:
    (described,) = VirtioBackings(disks={"disk0": DiskBacking(an_image(tmp_path))}).describe()

    assert (described.kind, described.gpa, described.interrupt) == (
        BlockFunction.KIND,
        0x0A00_0000,
        48,
    )


def test_devices_made_before_one_that_cannot_be_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Image, "close", lambda image: closed.append(image.path.name))
    path = an_image(tmp_path)
    both = VirtioBackings(disks={"disk0": DiskBacking(path), "disk1": DiskBacking(path)})
    described = both.describe()
    closed.clear()

    with pytest.raises(UsageError, match="the VM has disk 'disk1'"):
        make_devices(VirtioBackings(disks={"disk0": DiskBacking(path)}), described)

    assert closed == ["disk.img"]


@pytest.mark.lab
def test_full_file_system_of_the_host_is_an_error_that_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", folder], check=True)
    try:
        with (folder / "disk.img").open("wb") as image:
            image.truncate(1 << 20)
        scene, errors = started(folder / "disk.img")
        before, _ = request(scene.driver, RequestType.OUT, 0, bytes([1]) * SECTOR)
        with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        full, _ = request(scene.driver, RequestType.OUT, 1024, bytes([2]) * SECTOR)
        again, _ = request(scene.driver, RequestType.OUT, 1, bytes([3]) * SECTOR)
        scene.close()
    finally:
        subprocess.run(["umount", folder], check=True)

    assert (before, full, again) == (OK, IOERR, OK)
    assert errors == [DiskError("disk0", "write", os.strerror(errno.ENOSPC), no_space=True)]
