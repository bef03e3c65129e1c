"""What holds for the answer to a crash of every kind: its schema, and what redacting leaves."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zstandard

from tagalong.core import open_core
from tagalong.explain.analysis import explain
from tagalong.explain.readers import open_crashes, read_reports
from tagalong.explain.redaction import redact
from tagalong.soft import SoftMachine
from tests.support import a64, guest_core
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram
from tests.unit.explain import samples

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "golden" / "crashes"
SCHEMA = json.loads((ROOT / "docs" / "formats" / "explanation.schema.json").read_text())
REPORTS = {
    "tombstone": samples.tombstone(),
    "tombstone in protobuf": samples.tombstone_proto(),
    "short tombstone": samples.GRAPHENE.format(address="a00d961aabbccd0").encode(),
    "KASAN": samples.KASAN_SW.encode(),
    "ips": samples.APPLE.encode(),
    "Apple's text": samples.APPLE_TEXT.encode(),
}
CORES = (
    "linux-uaf", "glibc-001003", "scudo-101005", "scudo-odd-even-201017", "simple-301000",
    "simple-301049",
)  # fmt: skip
# What reports say of programs, files and functions.
NAMES = (
    "example", "consume", "worker", "maker", "reader", "release", "husky", "usr", "lib", "data/app",
    "kmalloc", "kthread", "secret", "scudo:primary", "apex", "macos",
)  # fmt: skip


def answer_to(raw: bytes) -> dict[str, Any]:
    (crash,) = read_reports(raw, "the file's own name")
    return explain(crash).to_json()


def redacted(raw: bytes) -> str:
    (crash,) = read_reports(raw, "the file's own name")
    return json.dumps(redact(explain(crash)).to_json())


def guest(path: Path, fill: int = 0) -> Path:
    """Write the core of a guest whose kernel writes past a block; `fill`: what its memory holds."""
    words = [a64.stg(1, 1), a64.stg(2, 2), a64.str_(4, 1), a64.str_(0, 3)]
    x = {0: fill, 1: tagged(DATA, 3), 2: tagged(DATA + 16, 5), 3: tagged(DATA + 16, 3), 4: fill}
    program = BareProgram(SoftMachine.create, words, x).run()
    guest_core.write(program.machine, path)
    program.machine.close()
    return path


@pytest.mark.parametrize("kind", sorted(REPORTS))
def test_answer_to_a_report_has_the_form_of_the_schema(kind: str) -> None:
    raw = REPORTS[kind]

    jsonschema.validate(answer_to(raw), SCHEMA)
    jsonschema.validate(json.loads(redacted(raw)), SCHEMA)


@pytest.mark.parametrize("name", CORES)
def test_answer_to_a_core_has_the_form_of_the_schema(name: str) -> None:
    with open_crashes(FOLDER / f"{name}.core.zst") as (crash,):
        found = explain(crash)

    jsonschema.validate(found.to_json(), SCHEMA)
    jsonschema.validate(redact(found).to_json(), SCHEMA)


def test_answer_to_a_guest_has_the_form_of_the_schema(tmp_path: Path) -> None:
    with open_crashes(guest(tmp_path / "guest.core")) as (crash,):
        found = explain(crash)

    jsonschema.validate(found.to_json(), SCHEMA)
    jsonschema.validate(redact(found).to_json(), SCHEMA)


def test_schema_refuses_what_is_no_answer() -> None:
    said = answer_to(REPORTS["tombstone"])
    del said["fault"]["mode"]

    with pytest.raises(jsonschema.ValidationError, match="'mode' is a required property"):
        jsonschema.validate(said, SCHEMA)


@pytest.mark.parametrize("kind", sorted(REPORTS))
def test_redacted_answer_repeats_no_name_and_no_number_of_its_report(kind: str) -> None:
    raw = REPORTS[kind]
    text = re.sub(rb"[^ -~]", b" ", raw).decode().lower()

    answer = json.loads(redacted(raw))
    for frame in answer["backtrace"]:
        del frame["module_offset"]  # that stays: it is what a developer needs

    said = " ".join(strings_of(answer)).lower()

    there = [name for name in NAMES if name in text]
    assert there
    assert not [name for name in there if name in said]
    assert not long_numbers(text) & long_numbers(said)


def long_numbers(text: str) -> set[str]:
    return {number.lstrip("0") for number in re.findall(r"\b(?:0x)?([0-9a-f]{6,})\b", text)}


def strings_of(value: object) -> list[str]:
    """Return all values in a JSON document, without its keys."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings_of(each)]
    return [str(value)]


@pytest.mark.parametrize("kind", sorted(REPORTS))
def test_names_of_a_report_do_not_change_its_redacted_answer(kind: str) -> None:
    raw = REPORTS[kind]
    changed = raw
    for name in (b"com.example.app", b"libexample", b"consume", b"worker", b"reader", b"maker",
                 b"example"):  # fmt: skip
        changed = changed.replace(name, bytes(reversed(name)).replace(b".", b"x"))

    assert changed != raw
    assert redacted(changed) == redacted(raw)


@pytest.mark.parametrize("name", ["simple-301000", "simple-301036", "simple-302019"])
def test_content_of_a_core_does_not_change_its_redacted_answer(name: str, tmp_path: Path) -> None:
    """The allocator has no headers: nothing in its memory is anything but the program's own."""
    plain = tmp_path / "plain.core"
    with (FOLDER / f"{name}.core.zst").open("rb") as file:
        plain.write_bytes(zstandard.ZstdDecompressor().stream_reader(file).read())
    before = redacted_core(plain)

    changed = overwrite(plain, lambda: random.Random(name).randbytes(4096))

    assert changed > 4096
    assert redacted_core(plain) == before


def redacted_core(path: Path) -> str:
    with open_crashes(path, FOLDER) as (crash,):
        return json.dumps(redact(explain(crash)).to_json())


def overwrite(path: Path, content: Callable[[], bytes]) -> int:
    """Replace all data that the core has around the fault; return how many bytes."""
    with open_core(path) as core, open_crashes(path) as (crash,):
        assert crash.fault.granule is not None
        load = next(each for each in core.loads if each.address <= crash.fault.granule < each.end)
        at, size = load.offset, load.file_bytes
    raw = bytearray(path.read_bytes())
    raw[at : at + size] = (content() * (size // 4096 + 1))[:size]
    path.write_bytes(raw)
    return size


def test_content_of_a_guest_does_not_change_its_redacted_answer(tmp_path: Path) -> None:
    said = []
    for number, fill in enumerate((0x5EC2_E75E_C2E7_5EC2, 0x1234_5678_9ABC_DEF0)):
        with open_crashes(guest(tmp_path / f"{number}.core", fill)) as (crash,):
            said.append(json.dumps(redact(explain(crash)).to_json()))

    assert said[0] == said[1]


def test_report_in_words_of_its_own_is_not_quoted() -> None:
    raw = samples.tombstone_proto().replace(b"SEGV_MTESERR", b"SECRET_WORDS")

    assert "SECRET" not in redacted(raw)
    assert "in words of its own" in redacted(raw)
