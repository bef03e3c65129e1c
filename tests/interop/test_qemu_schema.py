"""What our control socket answers and sends, against the schema that QEMU has of its own.

QEMU tells its schema by query-qmp-schema. Names that begin with x- are ours, and not in it.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from bench.migrate.qemu import find_qemu
from tagalong.qapi.devices import BlockIoError
from tagalong.qapi.settings import PARAMETER_SCHEMA
from tests.support.vm_processes import Qmp, until, vm_process

TIMEOUT_S = 120.0
VM = ("--machine", "soft", "--guest", "churn", "--ram", "16M", "--vcpus", "2", "--rng", "--paused")
JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class QemuSchema:
    """QEMU's schema, as query-qmp-schema returns it."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = {(each["meta-type"], each["name"]): each for each in entries}
        self._types = {each["name"]: each for each in entries}

    def objections_to_answer(self, command: str, value: object) -> list[str]:
        """Return what is wrong with the answer to a command."""
        entry = self._entries.get(("command", command))
        if entry is None:
            return [f"QEMU has no command {command}"]
        return list(self._wrong(entry["ret-type"], value, command))

    def objections_to_event(self, name: str, data: object) -> list[str]:
        """Return what is wrong with an event."""
        entry = self._entries.get(("event", name))
        if entry is None:
            return [f"QEMU has no event {name}"]
        return list(self._wrong(entry["arg-type"], data, name))

    def arguments(self, command: str) -> set[str]:
        """Return the names of a command's arguments."""
        entry = self._entries["command", command]
        return {each["name"] for each in self._types[entry["arg-type"]]["members"]}

    def _wrong(self, type_name: str, value: object, where: str) -> Iterator[str]:
        found = self._types[type_name]
        match found["meta-type"]:
            case "builtin":
                expected = JSON_TYPES.get(found["json-type"])
                is_right = expected is None or isinstance(value, expected)
                if not is_right or (isinstance(value, bool) and found["json-type"] != "boolean"):
                    yield f"{where}: {value!r} is no {found['json-type']}"
            case "enum":
                if value not in found["values"] and not str(value).startswith("x-"):
                    yield f"{where}: {value!r} is none of {found['values']}"
            case "array":
                assert isinstance(value, list), where
                for number, each in enumerate(value):
                    yield from self._wrong(found["element-type"], each, f"{where}[{number}]")
            case "object":
                yield from self._wrong_object(found, value, where)

    def _wrong_object(self, found: Mapping[str, Any], value: object, where: str) -> Iterator[str]:
        assert isinstance(value, dict), where
        members = {each["name"]: each for each in self._members(found, value)}
        for name, member in members.items():
            if name in value:
                yield from self._wrong(member["type"], value[name], f"{where}.{name}")
            elif "default" not in member:
                yield f"{where} has no {name}"
        for name in value.keys() - members.keys():
            if not name.startswith("x-"):
                yield f"{where}.{name}: QEMU has no such member"

    def _members(self, found: Mapping[str, Any], value: Mapping[str, object]) -> list[Any]:
        """Return the members of an object, with those that its tag chooses."""
        chosen = [
            each["type"]
            for each in found.get("variants", ())
            if each["case"] == value.get(found["tag"])
        ]
        more = [each for name in chosen for each in self._types[name]["members"]]
        return [*found["members"], *more]


@pytest.fixture(scope="module")
def schema() -> QemuSchema:
    """Return the schema of a QEMU that has no machine."""
    try:
        program = find_qemu()
    except SystemExit as error:
        pytest.skip(f"missing QEMU: {error}")
    asked = [{"execute": name} for name in ("qmp_capabilities", "query-qmp-schema", "quit")]
    ran = subprocess.run(
        [*program, "-machine", "none", "-display", "none", "-nodefaults", "-qmp", "stdio"],
        input="\n".join(map(json.dumps, asked)), capture_output=True, text=True,
        timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    answers = [json.loads(line).get("return") for line in ran.stdout.splitlines()]
    (entries,) = (each for each in answers if isinstance(each, list))
    return QemuSchema(entries)


def play(qmp: Qmp, folder: Path) -> None:
    """Let the VM do what it has events for."""
    for command in ("cont", "stop", "system_reset", "cont"):
        assert "return" in qmp.execute(command)
    qmp.execute("dump-guest-memory", paging=False, protocol=f"file:{folder / 'dump'}", detach=True)
    until(lambda: dict_of(qmp, "query-dump")["status"] == "completed", "the dump")
    qmp.execute("migrate", uri=f"file:{folder / 'vm'}")
    until(lambda: qmp.migration().get("status") == "completed", "the migration")


def dict_of(qmp: Qmp, command: str) -> dict[str, Any]:
    value = qmp.execute(command)["return"]
    assert isinstance(value, dict)
    return value


def test_answers_and_events_are_what_qemu_s_schema_says(tmp_path: Path, schema: QemuSchema) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    options = (*VM, "--disk", f"{image},name=root", "--console", "pty", "--virtio-console", "null")
    with vm_process(tmp_path, "vm", *options) as vm, vm.qmp() as qmp:
        play(qmp, tmp_path)
        commands = qmp.execute("query-commands")["return"]
        assert isinstance(commands, list)
        asked = [str(each["name"]) for each in commands]
        queries = [name for name in asked if name.startswith("query-")]
        answers = {name: qmp.execute(name)["return"] for name in queries}
        qmp.execute("quit")
        events = qmp.rest()

    wrong = [text for name in answers for text in schema.objections_to_answer(name, answers[name])]
    for event in events:
        wrong += schema.objections_to_event(str(event["event"]), event.get("data", {}))
    assert wrong == []
    assert {str(event["event"]) for event in events} == {
        "DUMP_COMPLETED", "MIGRATION", "MIGRATION_PASS", "RESET", "RESUME", "SHUTDOWN", "STOP",
    }  # fmt: skip
    (disk,) = cast("list[Any]", answers["query-block"])
    assert (disk["device"], disk["inserted"]["active"]) == ("root", False)


def test_error_of_a_disk_is_what_qemu_s_schema_says(schema: QemuSchema) -> None:
    error = BlockIoError("disk0", "write", no_space=True, reason="No space left on device")

    assert schema.objections_to_event("BLOCK_IO_ERROR", error.to_event()) == []


def test_migration_parameters_are_qemu_s(schema: QemuSchema) -> None:
    ours = {name for name in PARAMETER_SCHEMA if not name.startswith("x-")}

    assert ours <= schema.arguments("migrate-set-parameters")
