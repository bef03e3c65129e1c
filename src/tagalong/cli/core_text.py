"""Words about cores; no output here, so that every text can be tested."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tagalong.cli.units import count, wrapped
from tagalong.core.check import CheckReport
from tagalong.core.findings import DEBUGGERS, GDB, LLDB, Finding, Level, Rule, Tags, Verdict
from tagalong.core.kernel_check import CRASH, DRGN, KernelVerdict
from tagalong.core.tag_runs import TagRange, TagRun

_SHOWN_OF_A_RULE = 5
_CRASH_FINDS = "finds the kernel, and needs its vmlinux with debug information"


def tags_report(wanted: TagRange, runs: Iterator[TagRun]) -> Iterator[str]:
    """Yield the pointer's tag, then a line with a half-open range per run."""
    yield f"Logical tag: {wanted.pointer_tag:#x}"
    for run in runs:
        mismatch = " (mismatch)" if wanted.is_mismatch(run) else ""
        yield f"[{run.start:#x}, {run.end:#x}): {run.tag:#x}{mismatch}"


def tags_json(wanted: TagRange, runs: Iterator[TagRun]) -> dict[str, object]:
    """Return the same for JSON; addresses are hex strings."""
    return {
        "start": hex(wanted.start),
        "end": hex(wanted.end),
        "pointer_tag": wanted.pointer_tag,
        "runs": [
            {
                "start": hex(run.start),
                "end": hex(run.end),
                "tag": run.tag,
                "mismatch": wanted.is_mismatch(run),
            }
            for run in runs
        ],
    }


def check_report(report: CheckReport, path: str) -> str:
    """Return what each debugger shows, and the findings, in words."""
    return "\n".join(_check_lines(report, path))


def _check_lines(report: CheckReport, path: str) -> Iterator[str]:
    # What each debugger shows comes first: a file without a fault can be one whose tags no
    # debugger shows.
    yield path
    for verdict in report.verdicts:
        first = f"  {DEBUGGERS[verdict.debugger]:12} "
        yield wrapped(_verdict(verdict), first, " " * len(first))
    for tool, text in _kernel(report.kernel):
        first = f"  {tool:12} "
        yield wrapped(text, first, " " * len(first))
    yield f"  {'the file':12} {_soundness(report)}"
    for rule in dict.fromkeys(finding.rule for finding in report.findings):
        findings = [finding for finding in report.findings if finding.rule == rule]
        yield ""
        for finding in findings[:_SHOWN_OF_A_RULE]:
            yield from _finding(finding)
        if len(findings) > _SHOWN_OF_A_RULE:
            more = len(findings) - _SHOWN_OF_A_RULE
            yield f"... and {more} more of {rule.value} (--json has them all)"


def _soundness(report: CheckReport) -> str:
    counts = Counter(finding.level for finding in report.findings)
    found = [count(counts[level], level.value) for level in (Level.ERROR, Level.WARNING)
             if counts[level]]  # fmt: skip
    return f"has {' and '.join(found)}" if found else "is sound: no errors, no warnings"


def _verdict(verdict: Verdict) -> str:
    because = f" ({_list(verdict.reasons)})" if verdict.reasons else ""
    if verdict.tags is Tags.UNKNOWN:
        return f"was not tried on such a core{because}"
    if verdict.tags is Tags.NONE:
        return f"shows NO tags{because}"
    some = "" if verdict.tags is Tags.ALL else ", but not of all segments"
    wrong = ", and WRONG ones" if verdict.wrong else ""
    return f"shows the tags{some}{wrong}{because}"


def _kernel(verdict: KernelVerdict | None) -> Iterator[tuple[str, str]]:
    """Yield a tool that reads kernels, and what it does."""
    if verdict is None:
        return
    yield DRGN, f"{'reads' if verdict.opens else 'does NOT read'} the kernel ({verdict.reason})"
    if verdict.opens:
        lack = verdict.crash_reason
        also = f", and {verdict.crash_options}" if verdict.crash_options else ""
        finds = f"{_CRASH_FINDS}{also}"
        yield CRASH, finds if lack is None else f"does NOT read the kernel ({lack})"


def _list(reasons: Sequence[Rule]) -> str:
    return ", ".join(rule.value for rule in reasons)


def _finding(finding: Finding) -> Iterator[str]:
    text = f"{finding.level.value} {finding.rule.value}{_place(finding)}: {finding.message}"
    yield wrapped(text, later="    ")
    for name in (GDB, LLDB):
        effect = finding.effect(name)
        if effect:
            yield wrapped(f"{DEBUGGERS[name]}: {effect.text}", "    ", "    ")


def _place(finding: Finding) -> str:
    parts = []
    if finding.offset is not None:
        parts.append(f"offset {finding.offset:#x}")
    if finding.address is not None and finding.end is not None:
        parts.append(f"[{finding.address:#x}, {finding.end:#x})")
    return f" at {', '.join(parts)}" if parts else ""


def check_json(report: CheckReport) -> dict[str, object]:
    """Return the same for JSON; addresses are hex strings."""
    return {
        "clean": report.is_clean,
        "debuggers": {
            verdict.debugger: {
                "version": DEBUGGERS[verdict.debugger],
                "tags": verdict.tags.value,
                "wrong_tags": verdict.wrong,
                "reasons": [rule.value for rule in verdict.reasons],
            }
            for verdict in report.verdicts
        },
        "kernel": report.kernel and vars(report.kernel),
        "findings": [_finding_json(finding) for finding in report.findings],
    }


def _finding_json(finding: Finding) -> dict[str, object]:
    effects = {name: finding.effect(name) for name in (GDB, LLDB)}
    return {
        "rule": finding.rule.value,
        "level": finding.level.value,
        "message": finding.message,
        "offset": finding.offset,
        "start": None if finding.address is None else hex(finding.address),
        "end": None if finding.end is None else hex(finding.end),
        **{
            name: effect and {"text": effect.text, "tags": effect.harm and effect.harm.value}
            for name, effect in effects.items()
        },
    }
