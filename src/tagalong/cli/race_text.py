"""A race's report in words."""

from collections.abc import Sequence
from itertools import groupby

from tagalong.access.outcome import Outcome
from tagalong.cli.units import wrapped
from tagalong.studies.race.code import Side
from tagalong.studies.race.explore import Method
from tagalong.studies.race.report import OutcomeLine, RaceReport, Step
from tagalong.studies.race.world import Granule

_GUEST_WIDTH = 24
_VMM_WIDTH = 26
_MEANING = {
    Outcome.FAULT: "the VMM took a tag check fault",
    Outcome.TORN: "tag and data that never existed together",
    Outcome.STALE: "was true, but no longer when the look ended",
    Outcome.RIGHT: "still true when the look ended",
}


def races_report(reports: Sequence[RaceReport], *, full: bool) -> str:
    """Return one race with its interleavings, several as a table."""
    return race_report(reports[0], full=full) if len(reports) == 1 else races_table(reports)


def race_report(report: RaceReport, *, full: bool) -> str:
    """Return the outcomes, and a shortest interleaving for each.

    Unless `full`, instructions that touch only their own side's state are folded.
    """
    explored = report.exploration
    lines = [
        wrapped(
            f"Guest {report.guest}: {_instructions(explored.lengths[0])}. VMM {report.vmm}: "
            f"{_instructions(explored.lengths[1])}, {_circumstances(report)}."
        ),
        wrapped(f"{_method(report)} ({explored.reason})."),
        "",
        *(_outcome(report, outcome, count) for outcome, count in report.outcomes.items()),
    ]
    if explored.unfinished:
        lines.append(
            f"  {'endless':8} {explored.unfinished:>14,}  given up: the VMM's code did not end"
        )
    for line in report.lines:
        lines += ["", *_interleaving(report, line, full=full)]
    return "\n".join(lines)


def races_table(reports: Sequence[RaceReport]) -> str:
    """Return one line for each report: the share of each outcome."""
    first = reports[0]
    heads = "".join(f"{outcome.value:>8}" for outcome in first.outcomes)
    lines = [
        f"Guest {first.guest}, {_circumstances(first)}; in percent of all interleavings.",
        "",
        f"{'access':8}{'instructions':>13}{'interleavings':>14}{heads}  method",
    ]
    for report in reports:
        explored = report.exploration
        shares = "".join(f"{_share(report, count):>8}" for count in report.outcomes.values())
        lines.append(
            f"{report.vmm:8}{explored.lengths[1]:>13}{explored.interleavings:>14,}{shares}  "
            f"{explored.method.name.lower()}"
        )
    return "\n".join(lines)


def _circumstances(report: RaceReport) -> str:
    order = "" if report.order is None else f"{report.order.value}, "
    return f"{order}checking {report.mode.name.lower()}"


def _instructions(count: int) -> str:
    return f"{count} instruction{'' if count == 1 else 's'}"


def _method(report: RaceReport) -> str:
    explored = report.exploration
    count = f"{explored.interleavings:,}"
    match explored.method:
        case Method.EXHAUSTIVE:
            return f"Exhaustive: all {count} interleavings, in {explored.states:,} states"
        case Method.REDUCED:
            return (
                f"Partial-order reduction: {count} interleavings stand for all, in "
                f"{explored.states:,} states"
            )
        case Method.SAMPLED:
            return f"Sampling: {count} interleavings drawn at random; an outcome may be missing"


def _outcome(report: RaceReport, outcome: Outcome, count: int) -> str:
    share = _share(report, count)
    return f"  {outcome.value:8} {count:>14,} {share:>8}  {_MEANING[outcome]}"


def _share(report: RaceReport, count: int) -> str:
    """Return a percentage; an outcome that occurs never shows as 0."""
    if not count:
        return "0 %" if report.exploration.method is not Method.REDUCED else "no"
    if report.exploration.method is Method.REDUCED:
        return "yes"
    percent = 100 * count / report.exploration.interleavings
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"


def _interleaving(report: RaceReport, line: OutcomeLine, *, full: bool) -> list[str]:
    return [
        f"{line.outcome.value}, for instance ({_instructions(len(line.steps))}):",
        f"  {'guest':{_GUEST_WIDTH}}{'VMM':{_VMM_WIDTH}}{_granule(report.start)}",
        *(_steps(line.steps) if full else _shared_steps(line.steps)),
        f"  {'':{_GUEST_WIDTH}}{_end(line)}",
    ]


def _shared_steps(steps: Sequence[Step]) -> list[str]:
    """Return the instructions that may touch shared memory, and how many are folded between."""
    lines = []
    for (side, is_local), group in groupby(steps, key=lambda step: (step.side, step.is_local)):
        run = list(group)
        if not is_local or len(run) == 1:
            lines += [_step(step) for step in run]
        elif side is Side.VMM:
            lines.append(f"  {'':{_GUEST_WIDTH}}  ... {len(run)} of its own")
        else:
            lines.append(f"  ... {len(run)} of its own")
    return lines


def _steps(steps: Sequence[Step]) -> list[str]:
    lines = []
    what = ""
    for step in steps:
        if step.side is Side.VMM and step.what != what:
            what = step.what
            lines.append(f"  {'':{_GUEST_WIDTH}}{what}:")
        lines.append(_step(step))
    return lines


def _step(step: Step) -> str:
    guest, vmm = (step.text, "") if step.side is Side.GUEST else ("", f"  {step.text}")
    changed = "" if step.granule is None else _granule(step.granule)
    return f"  {guest:{_GUEST_WIDTH}}{vmm:{_VMM_WIDTH}}{changed}".rstrip()


def _end(line: OutcomeLine) -> str:
    if line.end.fault is not None:
        return f"{line.end.fault.name}"
    return f"has read {', '.join(map(_granule, line.end.reading or ()))}"


def _granule(granule: Granule) -> str:
    return f"tag {granule.tag:#x}, data {granule.data[:4].hex()}.."
