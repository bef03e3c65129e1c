"""The argument of docs/design/beside.md, by all interleavings of a small model."""

import pytest

from tests.support.beside_model import Model, Omission

_PLANS = {
    "as QEMU": ("log_on", "get", "clear", "get", "clear", "stop", "get", "clear", "complete"),
    "as QEMU, with data": (
        "log_on", "get", "clear", "send_data", "stop", "get", "clear", "send_data", "complete",
    ),
    "all protected at once": ("log_on_plain", "get", "clear", "stop", "get", "clear", "complete"),
    "lazy, with bits never cleared": ("log_on", "get", "stop", "get", "complete"),
    "page that is not there at first": (
        "not_there", "log_on", "get", "clear", "get", "clear", "stop", "complete",
    ),
    "log ends and begins again": (
        "log_on", "get", "clear", "log_off", "log_on_plain", "get", "clear", "stop", "complete",
    ),
    "host writes tags": ("log_on", "get", "clear", "write_tag", "get", "stop", "complete"),
    "discards": ("log_on", "get", "clear", "discard", "get", "clear", "stop", "complete"),
    "slot is replaced": (
        "log_on", "get", "clear", "replace_slot", "get", "clear", "stop", "complete",
    ),
    "memory is plugged at any time": ("log_on", "get", "clear", "stop", "complete", "plug"),
    "continued after the end": (
        "log_on", "get", "clear", "stop", "complete", "run_again", "stop",
    ),
    "no manual protection": (
        "log_on_without_manual", "send_data", "get", "send_data", "stop", "get", "send_data",
        "complete",
    ),
}  # fmt: skip

# The plan in which the step is missed; "as QEMU" where none is named.
_MISSED_IN = {
    Omission.LOG_END_MAKES_OWED: "log ends and begins again",
    Omission.HOST_WRITE_MAKES_OWED: "host writes tags",
    Omission.NEW_SLOT_OWED: "slot is replaced",
    Omission.SLOTS_COMPARED: "memory is plugged at any time",
    Omission.RUN_COUNT: "continued after the end",
    Omission.COUNT_BEFORE_HARVEST: "continued after the end",
    Omission.LOOK_AFTER_HARVEST: "page that is not there at first",
    Omission.ALL_OWED_AT_START: "all protected at once",
    Omission.GET_MAKES_OWED: "no manual protection",
    Omission.BITS_OF_OURS_MAKE_OWED: "as QEMU, with data",
    Omission.BITS_RETURNED: "as QEMU, with data",
    Omission.RETURNED_KEEP_THEIR_BITS: "as QEMU, with data",
}


@pytest.mark.parametrize("plan", _PLANS.values(), ids=_PLANS.keys())
def test_carried_tag_in_every_interleaving_is_right(plan: tuple[str, ...]) -> None:
    model = Model(plan)

    assert model.arrives()
    assert model.violation() is None


@pytest.mark.parametrize("omission", Omission, ids=lambda omission: omission.name)
def test_carried_tag_without_a_step_is_wrong_in_some_interleaving(omission: Omission) -> None:
    plan = _PLANS[_MISSED_IN.get(omission, "as QEMU")]

    assert Model(plan, without=omission).violation() is not None, omission.value


@pytest.mark.parametrize("omission", [Omission.BITS_OF_OURS_MAKE_OWED, Omission.BITS_RETURNED])
def test_bits_that_we_take_without_manual_protection_are_missed_too(omission: Omission) -> None:
    assert Model(_PLANS["no manual protection"], without=omission).violation() is not None
