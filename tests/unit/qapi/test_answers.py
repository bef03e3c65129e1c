"""Answers of a VM: typed values to JSON and back, and what a hostile VM may say instead."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tagalong.core import Space
from tagalong.errors import (
    CommandError,
    ControlError,
    CoreError,
    DigestMismatchError,
    MigrationError,
    MigrationStage,
    RemoteError,
    SnapshotCancelledError,
    TagalongError,
)
from tagalong.machine import AccessChoice
from tagalong.migrate import SendProgress
from tagalong.qapi.census import TagCensus
from tagalong.qapi.failure import Failure
from tagalong.qapi.json_fields import JsonFields
from tagalong.qapi.migration import (
    MigrationInfo,
    MigrationRequest,
    MigrationStatus,
    RamInfo,
    SocketAddress,
)
from tagalong.qapi.reports import VmmReport
from tagalong.qapi.saving import SaveInfo, SaveKind, SaveRequest, SaveStatus
from tests.support.results import ARRIVAL, migration_result, save_result

RAM = RamInfo.of(
    SendProgress(MigrationStage.PRECOPY, 2, 1 << 20, 256, 3, 12288, 900_000, 1e6, 2e6, 0.25)
)
FAILURE = Failure("no route", "MigrationError", 40, MigrationStage.SETUP)

MIGRATIONS = (
    MigrationInfo(),
    MigrationInfo(MigrationStatus.SETUP, 1, socket_address=SocketAddress("fd", {"str": "7"})),
    MigrationInfo(
        MigrationStatus.ACTIVE, 12, 3, SocketAddress("inet", {"host": "::1", "port": "4444"}), RAM,
        "pre-copy", 30, 250,
    ),
    MigrationInfo(MigrationStatus.COMPLETED, 99, 3, ram=RAM, report=migration_result()),
    MigrationInfo(
        MigrationStatus.COMPLETED, 99, report=migration_result(access=AccessChoice("sp", "asked")),
    ),
    MigrationInfo(MigrationStatus.COMPLETED, 99, report=ARRIVAL),
    MigrationInfo(
        MigrationStatus.COMPLETED, 99,
        report=dataclasses.replace(ARRIVAL, moments_s={"released": 1.5}),
    ),
    MigrationInfo(
        MigrationStatus.COMPLETED, 99,
        report=dataclasses.replace(
            migration_result(), vmm=VmmReport("completed", 9, 60, 4096, 7.5, {"STOP": 1e9})
        ),
    ),
    MigrationInfo(MigrationStatus.FAILED, 99, failure=FAILURE),
)  # fmt: skip

SAVES = (
    SaveInfo(),
    SaveInfo(SaveStatus.ACTIVE, 1, 2, SaveKind.DUMP, Path("/x"), "copying", 1),
    SaveInfo(SaveStatus.COMPLETED, 5, 5, SaveKind.SNAPSHOT, Path("/x"), report=save_result()),
    SaveInfo(
        SaveStatus.COMPLETED, report=save_result(access=AccessChoice("tco", "asked for")),
    ),
    SaveInfo(SaveStatus.FAILED, 1, 2, failure=Failure("cancelled", "SnapshotCancelledError", 74)),
)  # fmt: skip


def through_json(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_answers_read_back_are_the_same() -> None:
    for info in MIGRATIONS:
        assert MigrationInfo.from_qmp(through_json(info.to_qmp())) == info
    for save in SAVES:
        assert SaveInfo.from_qmp(through_json(save.to_qmp())) == save
    census = TagCensus(100, 7)
    assert TagCensus.from_qmp(through_json(census.to_qmp())) == census


def mutants(value: Any) -> Iterator[Any]:
    """Yield `value` with each part in turn missing, or replaced by something else."""
    if isinstance(value, Mapping):
        for name in value:
            yield {key: part for key, part in value.items() if key != name}
            for mutant in mutants(value[name]):
                yield {**value, name: mutant}
    if isinstance(value, list):
        for index, part in enumerate(value):
            for mutant in mutants(part):
                yield [*value[:index], mutant, *value[index + 1 :]]
    yield from (None, -1, 1 << 70, 1e308, True, "\x1b[2J", [], [[]], {}, {"a": {"b": 1}})


def test_answers_that_a_hostile_vm_made_up_raise_control_error_or_are_valid() -> None:
    readers: list[tuple[Callable[[object], object], Any]] = [
        *((MigrationInfo.from_qmp, info.to_qmp()) for info in MIGRATIONS),
        *((SaveInfo.from_qmp, save.to_qmp()) for save in SAVES),
        (TagCensus.from_qmp, TagCensus(1, 1).to_qmp()),
    ]
    refused = accepted = 0

    for reader, answer in readers:
        for mutant in mutants(through_json(answer)):
            try:
                found = reader(mutant)
            except ControlError:
                refused += 1
            else:
                accepted += 1
                assert "\x1b" not in repr(found)

    assert refused > accepted > 0


def test_outcome_of_a_migration_is_its_report_or_one_remote_error() -> None:
    assert MIGRATIONS[3].outcome() == migration_result()
    with pytest.raises(RemoteError, match=r"^no route$") as caught:
        MIGRATIONS[-1].outcome()

    assert (caught.value.class_name, caught.value.exit_code) == ("MigrationError", 40)
    assert caught.value.stage is MigrationStage.SETUP


def test_outcome_without_reason_or_report_is_an_error() -> None:
    cases = [
        (MigrationStatus.FAILED, r"did not say why the migration failed$", 40),
        (MigrationStatus.CANCELLED, r"^the migration was cancelled$", 44),
        (MigrationStatus.COMPLETED, r"^the VM says that the migration has completed, but sent", 45),
    ]
    for status, words, code in cases:
        with pytest.raises(RemoteError, match=words) as caught:
            MigrationInfo(status).outcome()
        assert caught.value.exit_code == code
    with pytest.raises(RemoteError, match=r"did not say why saving it failed$"):
        SaveInfo(SaveStatus.COMPLETED).outcome()


def test_failure_of_an_error_survives_the_socket() -> None:
    staged = MigrationError("late")
    staged.stage = MigrationStage.DIGEST
    errors: list[TagalongError] = [
        staged, DigestMismatchError("differ"), SnapshotCancelledError("enough")
    ]  # fmt: skip

    for error in errors:
        failure = Failure.of(error)
        members = JsonFields(through_json(failure.to_qmp()), "query-x")
        again = Failure.from_qmp(members, MigrationError)
        assert again == failure
        assert failure.exit_code == error.exit_code
        assert Failure.of(failure.to_error()) == failure


def test_failure_of_an_unknown_class_has_the_vms_status_if_that_is_one() -> None:
    cases = [(47, 47), (None, 40), (0, 40), (1, 40), (255, 40)]

    for said, expected in cases:
        answer = {"error-desc": "x", "x-error-class": "NewError", "x-exit-code": said}
        failure = Failure.from_qmp(JsonFields(answer, "query-x"), MigrationError)
        assert failure == Failure("x", "NewError", expected)


def test_failure_of_a_known_class_has_that_classes_status_whatever_the_vm_says() -> None:
    answer = {"error-desc": "x", "x-error-class": "CoreError", "x-exit-code": 44}

    failure = Failure.from_qmp(JsonFields(answer, "query-x"), MigrationError)

    assert failure == Failure("x", "CoreError", CoreError.exit_code)


def test_socket_address_is_a_uri_too() -> None:
    cases = {
        "tcp:host.example:1": SocketAddress("inet", {"host": "host.example", "port": "1"}),
        "tcp:[::1]:2": SocketAddress("inet", {"host": "::1", "port": "2"}),
        "unix:/run/in": SocketAddress("unix", {"path": "/run/in"}),
        "fd:7": SocketAddress("fd", {"str": "7"}),
    }

    for uri, address in cases.items():
        assert address.uri == uri


def test_requests_become_the_arguments_of_their_commands() -> None:
    migration = MigrationRequest("unix:/x", verify=True, access="sp")
    dump = SaveRequest(Path("/d"), SaveKind.DUMP, Space.KERNEL, vcpu=1)
    snapshot = SaveRequest(Path("/s"), live=True, compress=True)

    assert migration.to_arguments() == {
        "uri": "unix:/x", "x-verify": True, "x-drop-tags": False, "x-access": "sp"
    }  # fmt: skip
    assert (dump.command, dump.to_arguments()) == (
        "dump-guest-memory",
        {"paging": True, "protocol": "file:/d", "detach": True, "x-space": "kernel", "x-vcpu": 1},
    )
    assert (snapshot.command, snapshot.to_arguments()) == (
        "x-snapshot",
        {"protocol": "file:/s", "detach": True, "live": True, "zstd": True},
    )


def test_every_field_of_an_answer_changes_what_is_sent() -> None:
    for info in MIGRATIONS[2:4]:
        for each in dataclasses.fields(info):
            changed = dataclasses.replace(info, **{each.name: getattr(MigrationInfo(), each.name)})
            assert changed == info or changed.to_qmp() != info.to_qmp(), each.name


def test_outcome_of_a_migration_to_here_is_no_report() -> None:
    with pytest.raises(CommandError, match="give the source's control socket"):
        MigrationInfo(MigrationStatus.COMPLETED, report=ARRIVAL).outcome()
