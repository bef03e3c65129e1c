"""Words about cores; no output here, so that every text can be tested."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from tagalong.cli.units import count, row, size, wrapped
from tagalong.core.check import CheckReport
from tagalong.core.findings import DEBUGGERS, GDB, LLDB, Finding, Level, Rule, Tags, Verdict
from tagalong.core.info import Info
from tagalong.core.kernel_check import CRASH, DRGN, KernelVerdict
from tagalong.core.tag_runs import TagRange, TagRun

_SHOWN_OF_A_RULE = 5
_CRASH_FINDS = "finds the kernel, and needs its vmlinux with debug information"
_SPACES = {
    "physical": "guest physical memory",
    "kernel": "the kernel's virtual memory",
    "user": "a process's virtual memory",
}


def info_report(info: Info, path: str) -> str:
    """Return what `core.info.describe` found, in words."""
    return "\n".join(_info_lines(info, path))


def _info_lines(info: Info, path: str) -> Iterator[str]:
    machine = cast("Mapping[str, object] | None", info.get("machine"))
    yield path
    yield row("core", f"{_kind(machine)}{', compressed' if info['compressed'] else ''}")
    if machine:
        yield row("machine", _machine(machine))
        yield row("devices", ", ".join(cast("list[str]", machine["devices"])) or "none")
    if linux := cast("Mapping[str, object] | None", info.get("linux")):
        yield row("Linux", _linux(linux))
    for region in cast("list[Mapping[str, object]]", info["regions"]):
        length = size(cast("int", region["size_bytes"]))
        yield row("region", f"[{region['start']}, {region['end']})  {length}  {_planes(region)}")
    for mapping in cast("list[Mapping[str, object]]", info["tags_not_written"]):
        length = size(cast("int", mapping["size_bytes"]))
        yield row("tagged", f"[{mapping['start']}, {mapping['end']})  {length}  tags not written")
    if info.get("other_system"):
        yield row("registers", f"in notes of {info['other_system']}, which are not read")
    for vcpu in cast("list[Mapping[str, object]]", info.get("vcpus", [])):
        registers = "  ".join(f"{name} {vcpu[name]}" for name in ("pc", "sp", "pstate"))
        yield row(f"thread {vcpu['thread']}", registers)
    if info["cut_short"]:
        yield row("DAMAGED", "the file was cut short: not all of this can be read")
    if "damage" in info:
        yield row("DAMAGED", str(info["damage"]))


def _machine(machine: Mapping[str, object]) -> str:
    return (
        f"{count(cast('int', machine['vcpu_count']), 'vCPU')}, "
        f"{size(cast('int', machine['ram_bytes']))} of RAM in pages of "
        f"{machine['page_size_bytes']} bytes, {machine['mte']}, "
        f"{_moment(machine)}"
    )


def _moment(machine: Mapping[str, object]) -> str:
    if machine["torn"]:
        return "running while it was taken: its pages are of different moments"
    return f"{'running' if machine['running'] else 'paused'} when it was taken"


def _linux(linux: Mapping[str, object]) -> str:
    offset = linux["kernel_offset"]
    moved = "" if offset is None else f", KERNELOFFSET {offset}"
    return f"{linux['osrelease']}, pages of {linux['page_size_bytes']} bytes{moved}"


def _kind(machine: Mapping[str, object] | None) -> str:
    if machine is None:
        return "not written by tagalong: no state of a machine"
    space = str(machine["space"])
    of_vcpu = f" as vCPU {machine['vcpu']} sees it" if space != "physical" else ""
    return f"{_SPACES[space]}{of_vcpu}, and the state of the machine"


def _planes(region: Mapping[str, object]) -> str:
    if region["data"]:
        return "data and tags" if region["tags"] else "data, no tags"
    return "tags, no data"


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
        yield CRASH, _CRASH_FINDS if lack is None else f"does NOT read the kernel ({lack})"


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
