"""Every writer of a core against every kind of name: refused before anything moves, or kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tagalong.core import CoreWriter, open_core, pack, unpack
from tagalong.errors import HostError
from tagalong.snapshot import SaveOptions, dump_core, save
from tests.support.cores import PAGE, notes, segments_of
from tests.support.fake_machine import FakeMachine
from tests.support.saver import machine_with_content
from tests.support.targets import names_in, unwritable

Write = Callable[[Path], object]


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = machine_with_content()
    yield machine
    machine.close()


@pytest.fixture
def writers(machine: FakeMachine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Write]:
    """Return everything that writes a core to a name, from sources elsewhere."""
    folder = tmp_path_factory.mktemp("sources")
    plain, packed = folder / "vm.core", folder / "vm.core.zst"
    save(machine, plain)
    pack(plain, packed)

    def write_core(path: Path) -> None:
        about = notes()
        segments = segments_of(about.description)
        with CoreWriter(path, segments, page_size_bytes=PAGE) as writer:
            writer.commit(about)

    return {
        "CoreWriter": write_core,
        "save": lambda path: save(machine, path),
        "save live": lambda path: save(machine, path, SaveOptions(live=True)),
        "save compressed": lambda path: save(machine, path, SaveOptions(compress=True)),
        "dump": lambda path: dump_core(plain, path),
        "dump compressed": lambda path: dump_core(plain, path, SaveOptions(compress=True)),
        "pack": lambda path: pack(plain, path),
        "unpack": lambda path: unpack(packed, path),
    }


def test_every_writer_refuses_every_name_that_is_no_file(
    writers: dict[str, Write], machine: FakeMachine, tmp_path: Path
) -> None:
    for kind, (make, reason) in unwritable(tmp_path).items():
        folder = tmp_path / kind
        folder.mkdir()
        path, link = folder / "target", folder / "link"
        make(path)
        link.symlink_to("target")
        before = path.lstat()
        machine.calls.clear()
        for name, write in writers.items():
            for target in (path, link):
                with pytest.raises(HostError) as caught:
                    write(target)
                assert str(caught.value) == f"cannot open {target}: {reason}", (name, kind)
        assert names_in(folder) == ["link", "target"]
        assert path.lstat() == before
        assert machine.calls == []


def test_every_writer_replaces_what_a_link_leads_to(
    writers: dict[str, Write], tmp_path: Path
) -> None:
    for number, (name, write) in enumerate(writers.items()):
        folder = tmp_path / f"{number}"
        (folder / "sub").mkdir(parents=True)
        old, link = folder / "sub" / "vm.core", folder / "latest.core"
        link.symlink_to("sub/vm.core")
        for before in (None, b"an older one"):
            if before:
                old.write_bytes(before)
            write(link)

            assert link.is_symlink(), name
            assert names_in(folder / "sub") == ["vm.core"]
            with open_core(link) as core:
                assert core.machine is not None
