"""Which pages the preloaded library takes, on any host, with a dirty log that is an array."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "programs" / "dirty_log"
SOURCES = (
    PROGRAM / "harvests.c",
    ROOT / "native" / "beside" / "dirty_log.c",
    ROOT / "native" / "beside" / "vm.c",
    ROOT / "native" / "beside" / "pagemap.c",
)


def test_harvests_take_what_changed_and_leave_the_vmm_its_bits(tmp_path: Path) -> None:
    program = tmp_path / "harvests"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-O1", "-Wall", "-Werror", "-lpthread",
         "-include", str(PROGRAM / "arm64_kvm.h"), f"-I{ROOT / 'native' / 'beside'}",
         "-o", str(program), *map(str, SOURCES)],
        check=True,
    )  # fmt: skip

    done = subprocess.run([program], capture_output=True, text=True, check=False)

    assert done.stdout == ""
    assert done.returncode == 0
