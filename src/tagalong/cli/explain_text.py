"""Words of `tagalong explain`; no output here, so that every text can be tested."""

from collections.abc import Iterator

from tagalong.cli.units import row, wrapped
from tagalong.explain.crash import CheckMode, Crash, StackFrame
from tagalong.explain.explanation import Evidence, Explanation, Hypothesis, Neighbourhood

_SHOWN_FRAMES = 12
_SHOWN_EVIDENCE = 3
_LEAST_SHOWN = 0.005
_SURE = 1e5
_LEAST_EVIDENCE_SHOWN = 0.05
_BULLET = " " * 7


def explain_report(explanation: Explanation) -> str:
    """Return what is known of a crash, in words; the causes first."""
    return "\n".join(_lines(explanation))


def _lines(explanation: Explanation) -> Iterator[str]:
    crash = explanation.crash
    yield from _head(crash)
    if explanation.hypotheses:
        yield ""
        yield "What happened:"
        for each in explanation.hypotheses:
            if each.probability >= _LEAST_SHOWN:
                yield from _hypothesis(each)
    for limit in explanation.limits:
        yield wrapped(limit, "  ", "  ")
    yield ""
    yield from _where(explanation)
    for note in crash.notes:
        yield row("note", note)


def _head(crash: Crash) -> Iterator[str]:
    program = f"{crash.process}: " if crash.process else ""
    thread = "" if crash.thread is None else f" in thread {crash.thread}"
    yield crash.name
    yield row("crash", f"{program}{crash.fault.reason}{thread}")


def _hypothesis(each: Hypothesis) -> Iterator[str]:
    percent = f"{_percent(each.probability):>5} "
    yield wrapped(each.text, percent, " " * len(percent))
    if each.block is not None:
        block = each.block
        tag = "no tag known" if block.tag is None else f"tag {block.tag:#x}"
        words = f"[{block.start:#x}, {block.end:#x}), {tag}, {block.state.value}"
        yield wrapped(f"block {words}, by {block.known_by}", _BULLET, _BULLET)
        for done, thread, frames in (
            ("allocated", block.allocating_thread, block.allocated_by),
            ("freed", block.freeing_thread, block.freed_by),
        ):
            if thread is not None:
                yield row(done, f"by thread {thread}")
            yield from _stack("" if thread is not None else done, frames)
    if each.probability < _LEAST_EVIDENCE_SHOWN:
        return
    for sign, evidence in (("+", each.evidence_for), ("-", each.evidence_against)):
        for fact in evidence[:_SHOWN_EVIDENCE]:
            first = f"{_BULLET}{sign} "
            yield wrapped(f"{fact.text} ({_odds(fact)})", first, " " * len(first))


def _percent(probability: float) -> str:
    """Return a probability without claiming what cannot be known."""
    percent = round(probability * 100)
    if percent >= 100:
        return ">99 %" if probability < 1 else "100 %"
    return f"{percent} %"


def _odds(fact: Evidence) -> str:
    if fact.ratio >= 1:
        return "nothing else explains it" if fact.ratio >= _SURE else f"{_times(fact.ratio)} for"
    return f"{_times(1 / max(fact.ratio, 1e-6))} against"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} to 1" if ratio >= 10 else f"{ratio:.1f} to 1"


def _where(explanation: Explanation) -> Iterator[str]:
    crash = explanation.crash
    yield "Where:"
    if crash.fault.mode is CheckMode.SYNC and crash.fault.address is not None:
        yield row("fault", _fault(crash, explanation.neighbourhood))
        yield from _mapping(crash)
    if access := _access(crash):
        yield row("access", access)
    if crash.allocator.kind.value != "unknown" or crash.allocator.known_by:
        yield row("allocator", _allocator(crash))
    if explanation.neighbourhood is not None:
        yield from _around(explanation.neighbourhood)
    yield from _stack("stack", crash.backtrace)
    for cause in crash.allocator.reported:
        yield row("reported", cause.text)


def _fault(crash: Crash, around: Neighbourhood | None) -> str:
    fault = crash.fault
    met = fault.memory_tag
    if met is None and around is not None:
        met = around.memory_tag
    tags = [
        f"{what} {tag:#x}"
        for what, tag in (("logical tag", fault.pointer_tag), ("allocation tag", met))
        if tag is not None
    ]
    return f"{fault.address:#x}" + (f": {', '.join(tags)}" if tags else "")


def _mapping(crash: Crash) -> Iterator[str]:
    address = crash.fault.address or 0
    mapping = crash.mapping_of(address)
    if mapping is not None:
        yield row("mapping", f"{mapping.name} + {address - mapping.start:#x}")


def _access(crash: Crash) -> str:
    access = crash.access
    if access is None:
        return ""
    parts = [] if access.pc is None else [f"pc {access.pc:#x}"]
    if access.text:
        parts.append(access.text)
    size = access.size_bytes or crash.fault.size_bytes
    direction = access.direction or crash.fault.direction
    if direction:
        parts.append(f"a {direction.value}" + (f" of {size} bytes" if size else ""))
    if access.base:
        parts.append(f"pointer in {access.base}")
    return ", ".join(parts)


def _allocator(crash: Crash) -> str:
    known_by = crash.allocator.known_by
    return crash.allocator.kind.value + (f", by {known_by}" if known_by else "")


def _around(around: Neighbourhood) -> Iterator[str]:
    nearest = around.nearest
    if nearest is None:
        yield row("nearest", "no run of granules near here has the pointer's tag")
        return
    side = "before" if nearest.distance_bytes >= 0 else "behind"
    run = nearest.run
    yield row(
        "nearest",
        f"the nearest run with the pointer's tag is [{run.start:#x}, {run.end:#x}), it ends"
        f" {nearest.distance_bytes:#x} bytes {side} the fault"
        if side == "before"
        else f"the nearest run with the pointer's tag is [{run.start:#x}, {run.end:#x}), it starts"
        f" {-nearest.distance_bytes:#x} bytes {side} the fault",
    )


def _stack(title: str, frames: tuple[StackFrame, ...]) -> Iterator[str]:
    for number, frame in enumerate(frames[:_SHOWN_FRAMES]):
        yield row(title if number == 0 else "", _frame(number, frame))
    if len(frames) > _SHOWN_FRAMES:
        yield row("", f"... and {len(frames) - _SHOWN_FRAMES} more")


def _frame(number: int, frame: StackFrame) -> str:
    parts = [f"#{number}"]
    if frame.pc is not None:
        parts.append(f"{frame.pc:#x}")
    if frame.symbol is not None:
        parts.append(frame.symbol)
    if frame.module is not None:
        offset = "" if frame.module_offset is None else f" + {frame.module_offset:#x}"
        parts.append(f"in {frame.module}{offset}")
    if frame.source is not None:
        parts.append(f"at {frame.source}")
    return " ".join(parts)
