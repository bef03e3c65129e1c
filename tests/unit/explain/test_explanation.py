"""The JSON of an explanation, and docs/formats/explanation.md."""

import json
from typing import Any, cast

import pytest

from tagalong.core.tag_runs import TagRun
from tagalong.explain.crash import (
    Block,
    BlockState,
    CheckMode,
    Crash,
    CrashMapping,
    CrashWorld,
    DataDirection,
    FaultingAccess,
    SourceKind,
    StackFrame,
    TagFault,
)
from tagalong.explain.explanation import (
    Cause,
    Evidence,
    Explanation,
    Hypothesis,
    NearestRun,
    Neighbourhood,
)
from tests.support.format_document import FormatDocument

BLOCK = Block(
    0x1000, 0x1020, 3, BlockState.ALLOCATED, "a test", True, (StackFrame(0x10, "main+0x4"),), ()
)
CRASH = Crash(
    SourceKind.PROCESS_CORE,
    CrashWorld.PROCESS,
    "a.core",
    TagFault(CheckMode.SYNC, "SEGV_MTESERR", 0x1020, 3, 5),
    FaultingAccess(0x400, 0x39400000, "ldrb w0, [x0]", 1, DataDirection.READ, "x0", None, 0),
    {"x0": 0x0300_0000_0000_1020},
    mappings=(CrashMapping(0x1000, 0x2000, "[heap]"),),
)
RUNS = (TagRun(0x1000, 0x1020, 3), TagRun(0x1020, 0x1040, 5))
EXPLANATION = Explanation(
    CRASH,
    Neighbourhood(0x1000, 0x1040, RUNS, 1, 5, (BLOCK,), NearestRun(RUNS[0], 0)),
    (Hypothesis(Cause.OVERFLOW, 0.9, "text", BLOCK, 0, (Evidence("fact", 9.0),), ()),),
    register_classes=(("x0", "a tagged pointer"),),
)


@pytest.mark.parametrize(
    ("title", "path"),
    [
        ("Explanation", ()),
        ("Source", ("source",)),
        ("Fault", ("fault",)),
        ("Access", ("access",)),
        ("Allocator", ("allocator",)),
        ("Neighbourhood", ("neighbourhood",)),
        ("Block", ("neighbourhood", "blocks", 0)),
        ("Frame", ("neighbourhood", "blocks", 0, "allocated_by", 0)),
        ("Hypothesis", ("hypotheses", 0)),
    ],
)
def test_json_has_the_keys_of_the_document(title: str, path: tuple[str | int, ...]) -> None:
    value: Any = EXPLANATION.to_json()
    for step in path:
        value = value[step]
    rows = FormatDocument("explanation.md").rows_after(f"### {title}\n")
    named = [name for row in rows for name in row[0].replace("`", "").split(", ")]

    assert list(cast("dict[str, object]", value)) == named


def test_json_of_an_explanation_has_plain_values() -> None:
    said = json.loads(json.dumps(EXPLANATION.to_json()))

    assert said["fault"]["mapping"]["offset"] == "0x20"
    assert said["hypotheses"][0]["for"] == [{"text": "fact", "ratio": 9.0}]


def test_causes_are_those_of_the_document() -> None:
    rows = FormatDocument("explanation.md").rows_after("### Causes\n")

    named = {name for row in rows for name in row[0].replace("`", "").split(", ")}

    assert named == {cause.value for cause in Cause}
