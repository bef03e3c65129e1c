"""Breakpoints, watchpoints, software step and their registers (DDI 0487 D2, D23.3).

QEMU 10's system mode gave the same ESR, FAR and ELR for the watchpoints here, a breakpoint and a
step, except that its DC ZVA meets no watchpoint.
"""

from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tests.support import a64, bare
from tests.support.debugged import (
    AT_BOTH,
    AT_EL0,
    AT_EL1,
    CONTEXT,
    CONTEXTIDR,
    EL0,
    EL0_BLOCK,
    EL1,
    EL1_DEBUG,
    ENABLE,
    ISS,
    KDE,
    LINKED,
    LINKED_CONTEXT,
    LOAD,
    LOWER_EL_VECTOR,
    MDE,
    MDSCR,
    NOP,
    OSLSR,
    SECURE_ONLY,
    SPSR_SS,
    SS,
    STEP_EXCLUSIVE,
    STEP_VALID,
    STORE,
    WATCH_LINKED,
    WNR,
    bcr,
    bvr,
    elr,
    every_byte,
    machine,
    set_registers,
    syndrome,
    wcr,
    wvr,
)

# --- breakpoints ---


def test_breakpoint_is_taken_where_enabled_and_nowhere_else() -> None:
    at = bare.CODE + 8
    plain = {bvr(2): at, bcr(2): ENABLE | AT_BOTH | 0xF << 5, MDSCR: MDE | KDE}
    context = {CONTEXTIDR: 0x1235}
    for name, pstate, changes, taken in (
        ("at EL1", EL1_DEBUG, {}, True),
        ("at EL0", EL0, {}, True),
        ("the last breakpoint", EL1_DEBUG, {bcr(2): 0, bvr(5): at, bcr(5): plain[bcr(2)]}, True),
        ("PSTATE.D at EL1", EL1, {}, False),
        ("no KDE at EL1", EL1_DEBUG, {MDSCR: MDE}, False),
        ("no KDE at EL0", EL0, {MDSCR: MDE}, True),
        ("no MDE", EL0, {MDSCR: KDE}, False),
        ("the OS lock", EL0, {OSLSR: 0xA}, False),
        ("not enabled", EL0, {bcr(2): plain[bcr(2)] & ~ENABLE}, False),
        ("EL0 only, at EL1", EL1_DEBUG, {bcr(2): ENABLE | AT_EL0 | 0xF << 5}, False),
        ("EL0 only, at EL0", EL0, {bcr(2): ENABLE | AT_EL0 | 0xF << 5}, True),
        ("EL1 only, at EL0", EL0, {bcr(2): ENABLE | AT_EL1 | 0xF << 5}, False),
        ("Secure state only", EL0, {bcr(2): plain[bcr(2)] | SECURE_ONLY}, False),
        ("another address", EL0, {bvr(2): at + 0x1000}, False),
        (
            "linked to a context that agrees",
            EL0,
            {
                **context,
                bcr(2): plain[bcr(2)] | LINKED | 5 << 16,
                bvr(5): 0x1235,
                bcr(5): ENABLE | LINKED_CONTEXT | AT_BOTH | 0xF << 5,
            },
            True,
        ),
        (
            "linked to another context",
            EL0,
            {
                **context,
                bcr(2): plain[bcr(2)] | LINKED | 5 << 16,
                bvr(5): 0x1234,
                bcr(5): ENABLE | LINKED_CONTEXT | AT_BOTH | 0xF << 5,
            },
            False,
        ),
        ("linked to one that knows no context", EL0, {bcr(2): plain[bcr(2)] | LINKED}, False),
    ):
        with machine([NOP] * 8, {**plain, **changes}, pstate=pstate) as target:
            target.vcpus[0].step(6)

            if taken:
                vector = LOWER_EL_VECTOR if pstate == EL0 else bare.CURRENT_EL_VECTOR
                assert bare.get(target, register_ids.PC) == vector, name
                assert syndrome(target) == (0x30 if pstate == EL0 else 0x31, ISS), name
                assert elr(target) == at, name
            else:
                assert bare.get(target, register_ids.PC) == bare.CODE + 24, name


def test_breakpoint_on_a_context_is_taken_at_the_next_instruction() -> None:
    registers = {
        bvr(4): 0x77,
        bcr(4): ENABLE | CONTEXT | AT_BOTH | 0xF << 5,
        MDSCR: MDE | KDE,
        register_ids.x(1): 0x77,
    }
    with machine([NOP, a64.msr((3, 0, 13, 0, 1), 1), NOP], registers) as target:
        target.vcpus[0].step(5)

        assert syndrome(target) == (0x31, ISS)
        assert elr(target) == bare.CODE + 8


def test_breakpoint_that_the_guest_sets_on_code_that_already_ran_is_taken() -> None:
    words = [
        a64.cbz(3, 12, nonzero=1),
        a64.msr((2, 0, 0, 2, 2), 1),
        a64.msr((2, 0, 0, 0, 5), 2),
        a64.add_imm(3, 3, 1),
        a64.b(-16),
    ]
    registers = {
        bvr(0): bare.CODE,
        register_ids.x(1): MDE | KDE,
        register_ids.x(2): ENABLE | AT_EL1 | 0xF << 5,
        register_ids.x(3): 0,
    }
    with machine(words, registers) as target:
        target.vcpus[0].step(6)

        assert syndrome(target) == (0x31, ISS)
        assert elr(target) == bare.CODE
        assert bare.get_x(target, 3) == 1


def test_exit_for_an_instruction_on_a_page_with_a_breakpoint_still_names_it() -> None:
    hlt = 0xD45E0000
    registers = {bvr(0): bare.CODE + 64, bcr(0): ENABLE | AT_BOTH, MDSCR: MDE | KDE}
    with machine([hlt], registers) as target:
        target.resume()
        target.wait(30)

        assert "instruction 0xd45e0000" in str(target.failure)


# --- watchpoints ---


def test_watchpoint_is_taken_for_the_access_and_the_byte_that_it_names() -> None:
    data = bare.DATA
    both = ENABLE | AT_BOTH | LOAD | STORE
    load, store = a64.ldr(2, 1), a64.str_(2, 1)
    for name, word, address, value, control, far, wnr in (
        ("a load", load, data, data, both | every_byte(), data, 0),
        ("a store", store, data, data, both | every_byte(), data, WNR),
        ("its last byte", store, data - 7, data, both | every_byte(), data, WNR),
        ("one byte in the middle", store, data, data, both | every_byte(0x10), data + 4, WNR),
        ("a word's", store, data, data + 4, both | every_byte(0xF), data + 4, WNR),
        ("a store, not a load", load, data, data, ENABLE | AT_EL1 | STORE | every_byte(), None, 0),
        ("a load, not a store", store, data, data, ENABLE | AT_EL1 | LOAD | every_byte(), None, 0),
        ("another byte", a64.ldst(a64.STRB, 2, 1), data, data, both | every_byte(2), None, 0),
        ("the doubleword before", store, data, data - 8, both | every_byte(), None, 0),
        ("EL0's", store, data, data, ENABLE | AT_EL0 | STORE | every_byte(), None, 0),
        ("not enabled", store, data, data, (both | every_byte()) & ~1, None, 0),
        (
            "a range of 16 KiB",
            store,
            data + 0x3FF8,
            data,
            ENABLE | AT_EL1 | STORE | every_byte() | 14 << 24,
            data + 0x3FF8,
            WNR,
        ),
        ("past that range", store, data + 0x4000, data, both | every_byte() | 14 << 24, None, 0),
        (
            "across the end of a page",
            store,
            data + 0xFFC,
            data + 0x1000,
            both | every_byte(1),
            data + 0x1000,
            WNR,
        ),
        (
            "the second of a pair",
            a64.pair(a64.STP_X, a64.PAIR_OFFSET, 2, 3, 1),
            data,
            data + 8,
            both | every_byte(),
            data + 8,
            WNR,
        ),
        (
            "an atomic by its load",
            a64.atomic(3, a64.LDADD, 2, 3, 1),
            data,
            data,
            both | every_byte(),
            data,
            0,
        ),
        (
            "an atomic by its store",
            a64.atomic(3, a64.LDADD, 2, 3, 1),
            data,
            data,
            ENABLE | AT_EL1 | STORE | every_byte(),
            data,
            WNR,
        ),
        ("a tag store", a64.stg(1, 1), data, data + 8, both | every_byte(), data + 8, WNR),
        ("a tag load", a64.ldg(2, 1), data, data, both | every_byte(), data, 0),
        ("DC ZVA", a64.sys(a64.DC_ZVA, 1), data, data + 64, both | every_byte(), data, WNR),
        ("DC CVAC", a64.sys(a64.DC_CVAC, 1), data, data, both | every_byte(), None, 0),
    ):
        registers = {wvr(3): value, wcr(3): control, MDSCR: MDE | KDE}
        registers |= {register_ids.x(1): address, register_ids.x(2): 0x55}
        with machine([a64.ldst(a64.LDRB, 9, 10), word], registers) as target:
            # Every page has been used before, so that a TLB may have entries of them.
            bare.set_x(target, {10: address & ~0xFFF | 0x800})
            before = bytes(target.memory.read(Gpa(data - 8), 0x5000))
            target.vcpus[0].step(2)

            if far is None:
                assert bare.get(target, register_ids.PC) == bare.CODE + 8, name
                continue
            assert syndrome(target) == (0x35, ISS | wnr), name
            assert bare.get(target, register_ids.FAR_EL1) == far, name
            assert elr(target) == bare.CODE + 4, name
            assert bytes(target.memory.read(Gpa(data - 8), 0x5000)) == before, name


def test_watchpoint_takes_an_unprivileged_load_for_one_of_el0() -> None:
    for levels, taken in ((AT_EL0, True), (AT_EL1, False)):
        registers = {
            wvr(0): bare.DATA,
            wcr(0): ENABLE | levels | LOAD | every_byte(),
            MDSCR: MDE | KDE,
            register_ids.x(1): bare.DATA,
        }
        word = a64.ldst9(a64.LDR_X, a64.UNPRIVILEGED, 2, 1, 0)
        with machine([word], registers) as target:
            target.memory.write(Gpa(bare.TABLES + 8), EL0_BLOCK.to_bytes(8, "little"))
            target.vcpus[0].step(1)

            assert (bare.get(target, register_ids.PC) == bare.CURRENT_EL_VECTOR) == taken


def test_watchpoint_set_on_a_page_that_was_just_stored_to_is_taken() -> None:
    words = [a64.str_(2, 1), a64.msr((2, 0, 0, 0, 7), 3), a64.str_(2, 1)]
    registers = {
        wvr(0): bare.DATA,
        MDSCR: MDE | KDE,
        register_ids.x(1): bare.DATA,
        register_ids.x(2): 7,
        register_ids.x(3): ENABLE | AT_EL1 | STORE | every_byte(),
    }
    with machine(words, registers) as target:
        target.vcpus[0].step(4)

        assert syndrome(target) == (0x35, ISS | WNR)
        assert elr(target) == bare.CODE + 8


def test_watchpoint_linked_to_a_context_is_taken_in_that_context_only() -> None:
    for context, taken in ((0x9, True), (0x8, False)):
        registers = {
            wvr(0): bare.DATA,
            wcr(0): ENABLE | AT_EL1 | STORE | every_byte() | WATCH_LINKED | 4 << 16,
            bvr(4): 0x9,
            bcr(4): ENABLE | LINKED_CONTEXT | AT_BOTH | 0xF << 5,
            CONTEXTIDR: context,
            MDSCR: MDE | KDE,
            register_ids.x(1): bare.DATA,
        }
        with machine([a64.str_(2, 1)], registers) as target:
            target.vcpus[0].step(1)

            assert (bare.get(target, register_ids.PC) == bare.CURRENT_EL_VECTOR) == taken


def test_watchpoint_on_a_device_comes_before_the_access() -> None:
    registers = {
        wvr(0): 0x0900_0000,
        wcr(0): ENABLE | AT_EL1 | STORE | every_byte(1),
        MDSCR: MDE | KDE,
        register_ids.x(1): 0x0900_0000,
    }
    with machine([a64.ldst(a64.STRB, 2, 1)], registers) as target:
        target.vcpus[0].step(1)

        assert syndrome(target) == (0x35, ISS | WNR)


# --- software step ---


def test_step_from_el0_executes_one_instruction_and_comes_back() -> None:
    exclusive = a64.ldxr(3, 2, 1)
    for name, word, spsr, expected, returned_to in (
        ("plain", a64.add_imm(0, 0, 1), EL0, (0x32, ISS | STEP_VALID), 8),
        ("a branch", a64.b(16), EL0, (0x32, ISS | STEP_VALID), 20),
        ("exclusive", exclusive, EL0, (0x32, ISS | STEP_VALID | STEP_EXCLUSIVE), 8),
        ("a fault", a64.udf(), EL0 | SPSR_SS, (0x00, 0), 4),
        ("a call", a64.svc(5), EL0, (0x15, 5), 8),
    ):
        registers = {
            MDSCR: SS,
            register_ids.ELR_EL1: bare.CODE + 4,
            register_ids.SPSR_EL1: EL0 | SPSR_SS,
            register_ids.x(1): bare.DATA,
            register_ids.x(0): 41,
        }
        with machine([a64.eret(), word, a64.movz(0, 0), NOP, NOP, NOP], registers) as target:
            target.memory.write(Gpa(bare.TABLES + 8), EL0_BLOCK.to_bytes(8, "little"))
            target.vcpus[0].step(3)

            assert syndrome(target) == expected, name
            assert elr(target) == bare.CODE + returned_to, name
            assert bare.get(target, register_ids.SPSR_EL1) == spsr, name
            assert bare.get_x(target, 0) == (42 if name == "plain" else 41), name


def test_step_begins_with_the_exception_return_that_asks_for_it() -> None:
    for name, spsr, steps in (
        ("to EL1 with D clear", EL1_DEBUG | SPSR_SS, 1),
        ("without SPSR.SS: at once", EL1_DEBUG, 0),
        ("to EL1 with D set: never", EL1 | SPSR_SS, None),
    ):
        words = [a64.eret(), *[a64.add_imm(0, 0, 1)] * 6]
        registers = {
            MDSCR: SS | KDE,
            register_ids.ELR_EL1: bare.CODE + 4,
            register_ids.SPSR_EL1: spsr,
            register_ids.x(0): 0,
        }
        with machine(words, registers, pstate=EL1) as target:
            target.vcpus[0].step(5)

            if steps is None:
                assert bare.get_x(target, 0) == 4, name
                continue
            assert syndrome(target) == (0x33, ISS | (STEP_VALID if steps else 0)), name
            assert bare.get_x(target, 0) == steps, name
            assert elr(target) == bare.CODE + 4 + 4 * steps, name


def test_step_over_a_device_access_executes_it_once() -> None:
    output = bytearray()
    made = bare.machine_with([a64.ldst(a64.STRB, 2, 1), NOP], console=output.extend)
    set_registers(
        made,
        {
            MDSCR: SS | KDE,
            register_ids.PSTATE: EL1_DEBUG | SPSR_SS,
            register_ids.x(1): 0x0900_0000,
            register_ids.x(2): ord("x"),
        },
    )

    made.vcpus[0].step(2)

    assert bytes(output) == b"x"
    assert syndrome(made)[0] == 0x33
    assert elr(made) == bare.CODE + 4
    made.close()


def test_step_of_every_instruction_of_a_guest_gives_the_same_result() -> None:
    """A handler at EL1 that returns with SPSR.SS steps a whole loop, instruction by instruction."""
    words = [a64.add_imm(0, 0, 3), a64.sub_imm(1, 1, 1), a64.cbz(1, -8, nonzero=1), a64.b(0)]
    made = bare.machine_with(words)
    handler = [
        a64.mrs(10, a64.SPSR_EL1),
        a64.logical_imm(1, 10, 10, (1, 43, 0)),  # orr x10, x10, #1 << 21
        a64.msr(a64.SPSR_EL1, 10),
        a64.add_imm(11, 11, 1),
        a64.eret(),
    ]
    made.memory.write(Gpa(bare.CURRENT_EL_VECTOR), bare.encoded(handler))
    set_registers(
        made,
        {
            MDSCR: SS | KDE,
            register_ids.PSTATE: EL1_DEBUG | SPSR_SS,
            register_ids.x(0): 0,
            register_ids.x(1): 10,
            register_ids.x(11): 0,
        },
    )

    made.vcpus[0].step(30 * 6)

    assert (bare.get_x(made, 0), bare.get_x(made, 1)) == (30, 0)
    assert bare.get_x(made, 11) == 30
    made.close()
