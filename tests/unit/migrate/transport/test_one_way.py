"""Streams that go one way: files, commands and descriptors hold a VM, or nothing at all."""

import fcntl
import os
import resource
import socket
import stat
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.errors import (
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    RemoteProtocolError,
    UsageError,
    with_causes,
)
from tagalong.machine import DEFAULT_CONSOLE, RunState
from tagalong.migrate import (
    MigrationOptions,
    MigrationStage,
    SendProgress,
    keeper,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.migrate.pages.pump import Segments, send_pages
from tagalong.migrate.transport import replay, sink
from tagalong.wire import RecordType
from tests.support.fake_machine import RAM, FakeMachine, contents, describe
from tests.support.migration import PATIENT
from tests.support.wire_session import raw_record, records_in

OPTIONS = MigrationOptions(timeouts=PATIENT)


@pytest.fixture
def source() -> Iterator[FakeMachine]:
    machine = FakeMachine(
        describe(0x40_0000),
        guest=lambda it: it.guest_write(RAM + 0x1000, b"again", tags=b"\x12"),
    )
    region = machine.memory.regions[0]
    region.raw_data[:0x8000] = 0x5A
    region.raw_tags[:0x400] = 0x37
    machine.resume()
    yield machine
    machine.close()


def load(uri: str) -> FakeMachine:
    with listen(parse_address(uri)) as listener:
        arrival = receive_from(listener, FakeMachine, timeouts=PATIENT)
    assert isinstance(arrival.machine, FakeMachine)
    return arrival.machine


def assert_same(source: FakeMachine, loaded: FakeMachine) -> None:
    assert contents(loaded) == contents(source)
    assert loaded.run_state is RunState.RUNNING
    assert source.run_state is RunState.PAUSED
    loaded.close()


@pytest.mark.parametrize("suffix", ["", ",offset=0x2000"])
def test_file_takes_a_guest_and_gives_it_back(
    source: FakeMachine, tmp_path: Path, suffix: str
) -> None:
    uri = f"file:{tmp_path}/vm{suffix}"

    migrate_to(uri, source, OPTIONS)

    assert [path.name for path in tmp_path.iterdir()] == ["vm"]
    assert stat.S_IMODE((tmp_path / "vm").stat().st_mode) == 0o600
    assert_same(source, load(uri))


def test_file_takes_more_than_a_buffer_in_one_run_and_in_many(tmp_path: Path) -> None:
    source = FakeMachine(describe(0x200_0000))
    region, random = source.memory.regions[0], np.random.default_rng(4)
    region.raw_data[:0x50_0000] = np.frombuffer(random.bytes(0x50_0000), np.uint8)
    scattered = region.raw_data[0x100_0000:].reshape(-1, 0x1000)
    scattered[::2] = np.frombuffer(random.bytes(0x1000), np.uint8)
    source.resume()

    migrate_to(f"file:{tmp_path}/vm", source, OPTIONS)

    assert_same(source, load(f"file:{tmp_path}/vm"))
    source.close()


def test_file_with_a_changed_byte_of_a_page_starts_nothing(
    source: FakeMachine, tmp_path: Path
) -> None:
    migrate_to(f"file:{tmp_path}/vm", source, OPTIONS)
    stream = bytearray((tmp_path / "vm").read_bytes())
    stream[stream.index(b"\x5a" * 0x8000) + 0x4321] ^= 1
    (tmp_path / "vm").write_bytes(stream)

    with pytest.raises(MigrationError, match="its data were damaged"):
        load(f"file:{tmp_path}/vm")


def test_disk_that_is_full_leaves_the_guest_running_and_no_file(tmp_path: Path) -> None:
    source = FakeMachine(describe(0x200_0000))
    source.memory.regions[0].raw_data[:] = 0x5A
    source.resume()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0x50_0000, hard))
        with pytest.raises(MigrationError, match="vm: cannot write: File too large"):
            migrate_to(f"file:{tmp_path}/vm", source, OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert source.run_state is RunState.RUNNING
    for thread in threading.enumerate():
        if thread.name == "keeper":
            thread.join(60)
    assert not list(tmp_path.iterdir())
    source.close()


def test_file_with_an_offset_keeps_what_stands_before_it(
    source: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm"
    path.touch(0o600)
    path.write_bytes(b"header".ljust(512, b"."))

    migrate_to(f"file:{path},offset=512", source, OPTIONS)

    assert path.read_bytes()[:520] == b"header".ljust(512, b".") + b"TAGALONG"


def as_version_2(stream: bytes) -> bytes:
    """Return what a release that wrote version 2 would have written."""
    older = b"TAGALONG" + (2).to_bytes(8, "little")
    for sequence, (_, record) in enumerate(records_in(stream)):
        kind, payload = int.from_bytes(record[:2], "little"), record[16:]
        if kind == RecordType.MACHINE:
            regions = int.from_bytes(payload[12:16], "little")
            older += raw_record(sequence, kind, payload[:16] + payload[24 : 24 + 16 * regions])
        elif kind == RecordType.STATE:
            older += raw_record(sequence, kind, payload[:8] + payload[16:])
        else:
            older += record
    return older


def test_file_of_version_2_still_gives_its_guest(source: FakeMachine, tmp_path: Path) -> None:
    migrate_to(f"file:{tmp_path}/new", source, OPTIONS)
    (tmp_path / "old").write_bytes(as_version_2((tmp_path / "new").read_bytes()))

    loaded = load(f"file:{tmp_path}/old")

    assert loaded.description.devices == (DEFAULT_CONSOLE,)
    assert_same(source, loaded)


def test_command_takes_a_guest_and_gives_it_back(source: FakeMachine, tmp_path: Path) -> None:
    migrate_to(f"exec:gzip -c > '{tmp_path}/vm.gz'", source, OPTIONS)

    assert_same(source, load(f"exec:gzip -dc '{tmp_path}/vm.gz'"))


def test_pipe_descriptor_carries_a_guest(source: FakeMachine) -> None:
    reading, writing = os.pipe()
    loaded: list[FakeMachine] = []
    thread = threading.Thread(target=lambda: loaded.append(load(f"fd:{reading}")))
    thread.start()

    migrate_to(f"fd:{writing}", source, OPTIONS)
    thread.join(60)

    assert_same(source, loaded[0])


def test_socket_descriptor_carries_a_guest_with_verification(source: FakeMachine) -> None:
    near, far = socket.socketpair()
    loaded: list[FakeMachine] = []
    thread = threading.Thread(target=lambda: loaded.append(load(f"fd:{far.detach()}")))
    thread.start()

    report = migrate_to(
        f"fd:{near.detach()}", source, MigrationOptions(verify=True, timeouts=PATIENT)
    )
    thread.join(60)

    assert report.verified
    assert_same(source, loaded[0])


def test_socket_descriptor_that_is_not_connected_is_refused(source: FakeMachine) -> None:
    with (
        socket.socket() as sock,
        pytest.raises(MigrationError, match=r"fd:\d+: is not connected"),
    ):
        migrate_to(f"fd:{sock.fileno()}", source, OPTIONS)

    assert source.run_state is RunState.RUNNING


def test_descriptor_that_is_not_open_is_refused(source: FakeMachine) -> None:
    with pytest.raises(MigrationError, match="fd:999: this process has inherited no"):
        migrate_to("fd:999", source, OPTIONS)

    assert not source.calls[1:]


@pytest.mark.parametrize("uri", ["file:{folder}/vm", "exec:cat > {folder}/vm"])
def test_verify_without_an_answering_peer_is_refused(
    source: FakeMachine, tmp_path: Path, uri: str
) -> None:
    with pytest.raises(UsageError, match=r"digests cannot be compared \(verify\)"):
        migrate_to(uri.format(folder=tmp_path), source, MigrationOptions(verify=True))

    assert not list(tmp_path.iterdir())


def test_file_that_cannot_be_created_leaves_the_guest_running(source: FakeMachine) -> None:
    with pytest.raises(MigrationError, match=r"did not begin: file:/no/such/vm: cannot create"):
        migrate_to("file:/no/such/vm", source, OPTIONS)

    assert source.run_state is RunState.RUNNING


def test_full_disk_leaves_the_guest_running_and_no_file(source: FakeMachine) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(MigrationError) as caught:
        migrate_to(f"fd:{fd}", source, OPTIONS)

    assert f"fd:{fd}: cannot write: No space left on device" in str(caught.value)
    assert "peer" not in with_causes(caught.value)

    assert source.run_state is RunState.RUNNING


def test_cancelled_file_leaves_the_guest_running_and_no_file(
    source: FakeMachine, tmp_path: Path
) -> None:
    cancel = threading.Event()

    def watch(progress: SendProgress) -> None:
        if progress.stage is MigrationStage.STATE:
            cancel.set()

    with pytest.raises(MigrationCancelledError):
        migrate_to(f"file:{tmp_path}/vm", source, OPTIONS, progress=watch, cancel=cancel)

    assert source.run_state is RunState.RUNNING
    for thread in threading.enumerate():
        if thread.name == "keeper":
            thread.join(60)
    assert not list(tmp_path.iterdir())


def test_command_that_fails_at_once_leaves_the_guest_running(source: FakeMachine) -> None:
    # More than a pipe holds: so it cannot all be written before the command has ended.
    source.memory.regions[0].raw_data[: 1 << 20] = np.random.default_rng(1).integers(
        1, 256, 1 << 20
    )

    with pytest.raises(
        MigrationError,
        match=r"exec:echo no room >&2; exit 3: cannot write: Broken pipe; the command ended with "
        "status 3 and said: no room",
    ):
        migrate_to("exec:echo no room >&2; exit 3", source, OPTIONS)

    assert source.run_state is RunState.RUNNING


def test_command_that_fails_after_the_commit_is_uncertain(source: FakeMachine) -> None:
    with pytest.raises(HandoverUncertainError) as caught:
        migrate_to("exec:cat > /dev/null; exit 3", source, OPTIONS)

    assert "exit 3: the command ended with status 3 and said nothing" in with_causes(caught.value)

    assert source.run_state is RunState.PAUSED


def test_every_truncation_of_a_file_starts_nothing(source: FakeMachine, tmp_path: Path) -> None:
    migrate_to(f"file:{tmp_path}/vm", source, OPTIONS)
    whole = (tmp_path / "vm").read_bytes()
    built: list[FakeMachine] = []

    def build(description: object) -> FakeMachine:
        del description
        built.append(FakeMachine(describe(0x40_0000)))
        return built[-1]

    for size in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "part").write_bytes(whole[:size])
        with (
            listen(parse_address(f"file:{tmp_path}/part")) as listener,
            pytest.raises(MigrationError) as caught,
        ):
            receive_from(listener, build, timeouts=PATIENT)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)

    assert built
    assert not any(machine.was_ever_resumed for machine in built)


def test_file_that_does_not_exist_cannot_be_loaded() -> None:
    with pytest.raises(HostError, match=r"file:/no/such/vm: cannot be opened: No such file"):
        load("file:/no/such/vm")


def test_folder_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot be opened: it is a directory; give a file name"):
        load(f"file:{tmp_path}")


def test_command_that_gives_no_stream_says_why() -> None:
    with pytest.raises(MigrationError) as caught:
        load("exec:echo first; echo no such VM >&2; exit 7")

    assert "the command ended with status 7 and said: no such VM" in str(caught.value)


def test_file_sink_replaces_what_a_link_leads_to(source: FakeMachine, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"older")
    (tmp_path / "latest").symlink_to(tmp_path / "real")

    migrate_to(f"file:{tmp_path}/latest", source, OPTIONS)

    assert (tmp_path / "latest").is_symlink()
    assert_same(source, load(f"file:{tmp_path}/real"))


def test_file_sink_writes_through_a_device(source: FakeMachine) -> None:
    # A terminal of the test's own: a character device that needs no privilege to make.
    person, terminal = os.openpty()
    tty.setraw(terminal)
    name = Path(os.ttyname(terminal))
    received = bytearray()

    def read() -> None:
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(person, 1 << 16):
                received.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    migrate_to(f"file:{name}", source, OPTIONS)
    os.close(terminal)
    thread.join(60)
    os.close(person)

    assert received.startswith(b"TAGALONG")
    assert records_in(bytes(received))[-1][1][:2] == RecordType.COMMIT.to_bytes(2, "little")


def test_file_sink_writes_through_a_fifo(source: FakeMachine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    loaded: list[FakeMachine] = []
    thread = threading.Thread(target=lambda: loaded.append(load(f"file:{tmp_path}/fifo")))
    thread.start()
    migrate_to_reader(f"file:{tmp_path}/fifo", source)
    thread.join(60)

    assert (tmp_path / "fifo").is_fifo()
    assert_same(source, loaded[0])


def migrate_to_reader(uri: str, source: FakeMachine) -> None:
    """Migrate to a FIFO as soon as something reads from it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            migrate_to(uri, source, OPTIONS)
        except MigrationError as error:
            if "nothing reads from this FIFO" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def test_fifo_that_nothing_writes_to_can_be_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()

    with (
        listen(parse_address(f"file:{tmp_path}/fifo")) as listener,
        pytest.raises(MigrationCancelledError),
    ):
        receive_from(listener, FakeMachine, timeouts=PATIENT, cancel=cancel)


def test_file_sink_refuses_what_it_must_not_replace(source: FakeMachine, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "socket"))
    for name, kind in (("folder", "a directory"), ("socket", "a socket")):
        with pytest.raises(MigrationError, match=f"{name}: it is {kind}; give a file name"):
            migrate_to(f"file:{tmp_path}/{name}", source, OPTIONS)

    assert (source.run_state, "pause" in source.calls) == (RunState.RUNNING, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "socket"]


def test_file_sink_follows_no_name_that_was_prepared_beside_it(
    source: FakeMachine, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "vm.part").symlink_to(victim)

    migrate_to(f"file:{tmp_path}/vm", source, OPTIONS)

    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "vm.part").is_symlink()


def test_two_guests_saved_to_one_file_leave_one_of_them_whole(tmp_path: Path) -> None:
    sources = [FakeMachine(describe(0x40_0000)) for _ in range(2)]
    for number, machine in enumerate(sources):
        machine.memory.regions[0].raw_data[:0x10_0000] = number + 1
        machine.resume()
    meet = threading.Barrier(2)

    def save(machine: FakeMachine) -> None:
        def watch(progress: SendProgress) -> None:
            if progress.stage is MigrationStage.STATE:
                meet.wait(60)

        migrate_to(f"file:{tmp_path}/vm", machine, OPTIONS, progress=watch)

    threads = [threading.Thread(target=save, args=(machine,)) for machine in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    loaded = load(f"file:{tmp_path}/vm")
    assert contents(loaded) in [contents(machine) for machine in sources]
    for machine in (*sources, loaded):
        machine.close()


def test_offset_into_a_file_that_others_may_read_is_refused(
    source: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm"
    path.write_bytes(b"header")
    path.chmod(0o640)

    with pytest.raises(MigrationError, match=r"other users may open this file \(mode 0640\)"):
        migrate_to(f"file:{path},offset=512", source, OPTIONS)

    assert path.read_bytes() == b"header"


def test_offset_into_a_file_of_another_user_is_refused(
    source: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vm"
    path.touch(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(MigrationError, match="this file belongs to another user"):
        migrate_to(f"file:{path},offset=512", source, OPTIONS)


def test_offset_into_a_file_that_another_writes_is_refused(
    source: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm"
    path.touch(0o600)
    with path.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MigrationError, match="another process writes to this file"):
            migrate_to(f"file:{path},offset=512", source, OPTIONS)


def test_listener_at_a_descriptor_gives_its_stream_once() -> None:
    near, far = socket.socketpair()
    with near, listen(parse_address(f"fd:{far.detach()}")) as listener:
        listener.accept(idle_s=1).close()

        with pytest.raises(HostError, match="there is one stream, and it was used"):
            listener.accept(idle_s=1)


def whole(memory: NDArray[np.uint8], page_bytes: int = 4096) -> Segments:
    return Segments(np.array([(memory.ctypes.data, memory.size)], np.uint64), page_bytes, memory)


def test_threads_that_read_a_file_have_ended_when_the_read_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would write to the memory of a machine that is gone."""
    path, memory = tmp_path / "pages", np.zeros(16 << 20, np.uint8)
    path.write_bytes(bytes(memory.size))
    channel = replay.FileChannel(os.open(path, os.O_RDONLY), "the file")
    has_begun, at_work = threading.Event(), list[int]()
    nothing_to_hash: Any = None
    preadv = os.preadv

    def read_slowly(fd: int, targets: list[memoryview], at: int) -> int:
        at_work.append(at)
        has_begun.set()
        time.sleep(0.05)
        count = preadv(fd, targets, at)
        at_work.remove(at)
        return count

    def interrupted(_jobs: object) -> None:
        has_begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "preadv", read_slowly)
    monkeypatch.setattr(replay, "wait", interrupted)
    with channel:
        with pytest.raises(KeyboardInterrupt):
            channel.move_pages(whole(memory), 4096, nothing_to_hash)

        assert not at_work


def test_pipe_that_a_cancelled_batch_went_into_gets_no_other_record() -> None:
    reader, writer = os.pipe()

    def cancel() -> None:
        raise MigrationCancelledError("cancelled")

    memory = np.zeros(4 << 20, np.uint8)
    channel = keeper.keep(parse_address(f"fd:{writer}"), idle_s=20)
    channel.interrupt = cancel
    try:
        with channel, pytest.raises(MigrationCancelledError):
            send_pages(channel, whole(memory), None, float("inf"))

        assert channel.is_mid_record
    finally:
        os.close(reader)


def test_stream_that_no_thread_can_be_had_for_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks: list[Any] = []

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def open_sink(*arguments: Any, **options: Any) -> Any:
        sinks.append(sink.open_sink(*arguments, **options))
        return sinks[-1]

    monkeypatch.setattr(keeper, "open_sink", open_sink)
    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(RuntimeError, match="new thread"):
        keeper.keep(parse_address(f"file:{tmp_path}/guest"), idle_s=20)

    assert sinks[0]._file.is_closed
    assert not list(tmp_path.iterdir())
