"""Files of a real QEMU become cores: data, tags and registers are those that QEMU shows.

And drgn reads the kernel of a Linux guest in one, with its tags.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.migrate.qemu import find_qemu
from tagalong._native import LIBRARY_FOLDER
from tagalong.boot import guest_image_path
from tagalong.core import Core, Space, open_core
from tagalong.core.check import check_core
from tagalong.core.pages import CorePages
from tagalong.explain.kernel_names import KernelNames
from tagalong.lab.cpio import CpioWriter
from tagalong.machine import VcpuState, register_ids
from tagalong.qemu import QemuFile, convert, dump_process
from tagalong.snapshot import SaveOptions, StillMachine, dump_core, dump_machine
from tests.support.linux_guest import linux_guest
from tests.support.qemu_process import EmulatedGuest

RAM = 0x4000_0000
MIB = 1 << 20
CHURN_RAM = 16 * MIB


@pytest.fixture(scope="module", autouse=True)
def qemu() -> None:
    try:
        find_qemu()
    except SystemExit as error:
        pytest.skip(f"missing qemu-system-aarch64: {error}")


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedGuest]:
    folder = tmp_path_factory.mktemp("churn")
    with EmulatedGuest(folder, "16M", guest_image_path("churn")) as guest:
        guest.wait_for("churn: progress")
        yield guest


def require_equal(core: Core, guest: EmulatedGuest) -> None:
    """Assert that a core holds what QEMU shows of its paused guest."""
    assert core.data(RAM, CHURN_RAM).tobytes() == guest.data(RAM, CHURN_RAM)
    tags = guest.packed_tags()
    assert np.count_nonzero(tags) > 1000
    assert np.array_equal(core.tags(RAM, CHURN_RAM), tags)
    require_registers(core, guest)


def require_registers(core: Core, guest: EmulatedGuest) -> None:
    shown = guest.registers()
    assert len(shown) == 2
    for vcpu, registers in zip(core.vcpus, shown, strict=True):
        assert (vcpu.pc, vcpu.sp, vcpu.pstate) == tuple(
            registers[n] for n in ("PC", "SP", "PSTATE")
        )
        assert list(vcpu.x) == [registers[f"X{number:02}"] for number in range(31)]


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("plain", {"mapped-ram": False, "multifd": False}),
        ("mapped", {"mapped-ram": True, "multifd": False}),
        ("mapped-multifd", {"mapped-ram": True, "multifd": True}),
    ],
)
def test_core_of_a_file_has_what_qemu_shows(
    name: str, capabilities: dict[str, bool], churn: EmulatedGuest, tmp_path: Path
) -> None:
    saved = churn.save(name, **capabilities)

    convert(QemuFile(saved), tmp_path / "vm.core")

    with open_core(tmp_path / "vm.core") as core:
        require_equal(core, churn)
    saved.unlink()


def test_dump_of_a_qemu_that_runs_has_what_it_shows(tmp_path: Path) -> None:
    monitor, core_path = tmp_path / "second-qmp", tmp_path / "vm.core"
    options = [
        "-object", f"memory-backend-memfd,id=m,size={CHURN_RAM},share=on",
        "-machine", "memory-backend=m", "-qmp", f"unix:{monitor},server=on,wait=off",
    ]  # fmt: skip
    with EmulatedGuest(tmp_path, "16M", guest_image_path("churn"), options) as guest:
        guest.wait_for("churn: progress")
        running = dump_process(guest.pid, core_path, monitor=monitor)
        assert guest.ask("query-status")["running"]
        guest.ask("stop")
        paused = dump_process(guest.pid, core_path, monitor=monitor)
        assert not guest.ask("query-status")["running"]
        with open_core(core_path) as core:
            assert core.data(RAM, CHURN_RAM).tobytes() == guest.data(RAM, CHURN_RAM)
            require_registers(core, guest)

    assert running.pause == "the guest was paused meanwhile"
    assert (paused.pause, paused.layout) == ("the guest did not run", "by QEMU's monitor")
    assert "use `tagalong convert`" in paused.tags


def write_initrd(path: Path) -> None:
    """Write a root file system whose first and only program lives on its tags."""
    with path.open("wb") as out:
        writer = CpioWriter(out)
        writer.add_character_device("dev/console", 5, 1)
        writer.add_file(
            "init", (LIBRARY_FOLDER / "linux" / "tagkeeper").read_bytes(), permissions=0o755
        )
        writer.close()


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a core of a Linux guest whose process has tagged memory."""
    kernel, _ = linux_guest()
    folder = tmp_path_factory.mktemp("linux")
    write_initrd(folder / "initrd")
    arguments = "console=ttyAMA0 panic=0 cryptomgr.notests quiet -- mib=1 threads=2 rate=100"
    options = ["-initrd", str(folder / "initrd"), "-append", arguments]
    with EmulatedGuest(folder, "128M", kernel, options) as guest:
        guest.wait_for("tagkeeper: progress")
        saved = guest.save("linux")
    convert(QemuFile(saved), folder / "linux.core")
    saved.unlink()
    return folder / "linux.core"


def test_core_of_a_linux_guest_says_which_kernel_it_is(linux: Path) -> None:
    with open_core(linux) as core:
        assert core.vmcoreinfo is not None
        assert core.vmcoreinfo.kernel_offset
        verdict = check_core(core).kernel

    assert verdict is not None
    assert verdict.opens


@pytest.mark.parametrize("space", [Space.PHYSICAL, Space.KERNEL])
def test_drgn_reads_the_kernel_of_a_linux_guest(linux: Path, space: Space, tmp_path: Path) -> None:
    tags = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    path = tmp_path / "guest.core"
    dump_core(linux, path, SaveOptions(space=space))

    program = tags.open_program(path)
    tags.load_symbols(program)

    with open_core(path) as core:
        assert core.vmcoreinfo is not None
        names = program.read(program.symbol("init_uts_ns").address, 400)
        assert core.vmcoreinfo.osrelease.encode() in names
        table = program.symbol("swapper_pg_dir").address
        if space is Space.PHYSICAL:
            assert tags.physical_address(program, table) == core.vmcoreinfo.kernel_table


def test_explain_names_functions_of_the_kernel_as_drgn_does(linux: Path) -> None:
    tags = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    program = tags.open_program(linux)
    tags.load_symbols(program)
    start = program.symbol("vfs_read").address

    with open_core(linux) as core:
        names = KernelNames(core, None)
        frames = names.frames([start + 8, start, 0x40_0000])

    # All but the first are return addresses: one at a function's start is the call before it.
    assert frames[0].symbol == "vfs_read+0x8"
    assert frames[1].symbol is not None
    assert not frames[1].symbol.startswith("vfs_read")
    assert frames[2].symbol is None
    assert names.notes == ()


def test_drgn_translates_without_system_registers_as_with_them(linux: Path, tmp_path: Path) -> None:
    tags = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    bare = tmp_path / "bare.core"
    with open_core(linux) as core:
        assert core.machine is not None
        without = tuple(VcpuState({}, vcpu.power) for vcpu in core.machine.state.vcpus)
        state = replace(core.machine.state, vcpus=without)
        pages = CorePages(core, linux)
        dump_machine(StillMachine(core.machine.description, state, pages), bare)

    found = []
    for path in (linux, bare):
        program = tags.open_program(path)
        tags.load_symbols(program)
        names = ("swapper_pg_dir", "init_uts_ns", "vfs_read")
        places = [program.symbol(name).address for name in names]
        found.append([tags.physical_address(program, place) for place in places])
    assert found[0] == found[1]


def test_drgn_shows_the_tags_of_a_linux_process(linux: Path, tmp_path: Path) -> None:
    tags = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    program = tags.open_program(linux)
    with open_core(linux) as core:
        assert core.machine is not None
        vcpu, state = next(
            (number, each)
            for number, each in enumerate(core.machine.state.vcpus)
            if not each.registers[register_ids.TTBR0_EL1] & 1 << 63
        )
    dump_core(linux, tmp_path / "user.core", SaveOptions(space=Space.USER, vcpu=vcpu))

    with open_core(tmp_path / "user.core") as user:
        regions = [each for each in user.regions if each.has_tags]
        assert sum(each.size_bytes for each in regions) >= MIB
        expected = {each.address: user.granule_tags(each.address, 4096) for each in regions}
    assert state.registers[register_ids.TTBR0_EL1]
    seen = 0
    for address, tags_there in expected.items():
        runs = tags.tag_runs(program, address, 4096, vcpu=vcpu)
        found = [run.tag for run in runs for _ in range(run.start, run.end, 16)]
        assert found == tags_there.tolist()
        seen += int(np.count_nonzero(tags_there))
    assert seen > 100
