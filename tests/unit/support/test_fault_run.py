"""The judge of faults: it sees what must not be."""

from collections.abc import Callable

import pytest

from tagalong.errors import HandoverUncertainError, MigrationError, UsageError
from tagalong.wire import Role
from tests.support.fake_machine import FakeMachine
from tests.support.fault_proxy import Fault, Kind
from tests.support.fault_run import Case, judge, run_all
from tests.support.kill_child import make_source


def after(spoil: Callable[[Case], None], fault: Fault | None = None) -> str | None:
    """Return the verdict on a migration of which `spoil` changes what it left."""
    case = Case(make_source(), FakeMachine, fault)
    try:
        case.run()
        spoil(case)
        return judge(case)
    finally:
        case.close()


CUT = Fault(Kind.CUT, Role.SOURCE, 4)


def both_run(case: Case) -> None:
    case.source.resume()


def other_memory(case: Case) -> None:
    case.source.memory.regions[0].raw_data[0x7000] ^= 1


def other_tag(case: Case) -> None:
    case.source.memory.regions[0].raw_tags[0x10] ^= 0x10


def destination_denies(case: Case) -> None:
    case.arrival, case.destination_error = None, MigrationError("no")


def source_stands(case: Case) -> None:
    case.source.pause()


def source_is_unsure_and_runs(case: Case) -> None:
    case.source_error = HandoverUncertainError("?")


def destination_started(case: Case) -> None:
    case.taken_over.append(b"")


def other_error(case: Case) -> None:
    case.source_error = UsageError("?")


def nothing(_case: Case) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "fault", "verdict"),
    [
        (nothing, None, None),
        (nothing, CUT, None),
        (both_run, None, "both ends run the VM"),
        (other_memory, None, "the destination runs the VM with other memory or tags"),
        (other_tag, None, "the destination runs the VM with other memory or tags"),
        (destination_denies, None, "the source reports success, the destination"),
        (source_stands, CUT, "the VM is lost"),
        (source_is_unsure_and_runs, CUT, "the source is not sure, and runs the VM"),
        (destination_started, CUT, "the destination started the VM although"),
        (other_error, CUT, "the source failed in another way"),
    ],
)
def test_judge_sees_what_must_not_be(
    spoil: Callable[[Case], None], fault: Fault | None, verdict: str | None
) -> None:
    found = after(spoil, fault)

    assert (found is None) if verdict is None else (found is not None and verdict in found)


def test_run_all_counts_what_became_of_each() -> None:
    faults = [CUT, Fault(Kind.DELAY, Role.SOURCE, 1), Fault(Kind.CUT, Role.DESTINATION, 99)]

    tally = run_all(lambda fault: Case(make_source(), FakeMachine, fault), faults)

    assert (tally.struck, tally.moved, tally.stayed, tally.wrong) == (2, 2, 1, [])
