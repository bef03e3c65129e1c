import pytest

from tagalong.studies.race.locality import REACH_BYTES, base_register, is_local, touches_memory
from tests.support import a64

MEMORY = {
    "ldr": a64.ldr(2, 1),
    "ldr pre": a64.ldst9(a64.LDR_X, a64.PRE, 2, 1, 8),
    "ldp": a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 2, 3, 1),
    "stp post": a64.pair(a64.STP_X, a64.PAIR_POST, 2, 3, 1, 16),
    "ldg": a64.ldg(2, 1),
    "stg": a64.stg(2, 1),
    "stz2g": a64.tag_store(a64.STZ2G, a64.POST, 2, 1, 32),
    "stgp": a64.stgp(a64.PAIR_OFFSET, 2, 3, 1),
    "ldgm": a64.ldgm(2, 1),
    "ldxr": a64.ldxr(3, 2, 1),
    "stxr": a64.stxr(3, 4, 2, 1),
    "ldar": a64.ldar(3, 2, 1),
    "cas": a64.cas(3, 2, 4, 1),
    "casp": a64.casp(1, 2, 4, 1),
    "ldadd": a64.atomic(3, a64.LDADD, 2, 4, 1),
    "ldapur": a64.ldapur((3, 1), 2, 1, 8),
}
MEMORY_OF_UNKNOWN_PLACE = {
    "ldr literal": a64.ldr_literal(1, 2, 8),
    "ldr register": a64.ldst_reg(a64.LDR_X, 2, 1, 3),
    "dc zva": a64.sys(a64.DC_ZVA, 1),
    "dc gva": a64.sys(a64.DC_GVA, 1),
}
NO_MEMORY = {
    "add": a64.add_imm(0, 0, 1),
    "mov": a64.mov(0, 1),
    "addg": a64.addg(0, 0, 16, 1),
    "irg": a64.irg(0, 0),
    "b": a64.b(8),
    "b.ne": a64.b_cond(a64.NE, 8),
    "cbz": a64.cbz(0, 8),
    "ret": a64.ret(),
    "adr": a64.adr(0, 8),
    "nop": a64.hint(0),
    "dsb": a64.barrier(4),
    "msr tco": a64.msr_tco(1),
    "mrs tco": a64.mrs(0, a64.TCO),
    "msr tco, x": a64.msr(a64.TCO, 0),
    "svc": a64.svc(),
    "udf": a64.udf(),
    "crc32x": a64.crc32(0, 1, 2, 3),
    "csel": a64.csel(0, 1, 2, a64.EQ),
}
PRIVATE = range(0x7000_0000_0000, 0x7001_0000_0000)


@pytest.mark.parametrize("name", [*MEMORY, *MEMORY_OF_UNKNOWN_PLACE])
def test_access_to_shared_memory_is_not_local(name: str) -> None:
    word = {**MEMORY, **MEMORY_OF_UNKNOWN_PLACE}[name]

    assert touches_memory(word)
    assert not is_local(word, lambda _: 0x2000_4000_0000, PRIVATE)


@pytest.mark.parametrize("name", list(MEMORY))
def test_access_through_a_private_base_is_local(name: str) -> None:
    asked = []

    def register(number: int) -> int:
        asked.append(number)
        return 0x7000_0080_0000 | 5 << 56

    assert is_local(MEMORY[name], register, PRIVATE)
    assert asked == [1]


@pytest.mark.parametrize("name", list(MEMORY_OF_UNKNOWN_PLACE))
def test_access_to_an_address_that_is_not_near_its_base_is_never_local(name: str) -> None:
    assert base_register(MEMORY_OF_UNKNOWN_PLACE[name]) is None
    assert not is_local(MEMORY_OF_UNKNOWN_PLACE[name], lambda _: 0x7000_0080_0000, PRIVATE)


@pytest.mark.parametrize("name", list(NO_MEMORY))
def test_instruction_without_memory_is_local(name: str) -> None:
    assert is_local(NO_MEMORY[name], lambda _: 0, range(0))


@pytest.mark.parametrize("base", [PRIVATE.start + REACH_BYTES - 1, PRIVATE.stop - REACH_BYTES])
def test_base_at_the_edge_of_private_memory_is_not_trusted(base: int) -> None:
    assert not is_local(MEMORY["ldr"], lambda _: base, PRIVATE)
    assert is_local(MEMORY["ldr"], lambda _: 0x7000_0080_0000, PRIVATE)
