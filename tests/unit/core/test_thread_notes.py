"""What debuggers read of a vCPU: registers, and the word that says how tags are checked."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.core.thread_notes import (
    FPREGSET,
    PRSTATUS,
    tagged_address_control,
)
from tagalong.machine import register_ids as ids
from tagalong.mte.version import MteVersion
from tests.support.cores import SCTLR, TCR, notes, registers, write_core

EL0 = 0x0
EL1T = 0x4
SCTLR_TCF0_ASYNC = SCTLR | 2 << 38
SCTLR_TCF_ASYMMETRIC = SCTLR & ~(3 << 40) | 3 << 40


def test_notes_have_the_sizes_of_linux() -> None:
    assert (PRSTATUS.size, FPREGSET.size) == (392, 528)
    assert PRSTATUS.offsets["pr_pid"] == 32
    assert PRSTATUS.offsets["pr_reg"] == 112


def test_vcpus_read_back_are_the_machine_state(tmp_path: Path) -> None:
    about = notes(vcpus=3, changes={"FPSR": 0x55, "FPCR": 0x66}, more={ids.v(31): 1 << 127})
    path = tmp_path / "vm.core"
    write_core(path, about, [])

    with open_core(path) as core:
        read = core.vcpus

    assert [vcpu.thread for vcpu in read] == [1, 2, 3]
    for number, vcpu in enumerate(read):
        assert vcpu.x == tuple(0x100 * (number + 1) + n for n in range(31))
        assert vcpu.sp == 0x4010_0000 + number
        assert vcpu.pc == 0x4020_0000 + 4 * number
        assert vcpu.v is not None
        assert vcpu.v[31] == 1 << 127
        assert (vcpu.fpsr, vcpu.fpcr) == (0x55, 0x66)


@pytest.mark.parametrize(("pstate", "sp"), [(EL0, 0xE0), (EL1T, 0xE0), (0x3C5, 0x4010_0000)])
def test_stack_pointer_is_the_one_in_use(tmp_path: Path, pstate: int, sp: int) -> None:
    path = tmp_path / "vm.core"
    write_core(path, notes(changes={"PSTATE": pstate}), [])

    with open_core(path) as core:
        assert core.vcpus[0].sp == sp


@pytest.mark.parametrize(
    ("version", "changes", "control"),
    [
        (3, {}, 0x1 | 0x2 | 0xFFFE << 3),
        (3, {"GCR_EL1": 0x1_FFFF}, 0x1 | 0x2),
        (3, {"PSTATE": EL0}, 0x1 | 0xFFFE << 3),
        (3, {"PSTATE": EL0, "SCTLR_EL1": SCTLR_TCF0_ASYNC}, 0x1 | 0x4 | 0xFFFE << 3),
        (3, {"SCTLR_EL1": SCTLR_TCF_ASYMMETRIC}, 0x1 | 0x2 | 0x4 | 0xFFFE << 3),
        (3, {"TCR_EL1": 0}, 0x2 | 0xFFFE << 3),
        (0, {}, 0x1),
        (0, {"TCR_EL1": TCR & ~(3 << 37)}, 0x0),
    ],
)
def test_tagged_address_control_says_what_the_registers_say(
    version: int, changes: dict[str, int], control: int
) -> None:
    assert tagged_address_control(registers(0, **changes), MteVersion(version)) == control


@pytest.mark.parametrize(("version", "hwcap2"), [(0, 0), (2, 1 << 18), (3, 1 << 18 | 1 << 22)])
def test_auxiliary_vector_says_what_the_machine_has(
    tmp_path: Path, version: int, hwcap2: int
) -> None:
    path = tmp_path / "vm.core"
    write_core(path, notes(16384, mte_version=version, page_size_bytes=16384), [])

    with open_core(path) as core:
        assert core.auxiliary_vector == {6: 16384, 26: hwcap2}
        assert len(core.tag_segments) == (version > 0)


def test_vcpu_without_floating_point_has_zero_there(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    write_core(path, notes(), [])

    with open_core(path) as core:
        assert core.vcpus[0].v == (0,) * 32
        assert (core.vcpus[0].fpsr, core.vcpus[0].fpcr) == (0, 0)
