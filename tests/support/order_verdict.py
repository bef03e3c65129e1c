"""Judges a migration between two processes that were given orders on the way.

The promise, exactly:

1. At most one side has the VM and may run it. A source whose hand-over was not confirmed does
   not have it: it stays stopped until x-reclaim.
2. The VM is not lost. It is at one side and runs there when told to, with its memory and tags;
   or the source can take it back with x-reclaim and says so; or an order ended the process that
   had it. An end that the destination was asked for before COMMIT was sent is no such order: it
   aborts the hand-over, and the VM stays at the source. One that came later may end the VM; then
   the destination had said that the VM has arrived, or says at its end that the VM that had
   arrived has ended with it. One that came between COMMIT and the announcement may be declined.
3. The operator is told. A source that keeps the VM says that its migration failed or was
   cancelled; one that ends because of a signal has the status of that signal; none shows a
   traceback; every command is answered; nothing hangs.
4. A guest whose pause was accepted is paused wherever it is in the end, one that was not told to
   pause runs. A side that does not have the VM any more has nothing to pause. A source that takes
   its VM back with x-reclaim has it paused.
"""

import signal

from tagalong.wire import Role
from tests.support.order_plan import Transport
from tests.support.order_trial import Given, Look, Trial

# The hold after which an end that was asked for must have been noticed, on a busy host too.
NOTICED_S = 0.05


def judge(trial: Trial) -> list[str]:
    """Return everything that is wrong with how a trial ended."""
    wrong = list(trial.complaints)
    wrong += _owner(trial) + _words(trial) + _exit_statuses(trial)
    if not wrong:
        wrong += _run_state(trial)
    return wrong


def _owner(trial: Trial) -> list[str]:
    source, destination = trial.source, trial.destination
    if source.has_vm and destination.has_vm:
        return ["both sides have the VM"]
    if source.has_vm or destination.has_vm or _may_reclaim(source):
        return []
    if not source.is_gone and source.state == "postmigrate":
        return _ended_at_the_destination(trial)
    if source.is_gone:
        return _ended_at_the_source(trial)
    return [f"the VM is lost: source {source}, destination {destination}"]


def _may_reclaim(source: Look) -> bool:
    return source.state == "postmigrate" and source.migration == "failed"


def _ended_at_the_destination(trial: Trial) -> list[str]:
    """Judge a source that reports success where the destination does not have the VM."""
    ends = trial.gave(Role.DESTINATION)
    if not trial.destination.is_gone or not ends:
        return [f"the VM is lost: the source reports success, {trial.destination}"]
    if any(_was_in_time(trial, given) for given in ends):
        return ["the VM is lost: an end asked for before COMMIT let the destination take it over"]
    is_told = _says_so(trial) or any(given.after_arrival for given in ends)
    if all(given.order.what != "SIGKILL" for given in ends) and not is_told:
        return ["the VM ended at the destination just after it arrived, and nobody is told"]
    return []


def _was_in_time(trial: Trial, given: Given) -> bool:
    return (
        not given.after_commit
        and trial.plan.transport.shows_records
        and not given.order.delay_s
        and trial.plan.hold_s >= NOTICED_S
    )


def _says_so(trial: Trial) -> bool:
    """Return whether the destination's messages say that the VM arrived and ended with it."""
    lines = trial.messages.get(Role.DESTINATION, "").splitlines()
    return any("arrived" in line and ("ended" in line or "ends" in line) for line in lines)


def _ended_at_the_source(trial: Trial) -> list[str]:
    if not trial.gave(Role.SOURCE):
        return [f"the source ended unasked: {trial.source}"]
    if "the VM has moved" not in trial.messages.get(Role.SOURCE, ""):
        return []  # it had the VM, and was told to end
    return _ended_at_the_destination(trial)


def _words(trial: Trial) -> list[str]:
    wrong = []
    if trial.source.has_vm and trial.source.migration == "failed" and not trial.source.error:
        wrong.append("the migration failed without a word")
    for role, messages in trial.messages.items():
        if "Traceback" in messages or "internal error" in messages:
            wrong.append(f"the {role.name.lower()} shows a traceback: {messages[-600:]}")
    orders = [given.order.what for given in trial.given if given.was_accepted]
    # A connection that is cut while the migration is set up ends it, cancelled or not.
    is_cut = trial.plan.transport is Transport.RECONNECT
    cancels = trial.plan.orders and all(o.what == "migrate_cancel" for o in trial.plan.orders)
    cancels = cancels and not is_cut
    at_source = all(order.side is Role.SOURCE for order in trial.plan.orders)
    if cancels and at_source and orders and trial.source.migration not in _AFTER_CANCEL:
        wrong.append(f"migrate_cancel was accepted, and the migration {trial.source.migration}")
    return wrong


_AFTER_CANCEL = {"cancelled", "completed"}


def _exit_statuses(trial: Trial) -> list[str]:
    """Judge how a process ended that was given one order, to end."""
    if len(trial.plan.orders) != 1 or not trial.given or not trial.given[0].order.ends:
        return []
    return _exit_status(trial, trial.given[0])


def _exit_status(trial: Trial, given: Given) -> list[str]:
    order = given.order
    look = trial.source if order.side is Role.SOURCE else trial.destination
    if not look.is_gone and trial.was_declined(order.side):
        return []
    if not look.is_gone:
        return [f"{order}: the process is still there, {look}"]
    if look.exit_status is None:
        return [f"{order}: the process does not end"]
    if order.what == "SIGKILL":
        return []
    expected = {0} if order.what == "quit" else {128 + signal.Signals[order.what]}
    # A destination whose migration failed meanwhile, or because of it, has the error's status.
    is_error = order.side is Role.DESTINATION and 10 <= look.exit_status < 100
    if look.exit_status not in expected and not is_error:
        return [f"{order}: exit status {look.exit_status}, expected {expected}"]
    return []


def _run_state(trial: Trial) -> list[str]:
    """Judge whether the guest runs or is paused as the operator asked, where one order says so."""
    holder = trial.destination if trial.destination.has_vm else trial.source
    if not holder.has_vm or len(trial.plan.orders) != 1 or not trial.given:
        return []
    given = trial.given[0]
    concerns_holder = given.order.side is Role.SOURCE or holder is trial.destination
    # The state was asked for before the order: from COMMIT on the VM may leave in between.
    may_have_left = given.after_commit or given.state == "postmigrate"
    has_left = given.order.side is Role.SOURCE and may_have_left
    if given.order.what == "stop" and has_left:
        return []
    pauses = given.order.what in ("stop", "x-reclaim")
    stopped = pauses and given.was_accepted and concerns_holder
    expected = "paused" if stopped else "running"
    if holder.state != expected:
        return [f"the guest is {holder.state}, expected {expected}: {given.order}"]
    return []
