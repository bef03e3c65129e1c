"""Draws the protocol's table and diagram for docs/formats/stream.md.

python -m tests.support.draw_states
"""

from collections.abc import Iterator

from tagalong.wire import TRANSITIONS, Phase, RecordType, Role

# What every state has says nothing about the way through them.
_EVERYWHERE = (RecordType.ABORT, RecordType.KEEPALIVE)


def table() -> str:
    """Return the table as Markdown, a row a phase."""
    rows = ["| state | the source may send | the destination may send |", "|---|---|---|"]
    for phase in Phase:
        cells = [f" {_cell(phase, role)} ".replace("  ", " ") for role in Role]
        rows.append(f"| `{phase.name}` |{'|'.join(cells)}|")
    return "\n".join(rows)


def _cell(phase: Phase, role: Role) -> str:
    entries = [
        f"{kind.name} → {after.name}"
        for (at, who, kind), after in TRANSITIONS.items()
        if (at, who) == (phase, role)
    ]
    return ", ".join(entries)


def diagram() -> str:
    """Return the ways through the table as text: each path from START, a line a step."""
    return "\n".join(_walk(Phase.START, {Phase.START}, 0))


def _walk(phase: Phase, seen: set[Phase], depth: int) -> Iterator[str]:
    if not depth:
        yield phase.name
    for (at, who, kind), after in TRANSITIONS.items():
        if at is not phase or kind in _EVERYWHERE:
            continue
        arrow = ">" if who is Role.SOURCE else "<"
        known = " (again)" if after in seen and not after.is_final else ""
        yield f"{'  ' * (depth + 1)}{arrow} {kind.name} -> {after.name}{known}"
        if after not in seen:
            seen.add(after)
            yield from _walk(after, seen, depth + 1)


if __name__ == "__main__":
    print(table())
    print()
    print(diagram())
