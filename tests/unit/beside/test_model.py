"""The argument of docs/design/beside.md, by all interleavings of a small model."""

import pytest

from tests.support.beside_model import Model, Omission

_PLANS = {
    "as QEMU": ("log_on", "get", "clear", "get", "clear", "stop", "get", "clear", "complete"),
    "all protected at once": ("log_on_plain", "get", "clear", "stop", "get", "clear", "complete"),
    "lazy, with bits never cleared": ("log_on", "get", "stop", "get", "complete"),
    "log ends and begins again": (
        "log_on", "get", "clear", "log_off", "log_on_plain", "get", "clear", "stop", "complete",
    ),
    "host writes tags": ("log_on", "get", "clear", "write_tag", "get", "stop", "complete"),
    "discards": ("log_on", "get", "clear", "discard", "get", "clear", "stop", "complete"),
    "slot is replaced": (
        "log_on", "get", "clear", "replace_slot", "get", "clear", "stop", "complete",
    ),
    "continued after the end": (
        "log_on", "get", "clear", "stop", "complete", "run_again", "stop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plan", _PLANS.values(), ids=_PLANS.keys())
def test_carried_tag_in_every_interleaving_is_right(plan: tuple[str, ...]) -> None:
    model = Model(plan)

    assert model.arrives()
    assert model.violation() is None


@pytest.mark.parametrize("omission", Omission, ids=lambda omission: omission.name)
def test_carried_tag_without_a_step_is_wrong_in_some_interleaving(omission: Omission) -> None:
    paths = [Model(plan, without=omission).violation() for plan in _PLANS.values()]

    assert any(path is not None for path in paths), omission.value
