"""The page of `tagalong explain`: story, hypotheses with evidence, map, registers, memory."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tagalong.explain.crash import UNKNOWN_TAG, Block, Crash, StackFrame
from tagalong.explain.explanation import Evidence, Explanation, Hypothesis
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of
from tagalong.views.granules import granules_of_fault
from tagalong.views.page.document import document
from tagalong.views.page.elements import Child, Html, element, facts, join, table
from tagalong.views.page.map_data import CrashPlane, MapMark, map_data
from tagalong.views.page.map_page import map_section

_HEX_BYTES: Final = 512
_MAX_FRAMES: Final = 64
_LEAST_SHOWN_PERCENT: Final = 0.1


def crash_page(explanation: Explanation) -> str:
    """Return the page about one crash. Raises what reading its memory raises."""
    crash = explanation.crash
    marks = [*_marks(explanation)]
    focus = [mark.start for mark in marks] + _pointed(crash)
    data = map_data(CrashPlane(crash.memory), tag_bits=crash.tag_bits, focus=focus, marks=marks)
    title = f"What happened: {crash.process or crash.name}"
    body = element(
        "main",
        element("h1", title),
        element("p", _story(explanation)),
        element("div", facts(_facts(crash)), class_="panel"),
        _hypotheses(explanation),
        map_section(data, "the fault" if marks else None) if data.regions else join(),
        _memory(crash),
        _registers(explanation),
        _backtrace(crash.backtrace),
        _sentences("What cannot be told apart", explanation.limits),
        _sentences("Notes of the reader", crash.notes),
    )
    return document(title, body, data.to_json())


def percent(probability: float) -> str:
    """Return a probability without claiming what cannot be known."""
    rounded = round(100 * probability)
    return ">99 %" if rounded == 100 and probability < 1 else f"{rounded} %"


def _story(explanation: Explanation) -> str:
    top = explanation.top
    reason = explanation.crash.fault.reason
    if top is None:
        return f"{reason}. No tag check failed, so there is nothing to weigh."
    return f"{reason}. Most likely ({percent(top.probability)}): {top.text}"


def _facts(crash: Crash) -> Iterator[tuple[str, Child]]:
    fault, access = crash.fault, crash.access
    yield "Read from", f"{crash.name} ({crash.source.value})"
    yield "Tag check", fault.mode.value
    if fault.address is not None:
        yield "Address", f"{fault.address:#x}"
        mapping = crash.mapping_of(fault.address)
        if mapping is not None:
            yield "Mapping", f"{mapping.name} [{mapping.start:#x}, {mapping.end:#x})"
    if fault.pointer_tag is not None:
        yield "Logical tag", f"{fault.pointer_tag:x}"
    if fault.memory_tag is not None:
        yield "Allocation tag", f"{fault.memory_tag:x}"
    if access is not None:
        at = "" if access.pc is None else f" at {access.pc:#x}"
        yield "Instruction", f"{access.text or 'not known'}{at}"
    size = (access and access.size_bytes) or fault.size_bytes
    direction = (access and access.direction) or fault.direction
    if size or direction:
        yield "Access", " ".join(filter(None, [direction, f"of {size} bytes" if size else ""]))
    yield "Allocator", crash.allocator.kind.value
    for reported in crash.allocator.reported:
        yield "The report itself says", reported.text


def _hypotheses(explanation: Explanation) -> Html:
    shown = [
        each
        for number, each in enumerate(explanation.hypotheses)
        if not number or 100 * each.probability >= _LEAST_SHOWN_PERCENT
    ]
    if not shown:
        return join()
    return element(
        "section",
        element("h2", "Hypotheses"),
        element(
            "p",
            "Each with its probability, the facts for and against it, and how many times more "
            "often, or less often, each fact is seen with it than with the others.",
            class_="soft",
        ),
        [_hypothesis(each, is_first=not number) for number, each in enumerate(shown)],
    )


def _hypothesis(each: Hypothesis, *, is_first: bool) -> Html:
    probability = percent(each.probability)
    return element(
        "details",
        element(
            "summary",
            element("span", probability, class_="percent"),
            element("span", element("strong", each.cause.value), ": ", each.text),
        ),
        element(
            "meter", probability, value=f"{each.probability:.4f}", min="0", max="1",
            aria_label=f"Probability of {each.cause.value}",
        ),
        element(
            "ul",
            [_evidence(fact, "for") for fact in each.evidence_for],
            [_evidence(fact, "against") for fact in each.evidence_against],
        ),
        [] if each.block is None else [*_history(each.block)],
        class_="hypothesis panel",
        open="" if is_first else None,
    )  # fmt: skip


def _history(block: Block) -> Iterator[Html]:
    """Yield who allocated a block and who freed it, as far as somebody wrote that down."""
    for word, thread, frames in (
        ("Allocated", block.allocating_thread, block.allocated_by),
        ("Freed", block.freeing_thread, block.freed_by),
    ):
        if thread is not None or frames:
            yield element("p", word + ("" if thread is None else f" by thread {thread}"))
            yield _frames(frames)


def _evidence(fact: Evidence, side: str) -> Html:
    ratio = fact.ratio if fact.ratio >= 1 or not fact.ratio else 1 / fact.ratio
    word = "more" if fact.ratio >= 1 else "less"
    weight = f" ({ratio:,.3g} times {word} often)" if fact.ratio else ""
    return element("li", fact.text, element("span", weight, class_="soft"), class_=side)


def _marks(explanation: Explanation) -> Iterator[MapMark]:
    """Yield the fault, then the blocks around it."""
    crash = explanation.crash
    granule = crash.fault.granule
    if granule is None:
        return
    yield MapMark(granule, granule + GRANULE_BYTES, "the fault")
    window = granules_of_fault(explanation)
    for block in window.blocks if window else ():
        yield MapMark(block.start, block.end, f"block {block.letter}: {block.text}", block.letter)


def _pointed(crash: Crash) -> list[int]:
    return [address_of(value) for value in (crash.registers or {}).values()]


def _memory(crash: Crash) -> Html:
    """Return memory and tags around the fault, a granule per row; empty if nothing is known."""
    granule = crash.fault.granule
    if granule is None:
        return join()
    start = max(granule - _HEX_BYTES // 2, 0)
    rows = [*_memory_rows(crash, start, granule)]
    if not rows:
        return join()
    return element(
        "section",
        element("h2", "Memory around the fault"),
        _memory_table(rows),
    )


def _memory_table(rows: Iterable[Html]) -> Html:
    heads = [element("th", head, scope="col") for head in ("Address", "Tag", "Bytes", "Text")]
    caption = "Granules around the fault with their tags"
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", heads)),
            element("tbody", rows),
        ),
        class_="scroll", tabindex="0", role="region", aria_label=caption,
    )  # fmt: skip


def _memory_rows(crash: Crash, start: int, fault: int) -> Iterator[Html]:
    tags = crash.memory.tags(start, _HEX_BYTES).tolist()
    for number, tag in enumerate(tags):
        address = start + number * GRANULE_BYTES
        content = crash.memory.data(address, GRANULE_BYTES)
        if tag == UNKNOWN_TAG and content is None and address != fault:
            continue
        word = "-" if tag == UNKNOWN_TAG else f"{tag:x}"
        colour = "none" if tag == UNKNOWN_TAG else f"t{tag & 15:x}"
        yield element(
            "tr",
            element("td", f"{address:#x}"),
            element("td", element("span", f" {word} ", class_=colour)),
            element("td", "not in the file" if content is None else content.hex(" ", 4)),
            element("td", "" if content is None else _characters(content)),
            class_="here" if address == fault else None,
            aria_label="the fault" if address == fault else None,
        )


def _characters(content: bytes) -> str:
    return "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in content)


def _registers(explanation: Explanation) -> Html:
    crash = explanation.crash
    classes = dict(explanation.register_classes)
    names = [*(crash.registers or {}), *(each for each in classes if not crash.registers)]
    if not names:
        return join()
    rows = [
        [
            name,
            f"{crash.registers[name]:#018x}" if crash.registers else "",
            classes.get(name, ""),
            "holds the pointer" if crash.access and crash.access.base == name else "",
        ]
        for name in names
    ]
    return element(
        "section",
        element("h2", "Registers"),
        table(["Register", "Value", "What it is", ""], rows, "Registers at the fault"),
    )


def _backtrace(frames: Sequence[StackFrame]) -> Html:
    if not frames:
        return join()
    more = len(frames) - _MAX_FRAMES
    note = element("p", f"{more:,} more frames", class_="soft") if more > 0 else join()
    return element("section", element("h2", "Backtrace"), _frames(frames), note)


def _frames(frames: Sequence[StackFrame]) -> Html:
    items = [element("li", element("code", _frame(frame))) for frame in frames[:_MAX_FRAMES]]
    return element("ol", items) if items else join()


def _frame(frame: StackFrame) -> str:
    pc = "" if frame.pc is None else f"{frame.pc:#x} "
    offset = "" if frame.module_offset is None else f"+{frame.module_offset:#x}"
    module = f" ({frame.module}{offset})" if frame.module else ""
    source = f" at {frame.source}" if frame.source else ""
    return f"{pc}{frame.symbol or ''}{module}{source}".strip() or "not known"


def _sentences(title: str, sentences: Sequence[str]) -> Html:
    if not sentences:
        return join()
    return element(
        "section", element("h2", title), element("ul", [element("li", e) for e in sentences])
    )
