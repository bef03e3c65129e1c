"""Names of a kernel's functions from System.map; drgn's are in tests/interop."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.explain.kernel_names import SYSTEM_MAP, KernelNames
from tests.support import core_builder
from tests.support.core_builder import CoreBuilder, load, note

VMCOREINFO = b"""\
OSRELEASE=6.12.0
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffff800081a10000
NUMBER(VA_BITS)=48
NUMBER(kimage_voffset)=0xffff80003fe00000
NUMBER(PHYS_OFFSET)=0x40000000
KERNELOFFSET=200000
"""
MAP = """\
ffff800080000000 T _text
ffff800080001000 t do_work
ffff800080001100 D some_data
ffff800080002000 W weak_one
"""
MOVED = 0x20_0000


@pytest.fixture
def core(tmp_path: Path) -> Path:
    path = tmp_path / "core"
    notes = core_builder.usual_notes() + note(b"VMCOREINFO", 0, VMCOREINFO)
    path.write_bytes(CoreBuilder([load(0x1000, bytes(4096))], notes).build())
    return path


def test_functions_are_found_where_kaslr_moved_them(core: Path, tmp_path: Path) -> None:
    (tmp_path / SYSTEM_MAP).write_text(MAP)
    start = 0xFFFF_8000_8000_0000 + MOVED

    with open_core(core) as opened:
        frames = KernelNames(opened, tmp_path).frames(
            [start + 0x1010, start + 0x2000, start - 4, start + (1 << 30), 0x40_0000]
        )

    assert [frame.symbol for frame in frames] == [
        "do_work+0x10", "weak_one+0x0", None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "nonsense T here\n", "one two\n"])
def test_map_that_is_none_names_nothing(core: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / SYSTEM_MAP).write_text(text)

    with open_core(core) as opened:
        (frame,) = KernelNames(opened, tmp_path).frames([0xFFFF_8000_8000_1000])

    assert frame.symbol is None
