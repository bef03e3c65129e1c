"""The differences between two cores, in words and as JSON."""

from collections.abc import Iterator

from tagalong.cli.units import count, row, size, wrapped
from tagalong.printable import one_line
from tagalong.views.difference import Difference, DifferingRun, OnlyIn


def difference_report(found: Difference, names: tuple[str, str]) -> Iterator[str]:
    """Yield what was compared, how much differs, and the first places."""
    yield f"A {one_line(names[0])}"
    yield f"B {one_line(names[1])}"
    yield row("compared", f"{size(found.compared_data_bytes)} of data, "
                          f"the tags of {size(found.compared_tag_bytes)}")  # fmt: skip
    if found.is_same:
        yield row("result", "the same data, tags and registers")
        return
    yield row("differ", _amount(found))
    for run in found.runs:
        yield _run(run)
    if found.run_count > len(found.runs):
        yield f"  ... {count(found.run_count - len(found.runs), 'more run')}"
    yield from _sides(found)
    yield from _registers(found)


def _amount(found: Difference) -> str:
    if not found.differing_granules:
        return "no granule that both have"
    return (
        f"{count(found.differing_granules, 'granule')} in {count(found.run_count, 'run')}: "
        f"the data of {found.data_granules:,}, the tags of {found.tag_granules:,}"
    )


def _run(run: DifferingRun) -> str:
    tags = f", tag {run.tags[0]:x} -> {run.tags[1]:x}" if _has_tags(run) and run.tags else ""
    more = " (the first of them)" if tags and run.granules > 1 else ""
    place = f"[{run.start:#x}, {run.end:#x})"
    return f"  {place}  {count(run.granules, 'granule')}: {run.differs.value}{tags}{more}"


def _has_tags(run: DifferingRun) -> bool:
    return run.tags is not None and run.tags[0] != run.tags[1]


def _sides(found: Difference) -> Iterator[str]:
    if not found.only_in_count:
        return
    yield row(
        "sizes", f"{size(found.only_in_bytes)} in {count(found.only_in_count, 'range')} of which "
        "only one core has data or tags",
    )  # fmt: skip
    for each in found.only_in:
        yield f"  [{each.start:#x}, {each.end:#x})  {size(each.end - each.start)}: {_side(each)}"
    if found.only_in_count > len(found.only_in):
        yield f"  ... {count(found.only_in_count - len(found.only_in), 'more range')}"


def _side(each: OnlyIn) -> str:
    return f"only {each.core} has {each.plane}"


def _registers(found: Difference) -> Iterator[str]:
    if found.thread_counts:
        yield row("threads", f"A has {found.thread_counts[0]}, B has {found.thread_counts[1]}")
    for number, names in found.registers.items():
        yield wrapped(f"{', '.join(names)} differ" if len(names) > 1 else f"{names[0]} differs",
                      f"  thread {number + 1:<5}", " " * 14)  # fmt: skip


def difference_json(found: Difference, names: tuple[str, str]) -> dict[str, object]:
    """Return the differences for JSON; addresses are hex strings."""
    return {
        "a": names[0],
        "b": names[1],
        "same": found.is_same,
        "compared_data_bytes": found.compared_data_bytes,
        "compared_tag_bytes": found.compared_tag_bytes,
        "differing_granules": found.differing_granules,
        "data_granules": found.data_granules,
        "tag_granules": found.tag_granules,
        "run_count": found.run_count,
        "runs": [
            {
                "start": hex(run.start),
                "end": hex(run.end),
                "granules": run.granules,
                "differs": run.differs.value,
                "first_tags": run.tags and [*run.tags],
            }
            for run in found.runs
        ],
        "only_in_count": found.only_in_count,
        "only_in_bytes": found.only_in_bytes,
        "only_in": [
            {
                "start": hex(each.start),
                "end": hex(each.end),
                "core": each.core,
                "plane": each.plane,
            }
            for each in found.only_in
        ],
        "thread_counts": found.thread_counts and [*found.thread_counts],
        "registers": {str(number + 1): [*names] for number, names in found.registers.items()},
    }
