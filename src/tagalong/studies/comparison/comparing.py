"""Runs every strategy, and the control, each on a machine of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tagalong.access import AUTO, STRATEGIES, Host, Strategy, choose
from tagalong.access.choice import missing
from tagalong.memory import Gpa
from tagalong.studies.comparison.control import Plain
from tagalong.studies.comparison.machines import MachineMaker, machine_maker
from tagalong.studies.comparison.measure import MODES, measure_all, try_all, try_system_calls
from tagalong.studies.comparison.race import retagger
from tagalong.studies.comparison.report import ComparisonReport, RaceResult, StrategyReport
from tagalong.vmm.factory import choose_machine
from tagalong.vmm.machine_names import AUTO as AUTO_MACHINE

_RAM_BYTES: Final = 16 << 20
_TRIED_AT: Final = 1 << 20
_MEASURED_AT: Final = 8 << 20

# The control comes first: the others are compared with it.
_COMPARED: Final[tuple[type[Strategy], ...]] = (Plain, *STRATEGIES.values())

Step = Callable[[str], None]


@dataclass(frozen=True)
class ComparisonOptions:
    """What to compare. `race_s`: seconds of looks at a running guest per strategy, 0 for none."""

    machine: str = AUTO_MACHINE
    race_s: float = 0.0


def compare(options: ComparisonOptions, step: Step = lambda _: None) -> ComparisonReport:
    """Return what every strategy does on a machine of this kind.

    `step` is called with the title of each step. Raises HostError if this host cannot run such a
    machine. A strategy that does not work on this host is in the report, with the reason.
    """
    machine = choose_machine(options.machine)
    make = machine_maker(machine.name)
    rows = []
    for strategy in _COMPARED:
        step(f"{strategy.name} on machine {machine.name}")
        row = _compare_one(strategy, make)
        if row.works and options.race_s > 0:
            step(f"{strategy.name} against a guest that changes its tags")
            row = replace(row, race=_race(strategy, make, options.race_s))
        rows.append(row)
    chosen, reason = _choose(make)
    return ComparisonReport(machine.name, machine.reason, chosen, reason, tuple(rows))


def _compare_one(kind: type[Strategy], make: MachineMaker) -> StrategyReport:
    """Run one strategy on a machine of its own, so that all mappings are new."""
    machine = make(ram_bytes=_RAM_BYTES)
    try:
        row = StrategyReport(
            name=kind.name,
            summary=kind.summary,
            needs=tuple(sorted(need.value for need in kind.needs)),
            hazards=tuple(sorted(hazard.value for hazard in kind.hazards)),
            reason=missing(kind.needs, machine.host),
        )
        return _measured(row, kind(machine.host), machine.host) if row.works else row
    finally:
        machine.close()


def _measured(row: StrategyReport, strategy: Strategy, host: Host) -> StrategyReport:
    start = host.memory.regions[0].gpa
    tried_at, measured_at = Gpa(start + _TRIED_AT), Gpa(start + _MEASURED_AT)
    calls = {mode: try_system_calls(host, strategy, tried_at, mode) for mode in MODES}
    tries = {mode: try_all(host, strategy, tried_at, mode) for mode in MODES}
    is_control = isinstance(strategy, Plain)
    return replace(
        row,
        attempts=tries[MODES[0]].attempts,
        faults={mode.name.lower(): each.faults for mode, each in tries.items()},
        wrong={mode.name.lower(): each.wrong for mode, each in tries.items()},
        system_calls={mode.name.lower(): each for mode, each in calls.items()},
        operations=None if is_control else measure_all(host, strategy, measured_at),
    )


def _race(kind: type[Strategy], make: MachineMaker, seconds: float) -> RaceResult:
    with retagger(make) as guest:
        strategy = kind(guest.host)
        running = guest.look_for(strategy, seconds)
        guest.machine.pause()
        paused = guest.look_for(strategy, seconds / 4)
        return RaceResult(seconds, running, paused)


def _choose(make: MachineMaker) -> tuple[str, str]:
    machine = make(ram_bytes=_RAM_BYTES)
    try:
        choice = choose(AUTO, machine.host)
        return choice.strategy.name, choice.reason
    finally:
        machine.close()
