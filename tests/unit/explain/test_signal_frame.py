"""Faults that a handler was told of, found on its stack."""

import struct
from pathlib import Path

import pytest

from tagalong.explain.analysis import explain
from tagalong.explain.crash import CheckMode, NoMemory
from tagalong.explain.explanation import Cause
from tagalong.explain.readers import open_crashes
from tagalong.explain.signal_frame import FRAME, find_signal_frame
from tests.support.core_builder import (
    CoreBuilder,
    auxv,
    load,
    note,
    prstatus,
    tag_segment,
    tagged_addr_ctrl,
)

STACK, HEAP, CODE = 0x7F_0000, 0x50_0000, 0x40_0000
NT_SIGINFO = 0x5349_4749
STORE = 0xF900_0020  # str x0, [x1]


def frame(
    code: int = 9,
    *,
    signal: int = 11,
    address: int = HEAP + 32,
    pointer: int = HEAP + 32 | 3 << 56,
    syndrome: int = 0x9200_0051,
) -> bytes:
    """Return the frame of a store through x1 at CODE; `signal` 0: no siginfo was asked for."""
    x = [0, pointer, *range(29)]
    head = FRAME.pack(
        si_signo=signal, si_errno=0, si_code=code, pad=bytes(4), si_addr=address,
        siginfo_rest=bytes(104), uc_flags=0, uc_link=0, uc_stack=bytes(24), uc_sigmask=0,
        unused=bytes(128), fault_address=address, x=struct.pack("<31Q", *x), sp=STACK + 0x900,
        pc=CODE, pstate=0, pad2=bytes(8), magic=0x4650_8001, record_bytes=528,
    )  # fmt: skip
    esr = struct.pack("<IIQ", 0x4553_5201, 16, syndrome) if syndrome else b""
    return head + bytes(520) + esr + bytes(16)


def core(path: Path, content: bytes, *, signal: int = 6, code: int = -6) -> Path:
    """Write the core of a process that ended by a signal, with `content` on its stack."""
    info = struct.pack("<iiii", signal, 0, code, 0) + bytes(112)
    notes = prstatus(signal=signal, pc=0x1000) + note(b"CORE", NT_SIGINFO, info)
    heap = [load(HEAP, bytes(4096)), tag_segment(HEAP, b"\x33\x55" + bytes(126))]
    stack = bytes(0x140) + content
    memory = [load(CODE, STORE.to_bytes(4, "little").ljust(4096, b"\0")), *heap,
              load(STACK, stack.ljust(8192, b"\0"))]  # fmt: skip
    path.write_bytes(CoreBuilder(memory, notes + auxv() + tagged_addr_ctrl()).build())
    return path


def test_fault_that_a_handler_turned_into_an_abort_is_explained(tmp_path: Path) -> None:
    with open_crashes(core(tmp_path / "core", frame())) as (crash,):
        found = explain(crash)

    fault = crash.fault
    assert (fault.mode, fault.address, fault.pointer_tag) == (CheckMode.SYNC, HEAP + 32, 3)
    assert fault.reason == "SIGSEGV, SEGV_MTESERR, handled, then signal 6, code -6"
    assert crash.registers is not None
    assert (crash.registers["pc"], crash.registers["sp"]) == (CODE, STACK + 0x900)
    assert crash.access is not None
    assert crash.access.text == "str x0, [x1]"
    assert found.top is not None
    assert (found.top.cause, found.top.distance_bytes) == (Cause.OVERFLOW, 0)
    assert any("left on the stack" in text for text in crash.notes)


def test_signal_that_a_handler_sent_again_keeps_its_fault(tmp_path: Path) -> None:
    with open_crashes(core(tmp_path / "core", frame(), signal=11)) as (crash,):
        assert crash.fault.address == HEAP + 32


def test_handler_that_asked_for_no_details_leaves_the_fault_all_the_same(tmp_path: Path) -> None:
    with open_crashes(core(tmp_path / "core", frame(0, signal=0))) as (crash,):
        assert (crash.fault.address, crash.fault.pointer_tag) == (HEAP + 32, 3)


def test_asynchronous_fault_that_was_handled_has_no_place(tmp_path: Path) -> None:
    with open_crashes(core(tmp_path / "core", frame(8, address=0, syndrome=0))) as (crash,):
        assert crash.fault.mode is CheckMode.ASYNC


@pytest.mark.parametrize(
    "content",
    [
        b"", frame()[:590], frame(1), frame(1, signal=10), frame(syndrome=0), bytes(8) + frame(),
        frame(syndrome=0x9200_0007),
    ],
    ids=["nothing", "cut", "code", "signal", "no ESR", "not aligned", "translation"],
)  # fmt: skip
def test_stack_without_a_frame_of_a_tag_check_has_none(tmp_path: Path, content: bytes) -> None:
    with open_crashes(core(tmp_path / "core", content)) as (crash,):
        assert crash.fault.mode is CheckMode.NONE


def test_memory_without_a_stack_has_no_frame() -> None:
    assert find_signal_frame(NoMemory(), STACK) is None


def test_frame_that_the_core_s_own_signal_makes_stale_is_not_looked_for(tmp_path: Path) -> None:
    """The notes tell of a tag check themselves: what a handler was told earlier is past."""
    path = core(tmp_path / "core", frame(address=HEAP), signal=11, code=9)

    with open_crashes(path) as (crash,):
        assert crash.fault.address == 0
