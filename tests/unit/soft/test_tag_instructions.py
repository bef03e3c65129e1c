"""The interpreter's tag instructions against tagalong.mte, their readable definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tagalong.mte import pointers, tags
from tagalong.mte.checks import Access, tag_check_mode
from tagalong.mte.registers import Gcr, Pstate, Rgsr, Sctlr, TagCheckMode, Tcr
from tagalong.soft import RAM_GPA
from tests.support import a64, bare

U64 = st.integers(0, (1 << 64) - 1)
U16 = st.integers(0, (1 << 16) - 1)
TAG = st.integers(0, 15)

SYNC_READ_FAULT, SYNC_WRITE_FAULT = 0x96000011, 0x96000051


def run_one(word: int, values: dict[int, int], **registers: int) -> dict[str, int]:
    machine = bare.machine_with([word])
    bare.set_x(machine, values)
    for name, value in registers.items():
        machine.vcpus[0].set_register(getattr(register_ids, name), value)
    machine.vcpus[0].step(1)
    result = {
        "x0": bare.get_x(machine, 0),
        "nzcv": bare.get(machine, register_ids.PSTATE) >> 28,
        "rgsr": bare.get(machine, register_ids.RGSR_EL1),
    }
    machine.close()
    return result


@settings(max_examples=150, deadline=None)
@given(pointer=U64, xm=U16, exclude=U16, tag=TAG, seed=U16)
def test_irg_any_state_equals_the_model(
    pointer: int, xm: int, exclude: int, tag: int, seed: int
) -> None:
    rgsr = Rgsr(tag=tag, seed=seed)

    got = run_one(
        a64.irg(0, 1, 2),
        {1: pointer, 2: xm},
        GCR_EL1=Gcr(exclude=exclude).to_bits(),
        RGSR_EL1=rgsr.to_bits(),
    )
    expected, after = pointers.irg(pointer, xm | exclude, rgsr)

    assert (got["x0"], got["rgsr"]) == (expected, after.to_bits())


@settings(max_examples=50, deadline=None)
@given(xm=U16, seed=U16)
def test_irg_with_rrnd_never_draws_an_excluded_tag(xm: int, seed: int) -> None:
    got = run_one(
        a64.irg(0, 1, 2),
        {1: 0, 2: xm},
        GCR_EL1=Gcr(rrnd=True).to_bits(),
        RGSR_EL1=Rgsr(seed=seed).to_bits(),
    )

    tag = pointers.logical_tag(got["x0"])
    assert not xm >> tag & 1 or xm == 0xFFFF


@settings(max_examples=100, deadline=None)
@given(pointer=U64, offset=st.integers(0, 63), tag_offset=TAG, exclude=U16)
def test_addg_subg_any_operands_equal_the_model(
    pointer: int, offset: int, tag_offset: int, exclude: int
) -> None:
    gcr = {"GCR_EL1": exclude}

    added = run_one(a64.addg(0, 1, offset * 16, tag_offset), {1: pointer}, **gcr)
    subtracted = run_one(a64.subg(0, 1, offset * 16, tag_offset), {1: pointer}, **gcr)

    assert added["x0"] == pointers.addg(pointer, offset * 16, tag_offset, exclude)
    assert subtracted["x0"] == pointers.subg(pointer, offset * 16, tag_offset, exclude)


@settings(max_examples=100, deadline=None)
@given(a=U64, b=U64)
def test_subps_gmi_any_operands_equal_the_model(a: int, b: int) -> None:
    difference, flags = pointers.subps(a, b)

    got = run_one(a64.subp(0, 1, 2, 1), {1: a, 2: b})
    plain = run_one(a64.subp(0, 1, 2), {1: a, 2: b})
    mask = run_one(a64.gmi(0, 1, 2), {1: a, 2: b})

    nzcv = flags.negative << 3 | flags.zero << 2 | flags.carry << 1 | flags.overflow
    assert (got["x0"], got["nzcv"]) == (difference, nzcv)
    assert plain["x0"] == pointers.subp(a, b) == difference
    assert mask["x0"] == pointers.gmi(a, b)


@settings(max_examples=300, deadline=None)
@given(
    mode=st.sampled_from(TagCheckMode),
    write=st.booleans(),
    granule_tag=TAG,
    pointer_tag=TAG,
    tco=st.booleans(),
    tcma0=st.booleans(),
    tbi0=st.booleans(),
    ata=st.booleans(),
    stack=st.booleans(),
)
def test_access_any_checking_state_does_what_the_model_says(
    mode: TagCheckMode,
    write: bool,
    granule_tag: int,
    pointer_tag: int,
    tco: bool,
    tcma0: bool,
    tbi0: bool,
    ata: bool,
    stack: bool,
) -> None:
    if not tbi0:
        pointer_tag = 0  # any other is not an address then
    base = a64.SP if stack else 1
    machine = bare.machine_with([a64.str_(2, base) if write else a64.ldr(2, base)])
    address = bare.tagged(bare.DATA, pointer_tag)
    packed = tags.pack(np.full(256, granule_tag, np.uint8))
    machine.write_tags(Gpa(bare.DATA), packed)
    machine.memory.write(Gpa(bare.DATA), bytes(range(8)))
    sctlr = Sctlr.from_bits(bare.sctlr(mode) & ~bare.SCTLR_ATA | ata << 43)
    tcr = Tcr.from_bits(bare.TCR & ~(1 << 37) | tbi0 << 37 | tcma0 << 57)
    vcpu = machine.vcpus[0]
    vcpu.set_register(register_ids.SCTLR_EL1, sctlr.to_bits())
    vcpu.set_register(register_ids.TCR_EL1, tcr.to_bits())
    vcpu.set_register(register_ids.PSTATE, 0x3C5 | tco << 25)
    vcpu.set_register(register_ids.SP_EL1, address)
    bare.set_x(machine, {1: address, 2: 0xAAAA})

    vcpu.step(1)

    access = Access(pointer=address, sp_immediate=stack)
    effect = tag_check_mode(access, sctlr=sctlr, tcr=tcr, pstate=Pstate(el=1, tco=tco))
    mismatch = granule_tag != pointer_tag
    sync = effect is TagCheckMode.SYNC or (effect is TagCheckMode.ASYMMETRIC and not write)
    faults = mismatch and sync
    accumulates = mismatch and not sync and effect is not TagCheckMode.NONE
    assert bare.get(machine, register_ids.TFSR_EL1) == int(accumulates)
    if faults:
        assert bare.get(machine, register_ids.PC) == bare.CURRENT_EL_VECTOR
        assert bare.get(machine, register_ids.ESR_EL1) == (
            SYNC_WRITE_FAULT if write else SYNC_READ_FAULT
        )
        assert bare.get(machine, register_ids.FAR_EL1) == address
        assert machine.memory.read(Gpa(bare.DATA), 8) == bytes(range(8))
    else:
        assert bare.get(machine, register_ids.PC) == bare.CODE + 4
        stored = int.from_bytes(machine.memory.read(Gpa(bare.DATA), 8), "little")
        assert (stored if write else bare.get_x(machine, 2)) == (
            0xAAAA if write else int.from_bytes(bytes(range(8)), "little")
        )
    machine.close()


@pytest.mark.parametrize("offset", [0, 16, 4080])
@pytest.mark.parametrize(
    ("form", "granules", "zeroes"),
    [(a64.STG, 1, False), (a64.STZG, 1, True), (a64.ST2G, 2, False), (a64.STZ2G, 2, True)],
)
def test_tag_stores_set_their_granules_and_no_other(
    form: int, granules: int, zeroes: bool, offset: int
) -> None:
    machine = bare.machine_with([a64.tag_store(form, a64.POST, 1, 1, 32)])
    region = machine.memory.regions[0]
    start = bare.DATA - RAM_GPA + offset
    region.raw_data[start - 16 : start + 48] = 0xEE
    bare.set_x(machine, {1: bare.tagged(bare.DATA + offset, 9)})

    machine.vcpus[0].step(1)

    around = tags.unpack(region.tags)[start // 16 - 1 : start // 16 + 3].tolist()
    assert around == [0, *([9] * granules), *([0] * (3 - granules))]
    data = region.data[start - 16 : start + 48]
    assert int((data == 0).sum()) == (granules * 16 if zeroes else 0)
    assert bare.get_x(machine, 1) == bare.tagged(bare.DATA + offset + 32, 9)
    machine.close()


def test_ldgm_stgm_stzgm_move_whole_blocks() -> None:
    block = int.from_bytes(bytes(range(0x10, 0x18)), "little")
    machine = bare.machine_with([a64.stgm(2, 1), a64.ldgm(3, 1), a64.stzgm(4, 5)])
    region = machine.memory.regions[0]
    region.raw_data[bare.DATA - RAM_GPA :][:4096] = 1
    bare.set_x(machine, {1: bare.DATA + 40, 2: block, 4: 0x17, 5: bare.DATA + 1024 + 300})

    machine.vcpus[0].step(3)

    packed = machine.read_tags(Gpa(bare.DATA), 4096)
    assert bytes(packed[:8]) == bytes(range(0x10, 0x18))
    assert bare.get_x(machine, 3) == block
    assert set(packed[32:48]) == {0x77}
    assert set(packed[48:]) == {0}
    zeroed = machine.memory.read(Gpa(bare.DATA), 4096)
    assert zeroed == bytes([1] * 1024 + [0] * 512 + [1] * 2560)
    machine.close()


def test_stg_misaligned_address_is_an_alignment_fault() -> None:
    machine = bare.machine_with([a64.stg(1, 1)])
    bare.set_x(machine, {1: bare.DATA + 8})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.ESR_EL1) == 0x96000061
    assert bare.get(machine, register_ids.FAR_EL1) == bare.DATA + 8
    machine.close()
