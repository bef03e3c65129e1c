"""The wheel that users install: complete, and it runs outside the source tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUESTS = {"churn.elf", "paged.elf", "retag.elf", "selftest.elf", "speed.elf", "ticks.elf"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--wheel-dir", str(out), str(ROOT)],
        check=True,
    )  # fmt: skip
    wheel: Path = next(out.glob("*.whl"))
    return wheel


def test_wheel_carries_library_guests_and_type_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {n.rsplit("/", 1)[1] for n in names if n.endswith(".elf")} == GUESTS
    built = {"libtagalong.so", "routines.bin"}
    built |= {f"linux/{name}" for name in ("clockwatch", "tagkeeper", "workload")}
    built |= {"glibc/heapkeeper"}
    assert {f"tagalong/_lib/{name}" for name in built} <= set(names)
    pages = {f"tagalong/views/page/{name}" for name in ("page.css", "page.js")}
    assert {"tagalong/py.typed", *pages} <= set(names)


def test_wheel_is_marked_for_its_platform_and_any_python3(wheel: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-manylinux2014_{os.uname().machine}.whl")


def test_wheel_unpacked_elsewhere_runs_a_guest(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    run = subprocess.run(
        [sys.executable, "-m", "tagalong", "run", "--machine", "soft", "--guest", "selftest",
         "--control", str(tmp_path / "vm.sock")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert ", 0 failed" in run.stdout
