"""The preloaded library under a VMM that is hard on it: the VMM must not notice.

`tests/programs/vmm` prints the result and errno of all it does. It runs without the library, under
it in a process that is not beside tagalong, and under it beside one, in one boot of the lab.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab_command import ROOT, lab
from tests.support.lab_session import KERNELS

PROGRAM = ROOT / "tests" / "programs" / "vmm" / "main.c"
# What the lab's userland has (Debian 12).
TARGET = "aarch64-linux-gnu.2.36"

SCRIPT = "cat > /tmp/vmm && chmod +x /tmp/vmm && python3 -m tests.support.library_run /tmp/vmm"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("vmm") / "vmm"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-O1", "-Wall", "-Wextra",
         "-Werror", "-D_GNU_SOURCE", "-fno-sanitize=undefined", "-o", str(target), str(PROGRAM)],
        check=True,
    )  # fmt: skip
    return Path(target).read_bytes()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kernel", KERNELS)
def test_vmm_under_the_library_sees_what_it_sees_without(program: bytes, kernel: str) -> None:
    run = lab(
        "run", "-i", "--kernel", kernel, "--timeout", "300", "--", "sh", "-c", SCRIPT,
        stdin=program, seconds=360,
    )  # fmt: skip
    output = run.stdout.decode()

    assert run.returncode == 0, f"{output}\n{run.stderr.decode()}"
    plain, preloaded, beside = output.split("=== ")[1:]
    assert plain.splitlines()[1:] == preloaded.splitlines()[1:]
    assert plain.splitlines()[1:] == beside.splitlines()[1:]
    assert "a slot in it: 0, errno 77" in plain
    assert "KVM_RUN that must return at once: -1, errno 4" in plain
    assert "what was loaded: 4660, errno 77" in plain
    assert "a cancelled thread came through: 1, errno 77" in plain
