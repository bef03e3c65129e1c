"""A few migrations that go wrong, on every machine; tests/faults has hundreds on `soft`."""

from functools import partial

import pytest

from tagalong.migrate import MachineBuilder
from tagalong.wire import Role
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import PATIENT_OPTIONS, Case, judge
from tests.support.running_guest import Boot

CALM = "working-set=256K write-rate=10 report=256"

FAULTS = [
    Fault(Kind.CUT, Role.SOURCE, 4),
    Fault(Kind.FLIP, Role.SOURCE, 3, 0x900, 5),
    Fault(Kind.CUT, Role.DESTINATION, 2),
    Fault(Kind.DELAY, Role.SOURCE, 3, 0x100),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind.value}-{fault.number}")
def test_fault_leaves_the_guest_at_exactly_one_end_and_intact(
    boot: Boot, from_description: MachineBuilder, fault: Fault
) -> None:
    guest = boot("churn", CALM, ram_bytes=4 << 20)
    guest.machine.resume()
    guest.wait_for("progress", 1)
    case = Case(guest.machine, partial(from_description), fault, PATIENT_OPTIONS)

    case.run()

    assert judge(case) is None
    assert case.has_struck
    if case.report is None:
        guest.wait_for("progress", len(guest.lines_with("progress")) + 1)
    assert not guest.lines_with("FAIL")
