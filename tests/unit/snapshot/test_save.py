"""save: what is written, what is said, and what is left when it fails."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.core import Space, open_core
from tagalong.errors import (
    CoreError,
    HostError,
    SnapshotCancelledError,
    TagalongError,
    TranslationError,
    UsageError,
)
from tagalong.machine import RunState
from tagalong.memory import Gpa
from tagalong.snapshot import SaveOptions, SaveProgress, SaveStage, save
from tests.support.fake_machine import RAM, FakeMachine, describe
from tests.support.saver import FINISHING, SIZE, machine_with_content

ROOT = Path(__file__).parents[3]


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = machine_with_content()
    yield machine
    machine.close()


def assert_core_is_of(path: Path, machine: FakeMachine) -> None:
    with open_core(path) as core:
        for region in machine.memory.regions:
            size = region.size_bytes
            data, tags = region.read_data(0, size), region.read_packed_tags(0, size)
            assert np.array_equal(core.data(region.gpa, size), data)
            assert np.array_equal(core.tags(region.gpa, size), tags)
        assert core.machine is not None
        assert core.machine.state.vcpus == machine.peek_state().vcpus


def test_save_running_machine_stops_it_and_lets_it_go_on(
    machine: FakeMachine, tmp_path: Path
) -> None:
    machine.calls.clear()

    report = save(machine, tmp_path / "vm.core")

    assert machine.calls == ["pause", "peek_state", "save_state", "resume"]
    assert machine.run_state is RunState.RUNNING
    assert_core_is_of(tmp_path / "vm.core", machine)
    assert (report.was_running, report.rounds, report.segments) == (True, 1, 1)
    assert report.downtime_s > 0


def test_save_paused_machine_stays_paused(machine: FakeMachine, tmp_path: Path) -> None:
    machine.pause()
    machine.calls.clear()

    report = save(machine, tmp_path / "vm.core")

    assert "resume" not in machine.calls
    assert (report.was_running, report.downtime_s) == (False, 0.0)


def test_save_live_has_what_the_guest_wrote_meanwhile(machine: FakeMachine, tmp_path: Path) -> None:
    report = save(machine, tmp_path / "vm.core", SaveOptions(live=True))

    assert report.rounds == 2
    assert report.converged
    assert machine.run_state is RunState.RUNNING
    assert not machine.is_logging
    assert_core_is_of(tmp_path / "vm.core", machine)


def test_save_live_page_that_became_zero_is_a_hole_again(tmp_path: Path) -> None:
    wrote = iter([b"\x01" * 4096, b""])

    def guest(machine: FakeMachine) -> None:
        machine.guest_write(RAM, bytes(4096), bytes(128))
        next(wrote, None)

    machine = FakeMachine(describe(SIZE), guest)
    machine.resume()
    machine.guest_write(RAM, b"\x01" * 4096, b"\x11" * 128)

    report = save(machine, tmp_path / "vm.core", SaveOptions(live=True))

    with open_core(tmp_path / "vm.core") as core:
        assert not core.data(RAM, 4096).any()
        assert not core.tags(RAM, 4096).any()
    # Headers and notes alone.
    assert report.disk_bytes <= 3 * 4096
    machine.close()


def test_save_live_guest_that_is_too_fast_is_stopped_after_all(tmp_path: Path) -> None:
    def guest(machine: FakeMachine) -> None:
        for page in range(SIZE // 4096):
            machine.guest_write(RAM + page * 4096, os.urandom(8))

    machine = FakeMachine(describe(SIZE), guest)
    machine.resume()

    options = SaveOptions(live=True, max_downtime_s=0.0)
    report = save(machine, tmp_path / "vm.core", options)

    assert not report.converged
    assert report.rounds == 31
    assert_core_is_of(tmp_path / "vm.core", machine)
    machine.close()


def test_save_compressed_is_the_same_core(machine: FakeMachine, tmp_path: Path) -> None:
    report = save(machine, tmp_path / "vm.zst", SaveOptions(compress=True))

    assert report.compressed
    assert report.size_bytes == (tmp_path / "vm.zst").stat().st_size < SIZE // 10
    assert_core_is_of(tmp_path / "vm.zst", machine)
    assert [each.name for each in tmp_path.iterdir()] == ["vm.zst"]


def test_save_tells_stages_and_bytes_in_order(machine: FakeMachine, tmp_path: Path) -> None:
    told: list[SaveProgress] = []

    save(machine, tmp_path / "vm.core", SaveOptions(live=True), progress=told.append)

    stages = list(dict.fromkeys(moment.stage for moment in told))
    assert stages == [SaveStage.PRECOPY, SaveStage.LAST_PAGES, SaveStage.FINISH]
    assert next(m.round_number for m in told if m.stage is SaveStage.LAST_PAGES) == 2
    assert all(m.done_bytes <= m.total_bytes for m in told)


class CancelAt:
    """A token that is set once a stage has been told."""

    def __init__(self, stage: SaveStage) -> None:
        self._stage = stage
        self._reached = False

    def tell(self, progress: SaveProgress) -> None:
        self._reached |= progress.stage is self._stage

    def is_set(self) -> bool:
        return self._reached


@pytest.mark.parametrize("stage", [SaveStage.PRECOPY, SaveStage.LAST_PAGES, SaveStage.COMPRESS])
def test_save_cancelled_leaves_nothing_and_the_guest_goes_on(
    machine: FakeMachine, tmp_path: Path, stage: SaveStage
) -> None:
    cancel = CancelAt(stage)
    options = SaveOptions(live=True, compress=True)

    with pytest.raises(SnapshotCancelledError, match=r"^cancelled on request: no file was written"):
        save(machine, tmp_path / "vm.core", options, progress=cancel.tell, cancel=cancel)

    assert list(tmp_path.iterdir()) == []
    assert machine.run_state is RunState.RUNNING
    assert not machine.is_logging


def test_save_of_guest_that_ended_is_refused(tmp_path: Path) -> None:
    machine = FakeMachine(describe(SIZE))
    machine.end(RunState.SHUTDOWN)

    with pytest.raises(
        CoreError, match=r"^nothing was saved: the guest ended \(shutdown\) before it was stopped$"
    ):
        save(machine, tmp_path / "vm.core")

    assert list(tmp_path.iterdir()) == []
    machine.close()


def test_save_of_other_spaces_needs_the_registers(machine: FakeMachine, tmp_path: Path) -> None:
    with pytest.raises(TranslationError, match="the vCPU's TCR_EL1 is not known"):
        save(machine, tmp_path / "vm.core", SaveOptions(space=Space.KERNEL))
    with pytest.raises(
        UsageError, match=r"^there is no vCPU 7: the machine has 1, the first is 0$"
    ):
        save(machine, tmp_path / "vm.core", SaveOptions(space=Space.USER, vcpu=7))

    assert machine.run_state is RunState.RUNNING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"live": True, "space": Space.USER}, "a live dump of virtual addresses is not possible"),
        ({"max_downtime_s": -1.0}, "a downtime of -1.0 s is not possible"),
    ],
)
def test_save_options_that_make_no_sense_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        SaveOptions(**options)  # type: ignore[arg-type]


def test_save_over_a_device_is_refused(machine: FakeMachine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(HostError, match=r"cannot open .*pipe: it is a FIFO; give a file name$"):
        save(machine, tmp_path / "pipe")

    assert (tmp_path / "pipe").is_fifo()


# --- the disk is full ---


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# In the headers, in the data, in the tags, in the notes.
@pytest.mark.parametrize("limit", [0, 0x10_0000, SIZE + 0x4000, SIZE + SIZE // 32 + 0x1000])
@pytest.mark.parametrize("live", [False, True])
def test_save_that_finds_no_room_leaves_what_was_there_and_the_guest_goes_on(
    machine: FakeMachine, tmp_path: Path, limit: int, live: bool
) -> None:
    path = tmp_path / "vm.core"
    path.write_bytes(b"an older snapshot")

    with (
        file_size_limit(limit),
        pytest.raises(HostError, match=r"cannot write .*vm.core: .*File too large"),
    ):
        save(machine, path, SaveOptions(live=live))

    assert path.read_bytes() == b"an older snapshot"
    assert [each.name for each in tmp_path.iterdir()] == ["vm.core"]
    assert machine.run_state is RunState.RUNNING
    assert not machine.is_logging


def test_save_compressed_that_finds_no_room_leaves_nothing(
    machine: FakeMachine, tmp_path: Path
) -> None:
    with file_size_limit(1 << 20), pytest.raises(TagalongError, match="File too large"):
        save(machine, tmp_path / "vm.zst", SaveOptions(compress=True))

    assert list(tmp_path.iterdir()) == []


# --- the writer is killed ---


def run_saver(path: Path, moment: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.saver", str(path), moment, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


MOMENTS = [
    *[(moment, ()) for moment in ("copying", "finishing the file", *FINISHING)],
    *[(moment, ("live",)) for moment in ("pre-copy", "last pages")],
    *[(moment, ("zstd",)) for moment in ("compressing", "fsync", "replace")],
]


@pytest.mark.parametrize(("moment", "options"), MOMENTS)
def test_save_killed_at_any_moment_leaves_the_older_file(
    tmp_path: Path, moment: str, options: tuple[str, ...]
) -> None:
    path = tmp_path / "vm.core"
    path.write_bytes(b"an older snapshot")

    result = run_saver(path, moment, *options)

    assert result.returncode == -9, result.stdout + result.stderr
    assert path.read_bytes() == b"an older snapshot"
    assert all(
        each == path or (each.name.startswith(".") and moment in ("link", "replace"))
        for each in tmp_path.iterdir()
    )


def test_saver_passes_every_moment_that_is_tested(tmp_path: Path) -> None:
    result = run_saver(tmp_path / "vm.core", "never", "live", "zstd")

    assert result.returncode == 0, result.stderr
    for moment, options in MOMENTS:
        assert options == () or moment in result.stdout, moment
    with open_core(tmp_path / "vm.core") as core:
        assert core.machine is not None


# --- any memory ---

pages_of_memory = st.dictionaries(
    st.integers(0, 1023), st.tuples(st.booleans(), st.booleans()), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(pages_of_memory, st.booleans())
def test_save_of_any_memory_has_exactly_that(
    tmp_path_factory: pytest.TempPathFactory,
    pages: dict[int, tuple[bool, bool]],
    live: bool,
) -> None:
    path = tmp_path_factory.mktemp("any") / "vm.core"
    machine = FakeMachine(describe(0x10_0000, 0x30_0000))
    machine.resume()
    for page, (has_data, has_tags) in pages.items():
        gpa = RAM + page * 4096 if page < 256 else RAM + 0x4000_0000 + (page - 256) * 4096
        if has_data:
            machine.guest_write(gpa, bytes([page % 255 + 1]) * 4096)
        if has_tags:
            machine.memory.write_tags(Gpa(gpa), np.full(128, page % 255 + 1, np.uint8))

    report = save(machine, path, SaveOptions(live=live))

    assert_core_is_of(path, machine)
    assert report.segments == 2
    machine.close()
    path.unlink()
