"""Cores that were written in the lab, of a guest on real KVM and of a process by Linux, in the
debuggers of this host.
"""

import io
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
mkdir /tmp/cores && cd /tagalong &&
python3 -m tests.support.guest_core kvm /tmp/cores/kvm.core &&
python3 -m tests.support.linux_core /tmp/cores &&
tar -c -C /tmp/cores kvm.core core
"""


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boot the lab once and fetch both cores."""
    for debugger in (GDB, LLDB):
        try:
            debugger.find()
        except DebuggerMissingError as error:
            pytest.skip(f"missing {debugger.program}: {error}")
    folder = tmp_path_factory.mktemp("cores")
    run = lab("run", "--", "sh", "-c", SCRIPT)
    assert run.returncode == 0, run.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as archive:
        for name in ("kvm.core", "core"):
            content = archive.extractfile(name)
            assert content is not None
            (folder / name).write_bytes(content.read())
    return folder


def test_debuggers_show_the_tags_that_a_guest_on_kvm_wrote(cores: Path) -> None:
    path = cores / "kvm.core"
    granules = [*range(17), GRANULES - 1, GRANULES]

    said = gdb(path, [f"memory-tag check (char*){tagged(DATA + 16, 2):#x}"])

    assert gdb_tags(path, [DATA + 16 * n for n in granules]) == [tag_of(n) for n in granules]
    assert f"Memory tags for address {tagged(DATA + 16, 2):#x} match (0x2)." in said
    assert lldb_tags(path, DATA, DATA + 16 * GRANULES) == {
        DATA + 16 * n: tag_of(n) for n in range(GRANULES)
    }


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
