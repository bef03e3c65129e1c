"""A Linux guest's VMCOREINFO is found in its memory, and nothing else is taken for it."""

from pathlib import Path

import pytest

from tagalong.core import Space, open_core
from tagalong.machine import Machine, RegisterId, register_ids
from tagalong.memory import Gpa
from tagalong.snapshot import SaveOptions, dump_core, save
from tagalong.soft import SoftMachine
from tests.support.vmcoreinfo import TABLE_OFFSET, vmcoreinfo

RAM = 0x4000_0000
MIB = 1 << 20
PLACE = Gpa(RAM + 5 * MIB + 0x7000)
FAR = RAM + (64 << 20)


def guest(*texts: tuple[int, bytes], ram_bytes: int = 8 * MIB) -> SoftMachine:
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    for gpa, text in texts:
        machine.memory.write(Gpa(gpa), text)
    return machine


def found(machine: Machine, folder: Path, options: SaveOptions | None = None) -> bytes | None:
    path = folder / "vm.core"
    save(machine, path, options)
    with open_core(path) as core:
        return core.vmcoreinfo.text if core.vmcoreinfo else None


@pytest.mark.parametrize("live", [False, True])
def test_save_finds_vmcoreinfo(tmp_path: Path, live: bool) -> None:
    machine = guest((PLACE, vmcoreinfo()))

    assert found(machine, tmp_path, SaveOptions(live=live)) == vmcoreinfo()


def test_save_of_a_guest_without_it_writes_no_note(tmp_path: Path) -> None:
    assert found(guest((PLACE, b"something else")), tmp_path) is None


@pytest.mark.parametrize(
    ("gpa", "text"),
    [
        (PLACE + 8, vmcoreinfo()),
        (PLACE, vmcoreinfo()[:-1]),
        (PLACE, vmcoreinfo(FAR)),
        (PLACE, vmcoreinfo().replace(b"4096", b"4097")),
        (RAM + 8 * MIB - 4096, vmcoreinfo().ljust(4096, b"x")),
    ],
    ids=["not at a page", "without an end", "tables not in RAM", "no page size", "end of RAM"],
)
def test_save_takes_nothing_else_for_it(gpa: int, text: bytes, tmp_path: Path) -> None:
    assert found(guest((gpa, text)), tmp_path) is None


def test_save_with_the_same_text_twice_takes_it(tmp_path: Path) -> None:
    machine = guest((PLACE, vmcoreinfo()), (PLACE + 0x9000, vmcoreinfo()))

    assert found(machine, tmp_path) == vmcoreinfo()


def test_save_with_two_texts_takes_the_one_whose_tables_are_used(tmp_path: Path) -> None:
    old = vmcoreinfo(RAM + MIB, release="6.1-before-kexec")
    machine = guest((PLACE, old), (PLACE + 0x9000, vmcoreinfo()))
    with_asid = 0x12 << 48 | RAM + TABLE_OFFSET | 1
    machine.vcpus[0].set_register(RegisterId(register_ids.TTBR1_EL1), with_asid)

    assert found(machine, tmp_path) == vmcoreinfo()


def test_save_with_two_texts_that_could_both_be_takes_none(tmp_path: Path) -> None:
    machine = guest((PLACE, vmcoreinfo(release="1")), (PLACE + 0x9000, vmcoreinfo(release="2")))

    assert found(machine, tmp_path) is None


def test_save_of_a_large_sparse_guest_looks_at_used_pages_alone(tmp_path: Path) -> None:
    machine = guest((FAR, vmcoreinfo()), ram_bytes=16 << 30)

    report = save(machine, tmp_path / "vm.core")

    assert report.copied_bytes < MIB
    with open_core(tmp_path / "vm.core") as core:
        assert core.vmcoreinfo is not None


def test_save_of_user_addresses_is_no_core_of_a_kernel(tmp_path: Path) -> None:
    source = tmp_path / "source.core"
    machine = guest((PLACE, vmcoreinfo()))
    # One table that maps the first GiB of RAM, by the user's half.
    table = RAM + 0x10_0000
    machine.memory.write(Gpa(table), (RAM | 0x701).to_bytes(8, "little"))
    for name, value in (("SCTLR_EL1", 1), ("TCR_EL1", 0x19 | 1 << 23), ("TTBR0_EL1", table)):
        machine.vcpus[0].set_register(getattr(register_ids, name), value)
    save(machine, source)

    dump_core(source, tmp_path / "user.core", SaveOptions(space=Space.USER))

    with open_core(source) as core, open_core(tmp_path / "user.core") as user:
        assert core.vmcoreinfo is not None
        assert user.vmcoreinfo is None


@pytest.mark.parametrize(("pstate", "mapped"), [(0x0, 8 * MIB), (0x3C5, 4096)])
def test_dump_of_the_kernel_s_addresses_has_its_own_tables_while_a_program_runs(
    pstate: int, mapped: int, tmp_path: Path
) -> None:
    machine = guest((PLACE, vmcoreinfo()))
    isolated, second, third = (RAM + 0x10_0000 + 0x1000 * n for n in range(3))
    entries = {
        RAM + TABLE_OFFSET: RAM | 0x701,  # the first GiB
        isolated: second | 3,
        second: third | 3,
        third: RAM | 0x703,  # the first page
    }
    for table, entry in entries.items():
        machine.memory.write(Gpa(table), entry.to_bytes(8, "little"))
    values = {"SCTLR_EL1": 1, "TCR_EL1": 25 << 16 | 2 << 30, "TTBR1_EL1": isolated}
    for name, value in {**values, "PSTATE": pstate}.items():
        machine.vcpus[0].set_register(getattr(register_ids, name), value)

    report = save(machine, tmp_path / "kernel.core", SaveOptions(space=Space.KERNEL))

    assert report.segments == 1
    with open_core(tmp_path / "kernel.core") as core:
        assert [(load.address, load.file_bytes) for load in core.loads] == [
            ((1 << 64) - (1 << 39), mapped)
        ]


def test_dump_of_a_core_finds_it_again(tmp_path: Path) -> None:
    save(guest((PLACE, vmcoreinfo())), tmp_path / "a.core")

    dump_core(tmp_path / "a.core", tmp_path / "b.core")

    with open_core(tmp_path / "b.core") as core:
        assert core.vmcoreinfo is not None
