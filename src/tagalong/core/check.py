"""The linter for cores: what gdb and lldb will do with the tags, and why.

Every statement about a debugger was tried with the versions in `findings.DEBUGGERS`;
tests/interop runs them on a core for each rule and compares. docs/formats/core.md, section 6,
lists the rules.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from tagalong.binary.elf import ProgramHeader
from tagalong.core.findings import (
    DEBUGGERS,
    Effect,
    Finding,
    Harm,
    Level,
    Rule,
    Tags,
    Verdict,
)
from tagalong.core.headers import is_not_written
from tagalong.core.kernel_check import KernelVerdict, kernel_verdict
from tagalong.core.note_types import OWNER_LINUX, NoteType, SegmentType
from tagalong.core.notes import Note, is_core, other_system, threads_of
from tagalong.core.reader import Core
from tagalong.core.thread_notes import AT_HWCAP2, HWCAP2_MTE
from tagalong.errors import MalformedCoreError
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO
from tagalong.mte.pointers import LOGICAL_TAG_SHIFT

MAX_FINDINGS = 1000
"""How many findings of one rule are reported: a hostile file makes a million."""

_OLD_MEMTAG = 0x7000_0001
_ELFOSABI_GNU = 3
_NO_TAGGING = "Memory tagging not supported or disabled"
_NOT_TAGGED = "not in a region mapped with a memory tagging flag"


@dataclass(frozen=True)
class CheckReport:
    """All findings about a core, and what follows for each debugger.

    `kernel`: what follows for drgn and crash, None if the core is not of a whole machine.
    """

    findings: tuple[Finding, ...]
    verdicts: tuple[Verdict, ...]
    kernel: KernelVerdict | None = None

    @property
    def is_clean(self) -> bool:
        """Return whether there is nothing but notes."""
        return all(finding.level is Level.NOTE for finding in self.findings)


def check_core(core: Core) -> CheckReport:
    """Look at everything that matters for the tags of an open core. Changes nothing.

    Of each rule, the first MAX_FINDINGS findings are reported, and one more that counts the
    rest. The verdicts take all of them into account.
    """
    reported: list[Finding] = []
    left_out: Counter[tuple[Rule, Level]] = Counter()
    tallies = {name: _Tally() for name in DEBUGGERS}
    seen: Counter[Rule] = Counter()
    for finding in chain.from_iterable(rule(core) for rule in _RULES):
        seen[finding.rule] += 1
        if seen[finding.rule] <= MAX_FINDINGS:
            reported.append(finding)
        else:
            left_out[finding.rule, finding.level] += 1
        for name, tally in tallies.items():
            tally.add(finding, finding.effect(name))
    reported += [
        Finding(rule, level, f"{count} more like these are left out")
        for (rule, level), count in left_out.items()
    ]
    verdicts = (_verdict(name, tally, len(core.tag_segments)) for name, tally in tallies.items())
    return CheckReport(tuple(reported), tuple(verdicts), kernel_verdict(core))


class _Tally:
    """What all findings together do to the tags that one debugger shows."""

    def __init__(self) -> None:
        self.reasons: dict[Rule, None] = {}
        self.harms: set[Harm] = set()
        self.lost_segments: set[int | None] = set()
        self.is_other_system = False

    def add(self, finding: Finding, effect: Effect | None) -> None:
        self.is_other_system |= finding.rule is Rule.OTHER_SYSTEM
        if effect is None or effect.harm is None:
            return
        self.reasons[finding.rule] = None
        self.harms.add(effect.harm)
        if effect.harm is Harm.HERE:
            self.lost_segments.add(finding.offset)


def _verdict(debugger: str, tally: _Tally, segments: int) -> Verdict:
    if tally.is_other_system:
        return Verdict(debugger, Tags.UNKNOWN, False, (Rule.OTHER_SYSTEM,))
    reasons, wrong = tuple(tally.reasons), Harm.WRONG in tally.harms
    if Harm.ALL in tally.harms:
        return Verdict(debugger, Tags.NONE, False, reasons)
    if tally.lost_segments and len(tally.lost_segments) == segments:
        return Verdict(debugger, Tags.NONE, wrong, reasons)
    some = tally.harms & {Harm.HERE, Harm.PART}
    return Verdict(debugger, Tags.SOME if some else Tags.ALL, wrong, reasons)


def _no_tag_segments(core: Core) -> Iterator[Finding]:
    if core.tag_segments:
        return
    old = [h for h in core.headers if h.type == _OLD_MEMTAG and _looks_like_tags(h)]
    for header in old:
        yield _about(
            header,
            Rule.OLD_TAG_TYPE,
            Level.ERROR,
            f"tags in a segment of type {_OLD_MEMTAG:#x}, as kernels before the release of 5.18 "
            f"wrote it; it is {SegmentType.PT_AARCH64_MEMTAG_MTE:#x} since then",
        )
    yield Finding(
        Rule.NO_TAG_SEGMENTS,
        Level.WARNING,
        "the core has no tags: not even zero, they are unknown",
        gdb=Effect(_NO_TAGGING, Harm.ALL),
        lldb=Effect("Process does not support memory tagging", Harm.ALL),
    )


def _looks_like_tags(header: ProgramHeader) -> bool:
    return 0 < header.file_bytes == header.size_bytes // PACKED_RATIO


def _notes(core: Core) -> Iterator[Finding]:
    try:
        notes = core.notes
        vcpus = core.vcpus
        auxiliary = core.auxiliary_vector
    except MalformedCoreError as error:
        yield Finding(Rule.DAMAGED_NOTES, Level.ERROR, str(error), offset=error.offset)
        return
    if other := other_system(notes):
        yield Finding(
            Rule.OTHER_SYSTEM,
            Level.WARNING,
            f"a core of {other}: its registers are in notes of its own, which tagalong does not "
            "read. Memory and tags are served. What gdb and lldb show of such a core was not tried",
        )
        return
    if not vcpus:
        yield Finding(
            Rule.NO_REGISTERS,
            Level.WARNING,
            "no NT_PRSTATUS note: the core has no registers",
            gdb=Effect("Couldn't find general-purpose registers in core file"),
        )
    if core.tag_segments:
        yield from _hwcap2(auxiliary)
        yield from _tagged_addr_ctrl(core, notes)
    yield from _machine(core)
    yield from _vmcoreinfo(core)


def _hwcap2(auxiliary: dict[int, int] | None) -> Iterator[Finding]:
    if auxiliary is not None and auxiliary.get(AT_HWCAP2, 0) & HWCAP2_MTE:
        return
    lack = "no NT_AUXV note" if auxiliary is None else "AT_HWCAP2 has no HWCAP2_MTE (bit 18)"
    yield Finding(
        Rule.NO_HWCAP2_MTE,
        Level.WARNING,
        f"{lack}: nothing says that this machine has MTE",
        gdb=Effect(_NOT_TAGGED, Harm.ALL),
    )


def _tagged_addr_ctrl(core: Core, notes: tuple[Note, ...]) -> Iterator[Finding]:
    lacking = [
        thread[0]
        for thread in threads_of(notes)
        if not any(is_core(note, NoteType.NT_ARM_TAGGED_ADDR_CTRL) for note in thread)
    ]
    is_linux = any(note.owner == OWNER_LINUX for note in notes)
    if not is_linux and core.osabi != _ELFOSABI_GNU:
        yield Finding(
            Rule.NO_TAGGED_ADDR_CTRL,
            Level.WARNING,
            "no NT_ARM_TAGGED_ADDR_CTRL note (0x409), nor any other of owner LINUX, nor "
            "EI_OSABI 3: nothing says that this is Linux",
            gdb=Effect("$tag_ctl is unavailable"),
            lldb=Effect("rejects the core: Unsupported OS", Harm.ALL),
        )
    elif lacking:
        yield Finding(
            Rule.NO_TAGGED_ADDR_CTRL,
            Level.NOTE,
            f"{len(lacking)} of the threads have no NT_ARM_TAGGED_ADDR_CTRL note (0x409)",
            offset=lacking[0].at,
            gdb=Effect("$tag_ctl is unavailable"),
        )


def _machine(core: Core) -> Iterator[Finding]:
    try:
        _ = core.machine
    except MalformedCoreError as error:
        yield Finding(Rule.DAMAGED_MACHINE_NOTE, Level.ERROR, str(error), offset=error.offset)


def _vmcoreinfo(core: Core) -> Iterator[Finding]:
    try:
        _ = core.vmcoreinfo
    except MalformedCoreError as error:
        yield Finding(Rule.DAMAGED_VMCOREINFO, Level.ERROR, str(error), offset=error.offset)


def _cut_short(core: Core) -> Iterator[Finding]:
    for header in core.headers:
        # Notes that are cut are damaged notes.
        if not header.is_cut or header.type == SegmentType.PT_NOTE:
            continue
        is_tags = header.type == SegmentType.PT_AARCH64_MEMTAG_MTE
        yield _about(
            header,
            Rule.CUT_SHORT,
            Level.ERROR,
            f"the file ends at {core.source.size:#x}, the {_name(header)} at "
            f"{header.offset + header.file_bytes:#x}",
            gdb=Effect(
                "Couldn't read contents from memtag section",
                Harm.PART if header.available else Harm.HERE,
            )
            if is_tags
            else None,
            lldb=Effect("shows tags of zero for what is missing", Harm.WRONG) if is_tags else None,
        )


def _not_written(core: Core) -> Iterator[Finding]:
    """Say which memory had tags that were not written.

    Linux writes a tag segment for each mapping with PROT_MTE, and no tags if its
    coredump_filter leaves the mapping out. BFD drops a segment without bytes, so to gdb it is
    not there; lldb reads 1/32 of p_memsz from p_offset on, whatever p_filesz is.
    """
    empty = [header for header in core.tag_segments if is_not_written(header)]
    all_empty = len(empty) == len(core.tag_segments)
    gdb = Effect(_NO_TAGGING, Harm.ALL) if all_empty else Effect(_NOT_TAGGED, Harm.HERE)
    lldb = Effect(
        "takes the file's bytes behind the segment for tags, zero if there are none", Harm.WRONG
    )
    for header in empty:
        yield _about(
            header,
            Rule.TAGS_NOT_WRITTEN,
            Level.WARNING,
            f"tags not written: {header.size_bytes:#x} bytes of memory had tags, but their "
            "segment is empty, as of memory that Linux's coredump_filter leaves out",
            gdb=gdb,
            lldb=lldb,
        )


def _tag_sizes(core: Core) -> Iterator[Finding]:
    for header in core.tag_segments:
        needed = -(-header.size_bytes // PACKED_RATIO)
        if header.file_bytes == needed or is_not_written(header):
            continue
        short = header.file_bytes < needed
        invents = Effect("takes the file's bytes behind the segment for tags", Harm.WRONG)
        yield _about(
            header,
            Rule.TAG_SIZE,
            Level.ERROR,
            f"{header.size_bytes:#x} bytes of memory have {needed:#x} bytes of tags, but "
            f"p_filesz is {header.file_bytes:#x}",
            gdb=invents if short else None,
            lldb=invents if short else None,
        )


def _ranges(core: Core) -> Iterator[Finding]:
    ranges = {(load.address, load.size_bytes) for load in core.loads}
    for header in core.tag_segments:
        if (header.address, header.size_bytes) not in ranges:
            yield _about(
                header,
                Rule.UNEQUAL_RANGES,
                Level.WARNING,
                "no PT_LOAD has exactly the range of this tag segment",
                lldb=Effect("not in a memory tagged region", Harm.HERE),
            )


def _alignment(core: Core) -> Iterator[Finding]:
    for header in core.tag_segments:
        if header.address % GRANULE_BYTES or header.size_bytes % GRANULE_BYTES:
            yield _about(
                header,
                Rule.NOT_GRANULES,
                Level.ERROR,
                "a tag segment must start and end at a granule",
                gdb=Effect("counts granules from the segment's start, wherever that is"),
            )


def _overlaps(core: Core) -> Iterator[Finding]:
    for headers in (core.loads, core.tag_segments):
        widest: ProgramHeader | None = None
        for header in sorted(headers, key=lambda h: h.address):
            if widest and header.address < widest.end and header.size_bytes:
                yield _about(
                    header,
                    Rule.OVERLAP,
                    Level.ERROR,
                    f"this {_name(header)} overlaps the one of [{widest.address:#x}, "
                    f"{widest.end:#x}), whose header is at {widest.at:#x}",
                    gdb=Effect("takes the first in the file"),
                    lldb=Effect("takes the one that starts first"),
                )
            if widest is None or header.end > widest.end:
                widest = header


def _untagged(core: Core) -> Iterator[Finding]:
    bare = [region for region in core.regions if region.has_data and not region.has_tags]
    if not core.tag_segments or not bare:
        return
    size = sum(region.size_bytes for region in bare)
    yield Finding(
        Rule.NO_TAGS_HERE,
        Level.NOTE,
        f"{size:#x} bytes of memory have no tags, {len(bare)} such range(s), this is the first: "
        "not mapped with PROT_MTE, or not written",
        address=bare[0].address,
        end=bare[0].end,
        gdb=Effect(_NOT_TAGGED),
        lldb=Effect("not in a memory tagged region"),
    )


def _limits_of_lldb(core: Core) -> Iterator[Finding]:
    for header in core.tag_segments:
        if header.address >> LOGICAL_TAG_SHIFT:
            yield _about(
                header,
                Rule.LLDB_TOP_BYTE,
                Level.NOTE,
                "addresses whose top byte is not zero, as a kernel's",
                lldb=Effect("clears the top byte, then finds nothing there", Harm.HERE),
            )
    if core.tag_segments:
        yield Finding(
            Rule.LLDB_LAST_GRANULE,
            Level.NOTE,
            f"{len(core.tag_segments)} tag segment{'' if len(core.tag_segments) == 1 else 's'}, "
            "each with an end",
            lldb=Effect(
                "cannot read a range that ends exactly where a tag segment ends, or crosses it: "
                "No tag segment that covers this range"
            ),
        )


def _name(header: ProgramHeader) -> str:
    names = {
        SegmentType.PT_LOAD: "PT_LOAD",
        SegmentType.PT_AARCH64_MEMTAG_MTE: "tag segment",
    }
    return names.get(SegmentType(header.type), "segment") if header.type in names else "segment"


def _about(
    header: ProgramHeader,
    rule: Rule,
    level: Level,
    message: str,
    *,
    gdb: Effect | None = None,
    lldb: Effect | None = None,
) -> Finding:
    return Finding(
        rule, level, message, offset=header.at, address=header.address, end=header.end,
        gdb=gdb, lldb=lldb,
    )  # fmt: skip


_RULES: tuple[Callable[[Core], Iterator[Finding]], ...] = (
    _cut_short,
    _notes,
    _no_tag_segments,
    _not_written,
    _tag_sizes,
    _alignment,
    _overlaps,
    _ranges,
    _untagged,
    _limits_of_lldb,
)
