"""The answer: where, what lies around it, and how likely each cause is; as values and as JSON.

docs/formats/explanation.md is normative for the JSON.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tagalong.core.tag_runs import TagRun
from tagalong.explain.crash import Block, Crash, StackFrame

SCHEMA_VERSION: Final = 1

Json = dict[str, object]


class Cause(StrEnum):
    """What can be behind a failed tag check; the values are those of the JSON."""

    OVERFLOW = "overflow"
    UNDERFLOW = "underflow"
    USE_AFTER_FREE = "use-after-free"
    USE_AFTER_REUSE = "use-after-reuse"
    DOUBLE_FREE = "double-free"
    INVALID_FREE = "invalid-free"
    LOST_POINTER_TAG = "lost-pointer-tag"
    WILD_POINTER = "wild-pointer"
    LOST_MEMORY_TAGS = "lost-memory-tags"
    MATCH_ALL = "match-all"
    STACK_OVERFLOW = "stack-buffer-overflow"
    STACK_USE_AFTER_RETURN = "stack-use-after-return"
    ASYNCHRONOUS = "asynchronous"


@dataclass(frozen=True)
class Evidence:
    """A fact, and how many times more often it is seen with this cause than with the others.

    `ratio` above 1 speaks for the cause, below 1 against it. `text` names no address and nothing
    of memory's content, so that it can be shown in a redacted explanation.
    """

    text: str
    ratio: float


@dataclass(frozen=True)
class Hypothesis:
    """One cause with its probability; those of an explanation add up to 1.

    `block`: whose pointer was used. `distance_bytes`: the first byte touched, from the block's
    end (overflow, 0 is the byte after it) or its start (otherwise; negative before it).
    """

    cause: Cause
    probability: float
    text: str
    block: Block | None = None
    distance_bytes: int | None = None
    evidence_for: tuple[Evidence, ...] = ()
    evidence_against: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class NearestRun:
    """The run with the pointer's tag that is nearest to the fault.

    `distance_bytes`: from the run's end to the fault if the run is before it, negative from the
    run's start if it is behind it.
    """

    run: TagRun
    distance_bytes: int


@dataclass(frozen=True)
class Neighbourhood:
    """The memory around the fault: runs of tags in order, blocks in order.

    `fault_run`: the number of the run with the fault, None if its tag is not known. `blocks`
    are those that headers or reports tell of; where nothing tells, runs stand for them.
    """

    start: int
    end: int
    runs: tuple[TagRun, ...] = ()
    fault_run: int | None = None
    memory_tag: int | None = None
    blocks: tuple[Block, ...] = ()
    nearest: NearestRun | None = None


@dataclass(frozen=True)
class Explanation:
    """The answer to one crash.

    `hypotheses`: most likely first; empty if no tag check failed. `limits`: what cannot be told
    apart here, and why. `is_redacted`: no data, paths or names are in it, and addresses are
    relative to the fault's page.
    """

    crash: Crash
    neighbourhood: Neighbourhood | None
    hypotheses: tuple[Hypothesis, ...]
    limits: tuple[str, ...] = ()
    register_classes: tuple[tuple[str, str], ...] = ()
    is_redacted: bool = False

    @property
    def top(self) -> Hypothesis | None:
        """Return the most likely hypothesis, None if there is none."""
        return self.hypotheses[0] if self.hypotheses else None

    def to_json(self) -> Json:
        """Return the explanation as plain values; addresses are hex strings."""
        crash = self.crash
        return {
            "schema": SCHEMA_VERSION,
            "redacted": self.is_redacted,
            "source": {"kind": crash.source.value, "world": crash.world.value,
                       "name": crash.name, "process": crash.process, "thread": crash.thread},
            "fault": _fault(crash),
            "access": _access(crash),
            "registers": crash.registers and {n: hex(v) for n, v in crash.registers.items()},
            "register_classes": dict(self.register_classes),
            "backtrace": [_frame(frame) for frame in crash.backtrace],
            "allocator": {"kind": crash.allocator.kind.value,
                          "known_by": crash.allocator.known_by,
                          "reported": [each.text for each in crash.allocator.reported]},
            "neighbourhood": _neighbourhood(self.neighbourhood),
            "hypotheses": [_hypothesis(each) for each in self.hypotheses],
            "limits": [*self.limits],
            "notes": [*crash.notes],
        }  # fmt: skip


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _fault(crash: Crash) -> Json:
    fault = crash.fault
    mapping = None if fault.address is None else crash.mapping_of(fault.address)
    return {
        "mode": fault.mode.value,
        "reason": fault.reason,
        "address": _hex(fault.address),
        "pointer_tag": fault.pointer_tag,
        "memory_tag": fault.memory_tag,
        "mapping": mapping
        and {
            "name": mapping.name,
            "start": hex(mapping.start),
            "end": hex(mapping.end),
            "offset": None
            if fault.address is None
            else hex(fault.address - mapping.start + (mapping.file_offset or 0)),
        },
    }


def _access(crash: Crash) -> Json:
    fault, access = crash.fault, crash.access
    return {
        "pc": _hex(None if access is None else access.pc),
        "instruction": access and access.text,
        "size_bytes": (access and access.size_bytes) or fault.size_bytes,
        "direction": (access and access.direction) or fault.direction,
        "base": access and access.base,
        "index": access and access.index,
        "offset_bytes": access and access.offset_bytes,
    }


def _frame(frame: StackFrame) -> Json:
    return {
        "pc": _hex(frame.pc),
        "symbol": frame.symbol,
        "module": frame.module,
        "module_offset": _hex(frame.module_offset),
        "build": frame.build,
        "source": frame.source,
    }


def _run(run: TagRun) -> Json:
    return {"start": hex(run.start), "end": hex(run.end), "tag": run.tag}


def _block(block: Block) -> Json:
    return {
        "start": hex(block.start),
        "end": hex(block.end),
        "size_bytes": block.size_bytes,
        "exact": block.is_exact,
        "tag": block.tag,
        "state": block.state.value,
        "known_by": block.known_by,
        "allocated_by": [_frame(frame) for frame in block.allocated_by],
        "freed_by": [_frame(frame) for frame in block.freed_by],
        "allocating_thread": block.allocating_thread,
        "freeing_thread": block.freeing_thread,
    }


def _neighbourhood(found: Neighbourhood | None) -> Json | None:
    if found is None:
        return None
    return {
        "start": hex(found.start),
        "end": hex(found.end),
        "memory_tag": found.memory_tag,
        "runs": [_run(run) for run in found.runs],
        "fault_run": found.fault_run,
        "blocks": [_block(block) for block in found.blocks],
        "nearest": found.nearest
        and {**_run(found.nearest.run), "distance_bytes": found.nearest.distance_bytes},
    }


def _hypothesis(each: Hypothesis) -> Json:
    return {
        "cause": each.cause.value,
        "probability": round(each.probability, 4),
        "text": each.text,
        "block": each.block and _block(each.block),
        "distance_bytes": each.distance_bytes,
        "for": [{"text": e.text, "ratio": round(e.ratio, 3)} for e in each.evidence_for],
        "against": [{"text": e.text, "ratio": round(e.ratio, 3)} for e in each.evidence_against],
    }
