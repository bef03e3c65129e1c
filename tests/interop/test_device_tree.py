"""Device trees of ours, read by the kernel's own compiler: it has nothing to say against them."""

import subprocess
from pathlib import Path

import pytest

from tagalong.boot.linux import (
    LINUX_CONSOLE,
    LINUX_GIC,
    LINUX_GPIO,
    LINUX_RTC,
    ChosenNode,
    device_tree,
)
from tagalong.machine import DeviceDescription, GicDescription, MachineDescription
from tagalong.machine import RegionDescription as Region
from tests.support.fetch_debuggers import DTC, DebuggerMissingError

SLOTS = tuple(
    DeviceDescription(f"slot{n}", "virtio-rng", 0x0A00_0000 + 0x200 * n, 0x200, 48 + n)
    for n in range(32)
)


@pytest.fixture(scope="module")
def dtc() -> list[str]:
    try:
        return DTC.find()
    except DebuggerMissingError as error:
        pytest.skip(f"missing dtc (python -m tests.support.fetch_debuggers): {error}")


@pytest.mark.parametrize("gic", [LINUX_GIC, None], ids=["gic", "no-gic"])
@pytest.mark.parametrize(
    ("vcpus", "devices"),
    [(1, (LINUX_CONSOLE,)), (123, (LINUX_CONSOLE, LINUX_RTC, LINUX_GPIO, *SLOTS)), (2, ())],
    ids=["small", "large", "bare"],
)
def test_dtc_accepts_the_tree_without_a_warning(
    dtc: list[str],
    tmp_path: Path,
    gic: GicDescription | None,
    vcpus: int,
    devices: tuple[DeviceDescription, ...],
) -> None:
    regions = (Region(0x4000_0000, 5 << 30), Region(1 << 40, 1 << 30))
    description = MachineDescription(4096, vcpus, 3, regions, devices, gic)
    chosen = ChosenNode("console=ttyAMA0", (0x4800_0000, 0x4900_0000), bytes(64), bytes(8))
    blob = tmp_path / "tree.dtb"
    blob.write_bytes(device_tree(description, chosen))

    done = subprocess.run(
        [*dtc, "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("cpu@") == vcpus
    assert done.stdout.count("virtio_mmio@") == len(set(devices) & set(SLOTS))
