"""Pending exceptions as a device's state."""

import pytest

from tagalong.errors import StateError
from tagalong.kvm import pending
from tagalong.kvm.abi import kvm_vcpu_events


def events(**fields: int) -> kvm_vcpu_events:
    made = kvm_vcpu_events()
    for name, value in fields.items():
        setattr(made.exception, name, value)
    return made


def test_save_nothing_pending_is_no_device() -> None:
    assert pending.save([events(), events(serror_has_esr=1)]) == {}


def test_save_and_load_give_the_same() -> None:
    before = [events(), events(serror_pending=1, serror_has_esr=1, serror_esr=0x123_4567)]

    after = pending.load(pending.save(before)[pending.DEVICE], 2)

    assert [bytes(each) for each in after] == [bytes(each) for each in before]


def test_load_without_the_device_is_nothing_pending() -> None:
    assert [bytes(each) for each in pending.load(None, 2)] == [bytes(events())] * 2


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: b"\2" + s[1:], lambda _: b""])
def test_load_what_was_not_saved_is_refused(change: "object") -> None:
    state = pending.save([events(ext_dabt_pending=1)])[pending.DEVICE]

    with pytest.raises(StateError, match=r"kvm-pending-exceptions state of .* 1 vCPUs"):
        pending.load(change(state), 1)  # type: ignore[operator]
