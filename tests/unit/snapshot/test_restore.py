"""restore and dump_core: what comes back, and what is refused, by name."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tagalong import wire
from tagalong.binary.elf import ELF_HEADER, PROGRAM_HEADER
from tagalong.core import CoreNotes, CoreSegment, CoreWriter, Space, machine_note, open_core
from tagalong.core.note_types import SegmentType
from tagalong.errors import (
    CoreError,
    HostError,
    MachineMismatchError,
    MalformedCoreError,
    NoTagsError,
    NotInCoreError,
    RestoreError,
    SnapshotCancelledError,
    TagalongError,
    TranslationError,
)
from tagalong.machine import DEFAULT_CONSOLE, Machine, MachineDescription, RunState
from tagalong.memory import Gpa, RegionSource
from tagalong.snapshot import SaveOptions, SaveProgress, dump_core, restore, save
from tagalong.soft import SoftMachine
from tagalong.wire.codec import encode_payload
from tagalong.wire.machine import MACHINE_HEAD, MACHINE_HEAD_V2
from tagalong.wire.machine_state import STATE_HEAD, STATE_HEAD_V3
from tests.support.fake_machine import RAM, FakeMachine, contents, describe
from tests.support.saver import SIZE, machine_with_content


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = machine_with_content()
    yield machine
    machine.close()


@pytest.fixture
def snapshot(machine: FakeMachine, tmp_path: Path) -> Path:
    """Return a snapshot of `machine`."""
    path = tmp_path / "vm.core"
    save(machine, path)
    return path


class Builder:
    """Builds a FakeMachine, which cannot map anything, and remembers what it was given."""

    def __init__(self, error: TagalongError | None = None) -> None:
        self.error = error
        self.built: list[FakeMachine] = []
        self.sources: Sequence[RegionSource] | None = None

    def __call__(
        self, description: MachineDescription, sources: Sequence[RegionSource] | None
    ) -> Machine:
        if self.error is not None:
            raise self.error
        self.sources = sources
        self.built.append(FakeMachine(description))
        return self.built[-1]


def as_fake(machine: Machine) -> FakeMachine:
    assert isinstance(machine, FakeMachine)
    return machine


def test_restore_brings_memory_tags_and_state_back(machine: FakeMachine, snapshot: Path) -> None:
    build = Builder()

    restored = restore(snapshot, build)

    assert contents(as_fake(restored.machine)) == contents(machine)
    assert restored.machine.save_state() == machine.peek_state()
    assert restored.machine.run_state is RunState.PAUSED
    assert restored.was_running
    assert build.sources is not None
    assert [source.data.size_bytes for source in build.sources] == [SIZE]
    restored.machine.close()


def test_restore_that_copies_leaves_holes(machine: FakeMachine, snapshot: Path) -> None:
    restored = restore(snapshot, Builder())

    pages = as_fake(restored.machine).populated_pages()
    assert pages == machine.populated_pages()
    assert restored.copied_bytes == pages[0].count() * 4096
    restored.machine.close()


def test_restore_of_compressed_core_has_nothing_to_map(
    machine: FakeMachine, tmp_path: Path
) -> None:
    save(machine, tmp_path / "vm.zst", SaveOptions(compress=True))
    build = Builder()

    restored = restore(tmp_path / "vm.zst", build)

    assert build.sources is None
    assert contents(as_fake(restored.machine)) == contents(machine)
    restored.machine.close()


def test_restore_tells_how_far_it_is_and_can_be_cancelled(snapshot: Path) -> None:
    class Token:
        told: list[SaveProgress] = []  # noqa: RUF012 (one test)

        def is_set(self) -> bool:
            return bool(self.told)

    build = Builder()

    with pytest.raises(SnapshotCancelledError):
        restore(snapshot, build, progress=Token.told.append, cancel=Token())

    assert Token.told[0].total_bytes > 0
    assert build.built[0].is_closed


def test_restore_of_state_that_the_machine_does_not_take_is_refused(
    machine: FakeMachine, tmp_path: Path
) -> None:
    machine.devices["gpu"] = b"state"
    save(machine, tmp_path / "vm.core")
    build = Builder()

    with pytest.raises(
        RestoreError, match=r"vm.core cannot be restored here: no device is called gpu"
    ):
        restore(tmp_path / "vm.core", build)

    assert build.built[0].is_closed
    assert not build.built[0].was_ever_resumed


def test_restore_on_a_machine_that_cannot_be_like_this_is_refused(snapshot: Path) -> None:
    refusal = MachineMismatchError("machine 'kvm' cannot hold the VM: page size 4096")

    with pytest.raises(RestoreError, match=r"cannot be restored here: machine 'kvm' cannot hold"):
        restore(snapshot, Builder(refusal))


def test_restore_of_host_without_kvm_says_what_the_host_lacks(snapshot: Path) -> None:
    with pytest.raises(HostError, match=r"^no KVM_CAP_ARM_MTE$"):
        restore(snapshot, Builder(HostError("no KVM_CAP_ARM_MTE")))


def test_restore_of_dump_of_virtual_addresses_is_refused(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "kernel.core"
    segment = CoreSegment(0xFFFF_FF80_0000_0000, RAM, SIZE, has_tags=True)
    with CoreWriter(path, [segment], page_size_bytes=4096) as writer:
        writer.commit(CoreNotes(machine.description, machine.peek_state(), Space.KERNEL))

    with pytest.raises(CoreError, match=r"is a dump of kernel addresses and does not hold the"):
        restore(path, Builder())


def test_restore_of_snapshot_without_tags_is_refused_and_never_done_without(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm.core"
    with CoreWriter(path, [CoreSegment(RAM, RAM, SIZE, False)], page_size_bytes=4096) as writer:
        writer.commit(CoreNotes(machine.description, machine.peek_state()))
    build = Builder()

    with pytest.raises(RestoreError, match=r"lacks tags \(address 0x40000000: .*cannot run on$"):
        restore(path, build)
    with pytest.raises(NoTagsError):
        dump_core(path, tmp_path / "other.core")

    assert build.built == []
    assert list(tmp_path.iterdir()) == [path]


def test_restore_of_snapshot_without_all_of_ram_is_refused(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path = tmp_path / "vm.core"
    half = CoreSegment(RAM, RAM, SIZE // 2, has_tags=True)
    with CoreWriter(path, [half], page_size_bytes=4096) as writer:
        writer.commit(CoreNotes(machine.description, machine.peek_state()))

    with pytest.raises(RestoreError, match=r"address 0x40200000: the core has no memory here"):
        restore(path, Builder())
    with pytest.raises(NotInCoreError):
        dump_core(path, tmp_path / "other.core")


def test_restore_of_snapshot_in_two_segments_is_copied(
    machine: FakeMachine, tmp_path: Path
) -> None:
    path, half = tmp_path / "vm.core", SIZE // 2
    parts = [CoreSegment(RAM + at, Gpa(RAM + at), half, has_tags=True) for at in (0, half)]
    region = machine.memory.regions[0]
    with CoreWriter(path, parts, page_size_bytes=4096) as writer:
        for number, at in enumerate((0, half)):
            writer.write_data(number, 0, region.read_data(at, half))
            writer.write_tags(number, 0, region.read_packed_tags(at, half))
        writer.commit(CoreNotes(machine.description, machine.peek_state()))
    build = Builder()

    restored = restore(path, build)

    assert build.sources is None
    assert contents(as_fake(restored.machine)) == contents(machine)
    restored.machine.close()


def cuts(path: Path) -> list[tuple[int, str]]:
    """Return where to cut a core: in each of its structures, and what that is."""
    content = path.read_bytes()
    header = ELF_HEADER.unpack(content)
    found = [(20, "the ELF header"), (header["e_phoff"] + 30, "the program headers")]
    for number in range(header["e_phnum"]):
        at = header["e_phoff"] + number * PROGRAM_HEADER.size
        segment = PROGRAM_HEADER.unpack(content[at:])
        name = SegmentType(segment["p_type"]).name
        found += [(segment["p_offset"] + size, name) for size in (0, segment["p_filesz"] // 2)]
    return found


def test_restore_of_file_cut_at_each_structure_is_refused_with_the_place(
    snapshot: Path, tmp_path: Path
) -> None:
    whole = snapshot.read_bytes()
    for size, name in cuts(snapshot):
        cut = tmp_path / "cut.core"
        cut.write_bytes(whole[:size])
        build = Builder()

        with pytest.raises((MalformedCoreError, RestoreError)) as failure:
            restore(cut, build)

        assert f"{size:#x}" in str(failure.value), name
        assert build.built == []


def test_restore_of_damaged_machine_note_is_refused(snapshot: Path) -> None:
    content = bytearray(snapshot.read_bytes())
    at = content.rindex(b"TAGALONG") + 40
    content[at] ^= 1
    snapshot.write_bytes(content)

    with pytest.raises(MalformedCoreError, match=r"offset 0x[0-9a-f]+: "):
        restore(snapshot, Builder())


@pytest.mark.parametrize("content", [b"", b"\x7fELF", struct.pack("<Q", 1) * 100])
def test_restore_of_what_is_no_core_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)

    with pytest.raises((MalformedCoreError, HostError)):
        restore(tmp_path / "x", Builder())


def test_restore_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot open .*none: No such file"):
        restore(tmp_path / "none", Builder())


# --- a core out of a core ---


@pytest.mark.parametrize("compressed", [False, True])
def test_dump_core_by_physical_addresses_is_the_same_machine(
    machine: FakeMachine, tmp_path: Path, compressed: bool
) -> None:
    source = tmp_path / "a"
    save(machine, source, SaveOptions(compress=compressed))

    report = dump_core(source, tmp_path / "b", SaveOptions(compress=not compressed))

    region = machine.memory.regions[0]
    with open_core(tmp_path / "b") as core:
        assert core.machine is not None
        assert core.machine.state == machine.peek_state()
        assert np.array_equal(core.data(RAM, SIZE), region.read_data(0, SIZE))
        assert np.array_equal(core.tags(RAM, SIZE), region.read_packed_tags(0, SIZE))
    assert report.compressed is not compressed


def test_dump_core_of_space_without_tables_is_refused_and_writes_nothing(
    snapshot: Path, tmp_path: Path
) -> None:
    with pytest.raises(TranslationError):
        dump_core(snapshot, tmp_path / "out", SaveOptions(space=Space.USER))

    assert list(tmp_path.iterdir()) == [snapshot]


def test_dump_core_of_a_large_machine_description_needs_no_memory(tmp_path: Path) -> None:
    machine = FakeMachine(describe(1 << 30))
    save(machine, tmp_path / "vm.core")

    report = dump_core(tmp_path / "vm.core", tmp_path / "copy.core")

    assert report.copied_bytes == 0
    assert report.disk_bytes < 1 << 16
    machine.close()


def encode_as_version_1(record: wire.Record) -> bytes:
    """Return a payload as the releases wrote it that had no devices in their descriptions."""
    payload = encode_payload(record)
    if isinstance(record, wire.StateRecord):
        return payload[: STATE_HEAD_V3.size] + payload[STATE_HEAD.size :]
    assert isinstance(record, wire.MachineRecord)
    regions = payload[MACHINE_HEAD.size : MACHINE_HEAD.size + 16 * len(record.regions)]
    return payload[: MACHINE_HEAD_V2.size] + regions


def test_restore_of_a_core_of_version_1_gives_the_machine_with_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = SoftMachine.create(ram_bytes=1 << 20)
    old.memory.write(Gpa(RAM + 0x3000), b"content")
    with monkeypatch.context() as release:
        release.setattr(machine_note, "VERSION", 1)
        release.setattr(machine_note, "encode_payload", encode_as_version_1)
        save(old, tmp_path / "vm.core")
    state = old.save_state()
    old.close()

    machine = restore(
        tmp_path / "vm.core", lambda about, sources: SoftMachine(about, sources=sources)
    ).machine

    assert machine.description.devices == (DEFAULT_CONSOLE,)
    assert machine.memory.read(Gpa(RAM + 0x3000), 7) == b"content"
    assert machine.save_state() == state
    machine.close()
