"""The frozen stream of QEMU: what QEMU 10.0.2 wrote is read, tags and registers included."""

from pathlib import Path

import pytest
import zstandard

from tagalong.core import Core, Space, open_core
from tagalong.qemu import QemuFile, convert
from tagalong.snapshot import SaveOptions
from tests.golden.build_cores import QEMU_STREAM

PAGE = 4096
POOL = 0x4027_0000
WINDOW = 0xFFFF_FF81_0000_0000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> QemuFile:
    path = tmp_path_factory.mktemp("golden") / "paged.qemu"
    with QEMU_STREAM.open("rb") as packed, path.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    return QemuFile(path)


def require_tags(core: Core, start: int, pages: range) -> None:
    """Assert what the guest `paged` says of its pages: tag (page + granule) modulo 16."""
    for place, page in enumerate(pages):
        tags = core.granule_tags(start + place * PAGE, PAGE).tolist()
        assert tags == [(page + granule) % 16 for granule in range(256)]


def test_golden_stream_of_qemu_becomes_a_core(saved: QemuFile, tmp_path: Path) -> None:
    convert(saved, tmp_path / "vm.core")

    with open_core(tmp_path / "vm.core") as core:
        assert core.machine is not None
        assert core.machine.description.ram_bytes == 4 << 20
        assert core.machine.description.mte_version == 3
        # As QEMU's `info registers` printed them.
        assert [(hex(v.pc), hex(v.sp), hex(v.pstate)) for v in core.vcpus] == [
            ("0x40202530", "0x40213f50", "0x600003c5"),
            ("0x40200000", "0x0", "0x400003c5"),
        ]
        assert (hex(core.vcpus[0].x[0]), hex(core.vcpus[0].x[30])) == ("0x56", "0x4020252c")
        require_tags(core, POOL, range(7, -1, -1))


def test_golden_stream_of_qemu_is_dumped_by_kernel_addresses(
    saved: QemuFile, tmp_path: Path
) -> None:
    convert(saved, tmp_path / "kernel.core", SaveOptions(space=Space.KERNEL))

    with open_core(tmp_path / "kernel.core") as core:
        require_tags(core, WINDOW, range(8))
        pointer = int.from_bytes(core.data(WINDOW, 8).tobytes(), "little")
        assert pointer & ~(0xF << 56) == WINDOW & ~(0xF << 56)
