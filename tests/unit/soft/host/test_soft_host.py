"""What the tests of tests/access do not ask of the embedded machine's host."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.access import STRATEGIES, Direction, Need, Routine, tagged_addr_ctrl
from tagalong.access.host import PSTATE_TCO
from tagalong.errors import AddressError, HostError, RunStateError, UsageError
from tagalong.memory import Gpa, GuestMemory, Region
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA, SoftMachine
from tagalong.soft.host import SoftHost
from tagalong.soft.host.process import CODE_VA, TAGGED_VA, Process
from tagalong.soft.native import NativeMachine
from tests.support import a64, bare
from tests.support.a64_code import Code

SYNC = tagged_addr_ctrl(TagCheckMode.SYNC)


@pytest.fixture
def machine() -> Iterator[SoftMachine]:
    made = SoftMachine.create(ram_bytes=1 << 20)
    yield made
    made.close()


def retagging_guest() -> SoftMachine:
    """Return a guest that gives the granules of a page one new tag after the other, for ever."""
    code = Code(bare.CODE)
    code.label("again")
    code.emit(a64.addg(1, 1, 0, 1), a64.mov(2, 1), a64.movz(3, 256))
    code.label("next")
    code.emit(a64.tag_store(a64.STG, a64.POST, 2, 2, 16), a64.sub_imm(3, 3, 1))
    code.branch("next", lambda offset: a64.cbz(3, offset, nonzero=1))
    code.branch("again")
    machine = bare.machine_with(code.words_of())
    bare.set_x(machine, {1: bare.DATA})
    return machine


def test_match_faults_and_no_other_strategy_does_while_the_guest_retags() -> None:
    machine = retagging_guest()
    host = machine.host
    host.set_tagged_addr_ctrl(SYNC)
    got = np.zeros(4096, np.uint8)
    machine.resume()

    faults = dict.fromkeys(STRATEGIES, 0)
    end = time.monotonic() + 30
    for name in STRATEGIES:
        strategy = STRATEGIES[name](host)
        for _ in range(50):
            faults[name] += strategy.read(Gpa(bare.DATA), got) is not None
    match = STRATEGIES["match"](host)
    while not faults["match"] and time.monotonic() < end:
        faults["match"] += match.read(Gpa(bare.DATA), got) is not None
    machine.pause()
    paused = [match.read(Gpa(bare.DATA), got) for _ in range(50)]
    host.set_tagged_addr_ctrl(0)
    machine.close()

    assert faults.pop("match") > 0
    assert set(faults.values()) == {0}
    assert paused == [None] * 50


def tag_and_look(pointer: int, rounds: int | None) -> list[int]:
    """Return code that sets one tag after the other and counts in x4 those it does not find."""
    code = Code(bare.CODE)
    code.label("again")
    code.emit(a64.addg(pointer, pointer, 0, 1), a64.stg(pointer, pointer))
    code.emit(a64.mov(2, pointer), a64.ldg(2, 2), a64.add_reg(3, pointer, 2, sub=1, s=1))
    code.emit(a64.csel(4, 4, 4, a64.EQ, op2=1), a64.add_imm(5, 5, 1))  # x4 + 1 unless equal
    if rounds is None:
        code.branch("again")
    else:
        code.emit(*a64.mov_value(6, rounds), a64.add_reg(a64.ZR, 5, 6, sub=1, s=1))
        code.branch("again", lambda offset: a64.b_cond(a64.NE, offset))
        code.emit(a64.ret())
    return code.words_of()


def test_tags_that_share_a_byte_survive_stores_of_guest_and_host_at_once() -> None:
    rounds = 5_000_000
    machine = bare.machine_with(tag_and_look(1, None))
    bare.set_x(machine, {1: bare.DATA, 4: 0, 5: 0})
    assert machine.host is not None  # from now on the guest's CPUs know that they are not alone
    native = NativeMachine(1, 0)
    native.add_ram(machine.memory.regions[0])
    native.share_tags()
    words = bare.encoded(tag_and_look(1, rounds))
    process = Process(native, 0, machine.memory.regions, words, 4096)
    process.enter(CODE_VA, (0, TAGGED_VA + bare.DATA + 16, 0, 0, 0, 0))
    machine.resume()

    returned = process.run().is_return
    machine.pause()
    lost = process.x(4), bare.get_x(machine, 4)
    counts = process.x(5), bare.get_x(machine, 5)
    native.close()
    process.close()
    machine.close()

    assert returned
    assert counts[0] == rounds
    assert counts[1] > 1000
    assert lost == (0, 0)


def test_threads_have_a_prctl_and_a_tco_of_their_own(machine: SoftMachine) -> None:
    host = machine.host
    host.set_tagged_addr_ctrl(SYNC)
    host.call(Routine.SET_TCO, PSTATE_TCO)
    seen = []

    def look() -> None:
        seen.append((host.get_tagged_addr_ctrl(), host.call(Routine.GET_TCO).value))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    look()

    assert seen == [(0, 0), (SYNC, PSTATE_TCO)]


def test_host_has_all_that_a_strategy_can_need(machine: SoftMachine) -> None:
    assert [machine.host.lacks(need) for need in Need] == [None] * len(Need)
    assert machine.host is machine.host
    assert machine.host.memory is machine.memory
    assert machine.host.largest_bytes >= 64 << 10


def test_borrowed_arrays_share_the_scratch_memory(machine: SoftMachine) -> None:
    host = machine.host
    big = np.zeros(host.largest_bytes, np.uint8)
    frozen = np.full(8, 7, np.uint8)
    frozen.flags.writeable = False

    with host.borrow(big) as first, host.borrow(frozen) as second:
        assert second == first + big.size
        assert host.call(Routine.COPY, first + 8, second, 8).fault is None
    with pytest.raises(UsageError, match="bytes of arrays borrowed: at most 0x400000"):
        host.borrow(np.zeros(host.largest_bytes + 4097, np.uint8)).__enter__()

    assert big[:20].tolist() == [0] * 8 + [7] * 8 + [0] * 4
    with host.borrow(big) as again:
        assert again == first


def test_system_calls_and_ioctls_are_counted(machine: SoftMachine) -> None:
    host = machine.host
    tags = np.zeros(256, np.uint8)

    STRATEGIES["prctl"](host).read(RAM_GPA, np.zeros(16, np.uint8))
    STRATEGIES["sp"](host).read(RAM_GPA, np.zeros(16, np.uint8))
    STRATEGIES["tco"](host).read(RAM_GPA, np.zeros(16, np.uint8))
    host.copy_tags(RAM_GPA, tags, Direction.FROM_GUEST)

    assert (host.counts.system_calls, host.counts.ioctls) == (3 + 2, 1)


@pytest.mark.parametrize(("gpa", "count"), [(RAM_GPA + 16, 256), (RAM_GPA, 255)])
def test_tag_copy_of_no_whole_pages_is_refused(machine: SoftMachine, gpa: int, count: int) -> None:
    with pytest.raises(HostError, match=r"KVM_ARM_MTE_COPY_TAGS of gpa 0x4.* failed: Invalid arg"):
        machine.host.copy_tags(Gpa(gpa), np.zeros(count, np.uint8), Direction.FROM_GUEST)


def test_tag_copy_outside_ram_is_refused(machine: SoftMachine) -> None:
    tags = np.zeros(256, np.uint8)

    for direction in Direction:
        with pytest.raises(HostError, match=r"gpa 0x0 failed: gpa range .* is not in one region"):
            machine.host.copy_tags(Gpa(0), tags, direction)


def test_forbidden_range_must_be_pages_of_ram(machine: SoftMachine) -> None:
    with pytest.raises(AddressError, match=r"0x40000010\+0x1000 is not aligned to 0x1000"):
        machine.host.forbid(Gpa(RAM_GPA + 16), 4096)
    with pytest.raises(AddressError, match="is not in one region of guest RAM"):
        machine.host.forbid(Gpa(0), 4096)


def test_closed_host_runs_nothing() -> None:
    machine = SoftMachine.create(ram_bytes=1 << 20)
    host = machine.host
    machine.close()

    with pytest.raises(HostError, match="this host is closed"):
        host.call(Routine.GET_TCO)
    with pytest.raises(RunStateError, match="the machine is closed"):
        _ = machine.host
    host.close()


def test_host_changes_nothing_of_the_guest_s_run() -> None:
    digests = []
    for with_host in (False, True):
        machine = retagging_guest()
        if with_host:
            machine.host.call(Routine.GET_TCO)
        machine.vcpus[0].step(5000)
        digests.append((machine.save_state(), machine.read_tags(RAM_GPA, 1 << 20).tobytes()))
        machine.close()

    assert digests[0] == digests[1]


def test_host_for_ram_that_does_not_fit_leaves_no_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[NativeMachine] = []
    close = NativeMachine.close

    def note_close(native: NativeMachine) -> None:
        closed.append(native)
        close(native)

    monkeypatch.setattr(NativeMachine, "close", note_close)

    memory = GuestMemory([Region.create(1 << 44, 4096)])
    with memory, pytest.raises(AddressError, match="does not fit the host"):
        SoftHost(memory)

    assert len(closed) == 1
