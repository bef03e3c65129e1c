import numpy as np
import pytest

from tagalong.access import STRATEGIES, CallFlags, Direction, Routine, View
from tagalong.access.routines import load_blob
from tagalong.errors import HostError, UsageError
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.host.process import CODE_VA, PLAIN_VA, TAGGED_VA
from tagalong.studies.race.code import RACED_GPA, Order
from tagalong.studies.race.trace import Trace, strategy_code

OFF, SYNC = TagCheckMode.NONE, TagCheckMode.SYNC
TAGS = ("read_tags", Routine.READ_TAGS, TAGGED_VA, SYNC)
DATA = {
    "ioctl": ("copy", Routine.COPY, PLAIN_VA, SYNC),
    "alias": ("copy", Routine.COPY, PLAIN_VA, SYNC),
    "prctl": ("copy", Routine.COPY, TAGGED_VA, OFF),
    "match": ("match_load", Routine.MATCH_LOAD, TAGGED_VA, SYNC),
    "sp": ("sp_load", Routine.SP_LOAD, TAGGED_VA, SYNC),
    "tco": ("copy_tco", Routine.COPY_TCO, TAGGED_VA, SYNC),
    "kernel": ("process_vm_readv", Routine.COPY, TAGGED_VA, OFF),
}


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_code_of_a_strategy_is_what_it_calls(name: str, order: Order) -> None:
    code = strategy_code(name, order, SYNC)

    tags = TAGS
    if name == "ioctl":
        tags = ("KVM_ARM_MTE_COPY_TAGS", Routine.READ_TAGS, TAGGED_VA, OFF)
    expected = [tags, DATA[name]]
    blob = load_blob()
    assert [(c.what, c.va, c.arguments[1], c.mode) for c in code.calls] == [
        (what, CODE_VA + blob.offsets[routine], view + RACED_GPA, mode)
        for what, routine, view, mode in (expected if order is Order.TAGS_FIRST else expected[::-1])
    ]


def test_unknown_strategy_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown access strategy 'luck'; there are ioctl, alias"):
        strategy_code("luck", Order.TAGS_FIRST, SYNC)


def test_borrowed_arrays_have_places_of_their_own_and_their_bytes_there() -> None:
    trace = Trace(SYNC)
    array = np.arange(70, dtype=np.uint8)

    with trace.borrow(array) as first:
        pass
    with trace.borrow(array) as second:
        pass

    assert second - first == 128
    assert trace.scratch[128 : 128 + 70] == bytes(range(70))
    with pytest.raises(
        UsageError, match="the look borrows 0x1040 bytes of scratch memory; there are 0x1000"
    ):
        trace.borrow(np.zeros(3841, np.uint8)).__enter__()
    trace.close()


def test_checks_off_and_the_prctl_decide_the_mode_of_a_call() -> None:
    trace = Trace(TagCheckMode.ASYMMETRIC)
    trace.call(Routine.COPY, 1, 2, 3)
    trace.call(Routine.COPY, 1, 2, 3, flags=CallFlags.CHECKS_OFF)
    trace.set_tagged_addr_ctrl(1 | 1 << 2)
    trace.call(Routine.COPY, 1, 2, 3)

    modes = [call.mode for call in trace.calls]

    assert modes == [TagCheckMode.ASYMMETRIC, OFF, TagCheckMode.ASYNC]
    assert trace.get_tagged_addr_ctrl() == 5
    trace.close()


def test_what_no_look_does_is_refused() -> None:
    trace = Trace(SYNC)
    address = trace.address(View.TAGGED, RACED_GPA, 16)

    with pytest.raises(HostError, match="a look at guest memory writes nothing to it"):
        trace.copy_tags(RACED_GPA, np.zeros(2, np.uint8), Direction.TO_GUEST)
    with pytest.raises(HostError, match=r"write\(2\) of 0x200040000000\+0x10 has no instructions"):
        trace.write_syscall(address, 16)
    with pytest.raises(HostError, match=r"read\(2\) of 3 bytes to 0x200040000000 has no instr"):
        trace.read_syscall(address, b"abc")
    assert trace.calls == []
    trace.close()
