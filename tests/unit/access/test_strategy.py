"""What the strategies ask of a host: which routine, on which view, with what around it."""

import errno
from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.access import (
    STRATEGIES,
    CallFlags,
    CallResult,
    CopyCall,
    Fault,
    Hazard,
    Need,
    Routine,
    Strategy,
    View,
)
from tagalong.access.kernel import Kernel
from tagalong.access.prctl import Prctl
from tagalong.errors import AddressError, HostError, UsageError
from tagalong.memory import Gpa
from tests.support.fake_host import BASE, BASES, LARGEST, PAGE, FakeHost

FAULT = Fault(11, 9, 0x1234)


@pytest.fixture
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("name", "view", "load", "store", "flags"),
    [
        ("ioctl", View.PLAIN, Routine.COPY, Routine.COPY, CallFlags.NONE),
        ("alias", View.PLAIN, Routine.COPY, Routine.COPY, CallFlags.NONE),
        ("tco", View.TAGGED, Routine.COPY_TCO, Routine.COPY_TCO, CallFlags.NONE),
        ("prctl", View.TAGGED, Routine.COPY, Routine.COPY, CallFlags.CHECKS_OFF),
        ("sp", View.TAGGED, Routine.SP_LOAD, Routine.SP_STORE, CallFlags.STACK_APART),
        ("match", View.TAGGED, Routine.MATCH_LOAD, Routine.MATCH_STORE, CallFlags.NONE),
    ],
)
def test_data_go_by_the_strategy_s_routine_and_view(
    host: FakeHost, name: str, view: View, load: Routine, store: Routine, flags: CallFlags
) -> None:
    strategy, array = STRATEGIES[name](host), np.zeros(100, np.uint8)
    guest, mine = BASES[view] + 0x20, array.ctypes.data

    strategy.read(Gpa(BASE + 0x20), array)
    strategy.write(Gpa(BASE + 0x20), array)

    assert host.calls == [(load, (mine, guest, 100), flags), (store, (guest, mine, 100), flags)]
    assert strategy.view is view


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "ioctl"])
def test_tags_go_by_ldg_and_stg_through_the_tagged_view(host: FakeHost, name: str) -> None:
    strategy, packed = STRATEGIES[name](host), np.zeros(PAGE // 32, np.uint8)
    guest, mine = BASES[View.TAGGED] + PAGE, packed.ctypes.data

    strategy.read_tags(Gpa(BASE + PAGE), packed)
    strategy.write_tags(Gpa(BASE + PAGE), packed)
    strategy.write_zeros(Gpa(BASE + PAGE), packed)

    assert [(routine, arguments) for routine, arguments, _ in host.calls] == [
        (Routine.READ_TAGS, (mine, guest, 128)),
        (Routine.WRITE_TAGS, (guest, mine, 128)),
        (Routine.WRITE_ZEROS, (guest, mine, 128)),
    ]


def test_ioctl_tags_are_the_kernel_s_unpacked(host: FakeHost) -> None:
    strategy = STRATEGIES["ioctl"](host)
    packed = np.arange(8 * PAGE // 32).astype(np.uint8)

    strategy.write_tags(Gpa(BASE + PAGE), packed)
    got = np.zeros_like(packed)
    strategy.read_tags(Gpa(BASE + PAGE), got)

    np.testing.assert_array_equal(got, packed)
    assert host.counts.ioctls == 2
    assert host.calls == []


def test_long_copies_are_cut_and_end_at_the_first_fault(host: FakeHost) -> None:
    array = np.zeros(3 * LARGEST + 5, np.uint8)
    strategy = STRATEGIES["alias"](host)

    assert strategy.read(BASE, array) is None
    assert [arguments[2] for _, arguments, _ in host.calls] == [LARGEST, LARGEST, LARGEST, 5]
    assert [arguments[1] - BASES[View.PLAIN] for _, arguments, _ in host.calls] == [
        0, LARGEST, 2 * LARGEST, 3 * LARGEST,
    ]  # fmt: skip

    host.calls.clear()
    host.answer = lambda *_: CallResult(0, FAULT if len(host.calls) == 2 else None)
    assert strategy.write(BASE, array) == FAULT
    assert len(host.calls) == 2


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("what", ["read_tags", "write_tags", "write_zeros", "read", "write"])
def test_fault_of_any_operation_is_returned(host: FakeHost, name: str, what: str) -> None:
    if name == "kernel" and what in ("read", "write"):
        host.kernel_says = {CopyCall.PROCESS_VM: errno.EFAULT}
    host.answer = lambda *_: CallResult(0, FAULT)
    strategy = STRATEGIES[name](host)
    array = np.zeros(PAGE // 32, np.uint8)

    def attempt() -> object:
        try:
            return getattr(strategy, what)(BASE, array)
        except HostError as error:
            return str(error)

    by_kvm = name == "ioctl" and what.endswith("tags")
    by_kernel = name == "kernel" and what in ("read", "write")
    if by_kernel:
        way = "from" if what == "read" else "to"
        expected: object = (
            f"process_vm_readv: copying 0x80 bytes {way} the guest at gpa 0x40000000 failed: "
            "Bad address"
        )
    else:
        expected = None if by_kvm else FAULT
    assert attempt() == expected


def test_kernel_without_process_vm_goes_on_by_proc_mem(host: FakeHost) -> None:
    host.kernel_says = {CopyCall.PROCESS_VM: errno.ENOSYS}
    host.memory.write(Gpa(BASE + 7), b"guest")
    strategy, array = Kernel(host), np.zeros(5, np.uint8)

    strategy.read(Gpa(BASE + 7), array)
    strategy.read(Gpa(BASE + 7), array)

    assert array.tobytes() == b"guest"
    assert host.copy_calls == [CopyCall.PROCESS_VM, CopyCall.PROC_MEM, CopyCall.PROC_MEM]


def test_prctl_lends_with_checking_off_and_puts_it_back_after_an_error(host: FakeHost) -> None:
    host.ctrl = 0x7_FFFB

    with pytest.raises(KeyError), Prctl(host).lend(BASE, 16) as address:  # noqa: PT012
        assert (address, host.ctrl) == (BASES[View.TAGGED], 0x7_FFF9)
        raise KeyError

    assert host.ctrl == 0x7_FFFB


@pytest.mark.parametrize(("offset", "tag"), [(0, 3), (15, 3), (16, 9), (47, 3)])
def test_match_lends_with_the_tag_of_the_first_granule(
    host: FakeHost, offset: int, tag: int
) -> None:
    def answer(routine: Routine, arguments: tuple[int, ...]) -> CallResult:
        import ctypes  # noqa: PLC0415

        assert routine is Routine.READ_TAGS
        assert arguments[1:] == (BASES[View.TAGGED] + offset // 32 * 32, 1)
        ctypes.memset(arguments[0], 0x93, 1)
        return CallResult(0)

    host.answer = answer

    with STRATEGIES["match"](host).lend(Gpa(BASE + offset), 1) as address:
        assert address == BASES[View.TAGGED] + offset | tag << 56


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_says_what_it_is_in_data(name: str) -> None:
    strategy = STRATEGIES[name]

    assert strategy.name == name
    assert strategy.summary
    assert Need.ARM64 in strategy.needs
    assert strategy.needs <= set(Need)
    assert strategy.hazards <= set(Hazard)
    assert (Need.PROT_MTE in strategy.needs) == (name != "ioctl")
    assert (Hazard.RACES_WITH_GUEST in strategy.hazards) == (name == "match")


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_cannot_be_copied_is_refused(host: FakeHost, name: str) -> None:
    strategy: Strategy = STRATEGIES[name](host)

    with pytest.raises(UsageError, match="one contiguous row of uint8, not float64 of shape"):
        strategy.read(BASE, np.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(AddressError, match="is not in one region of guest RAM"):
        strategy.read(Gpa(BASE - 1), np.zeros(4, np.uint8))
    with pytest.raises(AddressError, match=r"tags of 0x40000000\+0x20: not aligned to 0x1000"):
        strategy.read_tags(BASE, np.zeros(1, np.uint8))


def test_every_store_of_every_strategy_is_in_the_dirty_log(host: FakeHost) -> None:
    """By a host that marks nothing itself, as the native one: its stores are the CPU's."""
    stores, packed = host.memory.regions[0].stores, np.zeros(2 * PAGE // 32, np.uint8)
    data = np.zeros(2 * PAGE, np.uint8)
    found = {}
    stores.start()

    for name, make in STRATEGIES.items():
        strategy = make(host)
        strategy.read(Gpa(BASE), data)
        strategy.read_tags(Gpa(BASE), packed)
        assert not stores.harvest().count(), name
        strategy.write(Gpa(BASE + 2 * PAGE + 8), data)
        strategy.write_tags(Gpa(BASE + 6 * PAGE), packed)
        strategy.write_zeros(Gpa(BASE + 9 * PAGE), packed)
        with strategy.lend(Gpa(BASE + 12 * PAGE), 1):
            pass
        found[name] = stores.harvest().pages().tolist()

    assert found == {name: [2, 3, 4, 6, 7, 9, 10, 12] for name in STRATEGIES}
