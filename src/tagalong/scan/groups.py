"""Crashes with one signature, ranked, and what the members of each group share."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tagalong.scan.record import CrashRecord

SHARED_FEATURES: Final = (
    "place", "module", "build", "block_bytes", "distance_bytes", "allocator", "direction",
    "access_bytes", "process", "pointer_tag", "memory_tag", "mode", "source", "world",
)  # fmt: skip
"""Fields of a record that a group's members can share, what says most first."""

_SHARED: Final = 0.8
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class SharedFeature:
    """A value that most of a group have: `share` of it, and `share_of_all` of all crashes."""

    name: str
    value: object
    share: float
    share_of_all: float


@dataclass(frozen=True)
class CrashGroup:
    """Crashes with one signature. `probability`: mean of the most likely hypotheses."""

    signature: str
    title: str
    cause: str
    count: int
    share: float
    probability: float | None
    shared: tuple[SharedFeature, ...]
    examples: tuple[str, ...]


@dataclass
class ScanResult:
    """All that a scan found. `failures`: files that could not be explained, by class of error."""

    crashes: int = 0
    files: int = 0
    groups: list[CrashGroup] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    failed: list[CrashRecord] = field(default_factory=list)
    duration_s: float = 0.0
    explained_s: float = 0.0


def summarize(records: Iterable[CrashRecord]) -> ScanResult:
    """Group records by signature: the largest group first, then the most certain one."""
    result = ScanResult()
    members: defaultdict[str, list[CrashRecord]] = defaultdict(list)
    all_values: dict[str, Counter[object]] = {name: Counter() for name in SHARED_FEATURES}
    files = set()
    for record in records:
        files.add(record.item)
        result.explained_s += record.duration_s
        if record.signature is None:
            result.failures[record.error_class or "unknown"] += 1
            result.failed.append(record)
            continue
        result.crashes += 1
        members[record.signature].append(record)
        for name, values in all_values.items():
            values[getattr(record, name)] += 1
    result.files = len(files)
    result.groups = [
        _group(signature, found, all_values, result.crashes) for signature, found in members.items()
    ]
    result.groups.sort(key=lambda each: (-each.count, -(each.probability or 0), each.signature))
    return result


def _group(
    signature: str,
    members: Sequence[CrashRecord],
    all_values: Mapping[str, Counter[object]],
    total: int,
) -> CrashGroup:
    sure = [each.probability for each in members if each.probability is not None]
    titles = Counter(each.title for each in members)
    return CrashGroup(
        signature,
        titles.most_common(1)[0][0] or signature,
        members[0].cause or "",
        len(members),
        len(members) / total,
        sum(sure) / len(sure) if sure else None,
        tuple(_shared(members, all_values, total)),
        tuple(sorted(each.url for each in members)[:_EXAMPLES]),
    )


def _shared(
    members: Sequence[CrashRecord], all_values: Mapping[str, Counter[object]], total: int
) -> list[SharedFeature]:
    """Return what most members have, what tells the group from the others first."""
    if len(members) < 2:
        return []
    found = []
    for name, values in all_values.items():
        value, count = Counter(getattr(each, name) for each in members).most_common(1)[0]
        if value is not None and count >= _SHARED * len(members):
            found.append(SharedFeature(name, value, count / len(members), values[value] / total))
    return sorted(found, key=lambda each: each.share_of_all - each.share)
