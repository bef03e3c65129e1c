"""From a crash to its explanation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from tagalong.explain.crash import Allocator, CheckMode, Crash
from tagalong.explain.explanation import Cause, Explanation, Hypothesis
from tagalong.explain.hypotheses import weigh, weigh_blind
from tagalong.explain.stack import is_stack
from tagalong.explain.surroundings import Surroundings, look_around, neighbourhood_of
from tagalong.mte.pointers import address_of, logical_tag

_CLOSE: Final = 0.1
_SMALLEST_POINTER: Final = 1 << 16
_BLIND: Final = (
    "No tag of the memory at the fault is known: the probabilities are those of such faults in "
    "general, and say nothing about this one beyond its pointer's tag."
)


def explain(crash: Crash) -> Explanation:
    """Return what can be said about a crash, and how surely."""
    classes = tuple(register_classes(crash))
    if crash.fault.mode is CheckMode.ASYNC:
        return Explanation(crash, None, (_asynchronous(crash),), _asynchronous_limits(crash),
                           classes)  # fmt: skip
    if crash.fault.mode is CheckMode.NONE:
        return Explanation(crash, None, (), register_classes=classes)
    around = look_around(crash)
    if crash.fault.pointer_tag is None:
        return Explanation(crash, None, (), ("The pointer's tag is not known.",), classes)
    if around is None:
        return Explanation(crash, None, weigh_blind(crash), (_BLIND,), classes)
    hypotheses = weigh(crash, around)
    return Explanation(
        _completed(crash, around),
        neighbourhood_of(crash, around),
        hypotheses,
        tuple(_limits(hypotheses)),
        classes,
    )


def _completed(crash: Crash, around: Surroundings) -> Crash:
    """Return the crash with what its memory says and its source does not."""
    fault, facts = crash.fault, crash.allocator
    if fault.memory_tag is None and fault.granule is not None:
        fault = replace(fault, memory_tag=around.tag_at(fault.granule))
    if facts.kind is Allocator.UNKNOWN:
        facts = replace(facts, kind=around.kind, known_by=around.known_by)
    return replace(crash, fault=fault, allocator=facts)


def _asynchronous(crash: Crash) -> Hypothesis:
    suspects = ", ".join(name for name, _ in _suspects(crash))
    return Hypothesis(
        Cause.ASYNCHRONOUS,
        1.0,
        "asynchronous fault: some access of this thread failed its check before the pc"
        + (f"; {suspects} would fail one now" if suspects else ""),
    )


def _asynchronous_limits(crash: Crash) -> tuple[str, ...]:
    said = ["The CPU reports such a fault at the next entry into the kernel: which access it was, "
            "and where, is lost. Run the program with synchronous checks to see it."]  # fmt: skip
    if any(True for _ in _suspects(crash)):
        said.append("A register that points to memory of another tag is a suspect, no proof: its "
                    "tag can be stale without being used.")  # fmt: skip
    return tuple(said)


def _suspects(crash: Crash) -> Iterator[tuple[str, int]]:
    """Yield registers whose tag is not that of the memory that they point to."""
    for name, value in (crash.registers or {}).items():
        tag = logical_tag(value)
        met = crash.tag_at(address_of(value)) if _is_pointer(name, value) else None
        if tag and met is not None and met != tag:
            yield name, value


def _is_pointer(name: str, value: int) -> bool:
    return name not in ("pc", "pstate") and address_of(value) >= _SMALLEST_POINTER


def _limits(hypotheses: tuple[Hypothesis, ...]) -> Iterator[str]:
    """Yield why the best hypotheses cannot be told apart, if they cannot."""
    if not hypotheses:
        yield "Nothing that is known explains this fault."
        return
    top = hypotheses[0]
    for other in hypotheses[1:]:
        if other.probability < _CLOSE or other.cause is top.cause:
            continue
        pair = frozenset((top.cause, other.cause))
        yield next(
            (text for causes, text in _COLLISIONS if pair & causes == pair),
            f"{top.cause.value} and {other.cause.value} leave the same tags here.",
        )
    same = [h for h in hypotheses[1:] if h.cause is top.cause and h.probability >= _CLOSE]
    if same:
        yield (
            "More than one block has the pointer's tag: there are few tags, so that one block in "
            "about 15 has it by chance. Which of them was meant cannot be told."
        )


_STALE: Final = frozenset(
    (Cause.USE_AFTER_FREE, Cause.USE_AFTER_REUSE, Cause.DOUBLE_FREE, Cause.WILD_POINTER)
)
_COLLISIONS: Final = (
    (
        frozenset((Cause.USE_AFTER_FREE, Cause.USE_AFTER_REUSE, Cause.OVERFLOW, Cause.UNDERFLOW)),
        "A tag has four bits: a stale pointer has the tag of some block nearby by chance, and then "
        "looks like an overflow of that block.",
    ),
    (
        frozenset((Cause.USE_AFTER_FREE, Cause.DOUBLE_FREE)),
        "A double free is a use after free by the allocator itself: without its symbols only the "
        "instruction tells them apart.",
    ),
    (
        _STALE,
        "Memory keeps no record of the tags that it had before: a pointer to an earlier block "
        "there and a corrupt pointer look the same.",
    ),
    (
        frozenset((Cause.LOST_MEMORY_TAGS, Cause.USE_AFTER_FREE, Cause.OVERFLOW)),
        "Freed memory has tag 0 here, and so has memory that lost its tags.",
    ),
)


def register_classes(crash: Crash) -> Iterator[tuple[str, str]]:
    """Yield what each register is: a kind of pointer, or a number. Nothing of its value."""
    registers: Mapping[str, int] = crash.registers or {}
    for name, value in registers.items():
        if name != "pstate":
            yield name, _class_of(crash, value)


def _class_of(crash: Crash, value: int) -> str:
    address, tag = address_of(value), logical_tag(value)
    if address < _SMALLEST_POINTER:
        return "small number" if value else "zero"
    met, on_stack = crash.tag_at(address), is_stack(crash, address)
    if met is not None:
        agrees = "its own tag" if met == tag else "another tag"
        kind = "the stack" if on_stack else "tagged memory"
        return f"pointer with tag {tag:#x} to {kind} with {agrees}"
    if on_stack:
        return "pointer to the stack"
    if crash.mapping_of(address) is not None:
        return "pointer into a module"
    is_memory = any(each.address <= address < each.end for each in crash.memory.extents)
    return "pointer to untagged memory" if is_memory else "number"
