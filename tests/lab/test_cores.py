"""Cores that were written in the lab, in the debuggers of this host: of a guest on real KVM, of a
process by Linux; and of a guest of an unmodified QEMU, with the tags that it wrote (`dump --pid`).

One boot for all.
"""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support import linux_core
from tests.support.bare import DATA, tagged
from tests.support.debuggers import gdb, gdb_tags, lldb_tags
from tests.support.fetch_debuggers import GDB, LLDB, DebuggerMissingError
from tests.support.guest_core import GRANULES, tag_of
from tests.support.lab_command import lab
from tests.support.linux_core import CRASHED_AT, CRASHED_WITH_TAG, TAGGED

SCRIPT = """
mkdir /tmp/cores /tmp/qemu && cd /tagalong &&
python3 -m tests.support.guest_core kvm /tmp/cores/kvm.core &&
python3 -m tests.support.linux_core /tmp/cores &&
python3 -m tests.support.looked_at_guests bare /tmp/qemu >/tmp/cores/qemu.json &&
tar -c -C /tmp/cores kvm.core core qemu.json
"""


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boot the lab once and fetch both cores, and what the third one says."""
    folder = tmp_path_factory.mktemp("cores")
    run = lab("run", "--with-vmm", "--", "sh", "-c", SCRIPT, seconds=600)
    assert run.returncode == 0, run.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as archive:
        for name in ("kvm.core", "core", "qemu.json"):
            content = archive.extractfile(name)
            assert content is not None
            (folder / name).write_bytes(content.read())
    return folder


@pytest.fixture(scope="module")
def debuggers() -> None:
    """Skip where this host has no debugger and cannot fetch it."""
    for debugger in (GDB, LLDB):
        try:
            debugger.find()
        except DebuggerMissingError as error:
            pytest.skip(f"missing {debugger.program}: {error}")


@pytest.mark.usefixtures("debuggers")
def test_debuggers_show_the_tags_that_a_guest_on_kvm_wrote(cores: Path) -> None:
    path = cores / "kvm.core"
    granules = [*range(17), GRANULES - 1, GRANULES]

    said = gdb(path, [f"memory-tag check (char*){tagged(DATA + 16, 2):#x}"])

    assert gdb_tags(path, [DATA + 16 * n for n in granules]) == [tag_of(n) for n in granules]
    assert f"Memory tags for address {tagged(DATA + 16, 2):#x} match (0x2)." in said
    assert lldb_tags(path, DATA, DATA + 16 * GRANULES) == {
        DATA + 16 * n: tag_of(n) for n in range(GRANULES)
    }


@pytest.mark.usefixtures("debuggers")
def test_debuggers_show_the_tags_of_a_process_that_linux_dumped(cores: Path) -> None:
    path = cores / "core"
    pointer = tagged(CRASHED_AT, CRASHED_WITH_TAG)

    said = gdb(path, ["p $_siginfo.si_code", f"memory-tag check (char*){pointer:#x}"])

    assert gdb_tags(path, [TAGGED + 16 * n for n in range(20)]) == [n % 16 for n in range(20)]
    assert f"$1 = {linux_core.SEGV_MTESERR}" in said
    assert "Logical tag (0x6) does not match the allocation tag (0x5)" in said
    assert lldb_tags(path, TAGGED, TAGGED + 512) == {
        TAGGED + 16 * n: linux_core.tag_of(n) for n in range(32)
    }


def test_dump_of_a_qemu_on_kvm_has_the_tags_that_its_guest_wrote(cores: Path) -> None:
    found = json.loads((cores / "qemu.json").read_text())

    # The guest says where its pages are, the last one first.
    for page, tags in zip(range(7, -1, -1), found["tags"], strict=True):
        assert tags == [(page + granule) % 16 for granule in range(256)]
    assert found["untagged"] == 0
    assert len(found["pc"]) == 1
    assert 0x4020_0000 <= found["pc"][0] < 0x4022_0000
    assert found["words"]["pause"] == "the guest was paused meanwhile"
    assert found["words"]["tags"] == "those of the guest's pages, by a mapping with PROT_MTE"
    assert found["words"]["layout"] == "by QEMU's monitor"
