"""Moving a VM through its control socket, and the advice when that fails."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tagalong.control.advice import SourceState, next_steps
from tagalong.control.cancellation import follow_or_cancel
from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import await_migration, migrate_vm
from tagalong.errors import (
    AuthenticationError,
    CommandError,
    ControlError,
    ConvergenceError,
    DigestMismatchError,
    GuestEndedError,
    HandoverUncertainError,
    MachineMismatchError,
    MigrationCancelledError,
    MigrationError,
    MigrationStage,
    RemoteError,
    TagalongError,
    UsageError,
)
from tagalong.qapi.failure import Failure
from tagalong.qapi.migration import (
    MigrationInfo,
    MigrationRequest,
    MigrationStatus,
    SocketAddress,
)
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tests.support.results import ARRIVAL, migration_result
from tests.support.served_vm import ServedVm, served_vm

TIMEOUT_S = 60.0
REMOVE = "Remove the cause (--reconnect SECONDS bridges a link that breaks now and then)"
REQUEST = MigrationRequest("tcp:host.example:1", MigrationSettings(downtime_limit=42))
AGAIN = "start a new destination (tagalong run --incoming) and migrate again."
RUNNING = SourceState("running")
HERE = "The VM is at the source (running); nothing was started at the destination."


def ignore(_: MigrationInfo) -> None:
    pass


def prepare(served: ServedVm, error: TagalongError | None) -> None:
    served.vm.cont()
    served.migration.error = error
    served.migration.finish.set()


def test_migrate_vm_returns_the_report(tmp_path: Path) -> None:
    async def run() -> MigrationResult:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            prepare(served, None)
            return await migrate_vm(served.path, REQUEST, ignore)

    assert asyncio.run(run()) == migration_result()


@pytest.mark.parametrize("uri", ["file:{}vm.mig,offset=0x1000", "unix:{}dst.sock"])
def test_migrate_vm_to_a_relative_path_means_the_operators_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    request = replace(REQUEST, uri=uri.format(""))

    async def run() -> list[MigrationRequest]:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            prepare(served, None)
            await migrate_vm(served.path, request, ignore)
            return list(served.migration.requests)

    (asked,) = asyncio.run(run())

    assert asked.uri == uri.format(f"{tmp_path}/")


def test_migrate_vm_failure_carries_a_note_on_what_to_do(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            prepare(served, MigrationError("no route"))
            await migrate_vm(served.path, REQUEST, ignore)

    with pytest.raises(RemoteError) as caught:
        asyncio.run(run())

    assert str(caught.value) == "no route"
    assert caught.value.__notes__ == [f"{HERE} {REMOVE}, {AGAIN}"]


def test_migrate_vm_refused_carries_no_note(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            prepare(served, None)
            await migrate_vm(served.path, REQUEST, ignore)
            await migrate_vm(served.path, REQUEST, ignore)

    with pytest.raises(
        CommandError,
        match=r"paused due to previous migration: the VM was migrated to tcp:host.example:1, ",
    ) as caught:
        asyncio.run(run())

    assert not hasattr(caught.value, "__notes__")


def test_migrate_vm_cancelled_task_cancels_the_migration(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            served.vm.cont()
            task = asyncio.create_task(migrate_vm(served.path, REQUEST, ignore))
            while not served.migration.requests:
                await asyncio.sleep(0.001)
            task.cancel()
            await task

    with pytest.raises(RemoteError) as caught:
        asyncio.run(run())

    assert str(caught.value) == "cancelled on request"
    assert caught.value.__notes__ == [f"{HERE} To move it after all, {AGAIN}"]


def test_migrate_vm_cancelled_before_it_began_cancels_what_began_meanwhile(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            served_vm(tmp_path / "vm.sock") as served,
            connect(served.path) as client,
        ):
            moving = follow_or_cancel(
                client.begin_migration(REQUEST),
                partial(client.follow_migration, ignore),
                partial(client.cancel_migration, ignore),
            )
            task = asyncio.create_task(moving)
            await asyncio.sleep(0)
            task.cancel()
            await task

    with pytest.raises(RemoteError, match=r"^cancelled on request$"):
        asyncio.run(run())


def at(stage: MigrationStage, error: MigrationError) -> MigrationError:
    error.stage = stage
    return error


def remote(error: TagalongError) -> RemoteError:
    """Return what the client raises for an error of the VM's process."""
    return Failure.of(error).to_error()


def test_next_steps_say_where_the_vm_is_and_what_helps() -> None:
    failure = MigrationError("x")
    cases: list[tuple[TagalongError, str]] = [
        (failure, f"{REMOVE}, {AGAIN}"),
        (UsageError("x"), "Nothing was sent yet: correct the command and migrate again."),
        (MigrationCancelledError("x"), f"To move it after all, {AGAIN}"),
        (
            ConvergenceError("x"),
            "Allow more downtime (--max-downtime), let the guest be slowed down (--auto-converge), "
            f"compress (--compress auto) or use a faster link; then {AGAIN}",
        ),
        (
            at(MigrationStage.SETUP, MigrationError("reset")),
            "Look at what the destination prints: does it want TLS (--tls-dir), or speak another "
            f"version? If it has ended, {AGAIN}",
        ),
        (
            at(MigrationStage.CONNECT, MigrationError("refused")),
            "See that a destination waits at tcp:host.example:1; then migrate again.",
        ),
        (
            MachineMismatchError("x"),
            f"Give the destination the source's --machine, --ram and --vcpus: {AGAIN}",
        ),
        (
            DigestMismatchError("x"),
            "Source and destination differ although every record was whole: report this.",
        ),
        (AuthenticationError("x"), f"Correct the certificates in --tls-dir; then {AGAIN}"),
    ]

    for error, remedy in cases:
        for told in (error, remote(error)):
            assert next_steps(told, RUNNING, REQUEST) == f"{HERE} {remedy}", repr(told)


def test_next_steps_of_a_vm_beside_another_vmm_are_what_that_vmm_has() -> None:
    request = MigrationRequest("tcp:host.example:1", vmm_uri="tcp:host.example:2")

    slow = next_steps(ConvergenceError("x"), RUNNING, request)
    other = next_steps(MachineMismatchError("x"), RUNNING, request)

    assert "let the VMM slow its guest down (its own auto-converge)" in slow
    assert (
        "Give the destination's VMM the source's machine, memory, vCPUs, devices and UUID" in other
    )
    assert "--auto-converge" not in slow
    assert "--machine" not in other


def test_next_steps_with_tls_speak_of_certificates() -> None:
    settings = MigrationSettings(tls_creds="/tls")
    request = MigrationRequest("tcp:host.example:1", settings)

    connecting = next_steps(at(MigrationStage.CONNECT, MigrationError("x")), RUNNING, request)
    greeting = next_steps(at(MigrationStage.SETUP, MigrationError("x")), RUNNING, request)

    assert "and that each side's certificate is one that the other trusts" in connecting
    assert "admit the name in this side's certificate (--tls-admit)?" in greeting


def test_next_steps_for_a_file_or_a_command_speak_of_no_destination() -> None:
    cases = {
        "file:/srv/vm": "When /srv/vm can be written, migrate again.",
        "exec:cat > /srv/vm": (
            "Look at what the command printed and how it ended; then migrate again."
        ),
        "fd:7": "Look at the process at the other end of descriptor 7; then migrate again.",
    }
    error = at(MigrationStage.SETUP, MigrationError("x"))

    for uri, remedy in cases.items():
        steps = next_steps(error, RUNNING, MigrationRequest(uri))

        assert steps == f"The VM is at the source (running). {remedy}"


def test_next_steps_silent_source_is_not_guessed_about() -> None:
    assert next_steps(ControlError("lost"), SourceState(None), REQUEST) == (
        "The source does not answer, so where the VM is cannot be told from here. Ask the "
        "destination (query-status): if the VM is not there, start it again."
    )


def test_next_steps_when_the_sources_process_ended_say_what_became_of_the_vm() -> None:
    cases = [
        (
            remote(GuestEndedError("x")),
            "The VM has ended and nothing was started at the destination: nothing is to be done.",
        ),
        (
            remote(MigrationCancelledError("x")),
            "The source's process ended (host-signal), and the VM with it; nothing was started at "
            "the destination. Start the VM again; then migrate it.",
        ),
        (
            ControlError("lost"),
            "The source's process ended (host-signal) without saying how the migration ended. Ask "
            "the destination (query-status): if the VM is not there, start it again.",
        ),
    ]

    for error, words in cases:
        assert next_steps(error, SourceState(None, "host-signal"), REQUEST) == words


def test_next_steps_uncertain_handover_sends_to_the_destination() -> None:
    assert next_steps(remote(HandoverUncertainError("x")), SourceState("postmigrate"), REQUEST) == (
        "The source holds the VM paused, and the destination may be running it. Ask the "
        "destination (query-status): if it has the VM, tell the source to quit; if it has "
        "not, the source's copy is the VM: tell it x-reclaim and cont."
    )


BESIDE = MigrationRequest("tcp:host.example:1", vmm_uri="tcp:host.example:2")


def test_next_steps_when_the_vmms_own_migration_failed_name_its_destination() -> None:
    error = at(MigrationStage.VMM, MigrationError("x"))

    for told in (error, remote(error)):
        steps = next_steps(told, RUNNING, BESIDE)
        assert "See that a VMM waits at tcp:host.example:2 (its own -incoming)" in steps
        assert steps.endswith(
            "start a new destination (tagalong beside --incoming) and migrate again."
        )
    assert "Look at what both VMMs print" in next_steps(remote(error), RUNNING, REQUEST)
    saved = MigrationRequest("file:/srv/tags", vmm_uri="file:/srv/qemu")
    assert "waits at file:/srv/qemu" in next_steps(remote(error), RUNNING, saved)


def test_next_steps_after_the_vmms_hand_over_send_the_tags_and_start_no_destination() -> None:
    steps = next_steps(remote(MigrationError("x")), SourceState("postmigrate"), BESIDE)

    assert "held at the destination until its tags are there" in steps
    assert "Send them again (tagalong migrate CONTROL URI, without --vmm-uri)" in steps
    assert "new destination" not in steps
    assert "nothing was started" not in steps


def test_next_steps_uncertain_beside_another_vmm_have_no_command_that_it_lacks() -> None:
    steps = next_steps(remote(HandoverUncertainError("x")), SourceState("postmigrate"), BESIDE)

    assert "if it waits for tags, send them again" in steps
    assert "x-reclaim" not in steps


def test_next_steps_when_the_vmm_beside_has_ended_send_to_the_destination() -> None:
    steps = next_steps(remote(MigrationError("x")), SourceState(None, "host-error"), BESIDE)

    assert steps.startswith("The VMM at the source has ended (host-error). Ask the process beside")
    assert "nothing was started" not in steps


@pytest.mark.parametrize("info", [
    MigrationInfo(MigrationStatus.COMPLETED, report=ARRIVAL),
    MigrationInfo(MigrationStatus.SETUP, socket_address=SocketAddress("unix", {"path": "/in"})),
])  # fmt: skip
def test_await_migration_at_a_vm_that_arrives_says_where_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: MigrationInfo
) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            monkeypatch.setattr(ControlClient, "migration", lambda _: asyncio.sleep(0, info))
            await await_migration(served.path, ignore)

    with pytest.raises(CommandError, match="is one to here, and reported at its source"):
        asyncio.run(run())
