"""`tagalong migrate` between two real VMs: success, refusal, failure, cancelling."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tagalong.errors import GuestEndedError, MigrationCancelledError
from tests.support.vm_processes import TAGALONG, TIMEOUT_S, VmProcess, tagalong, until, vm_process

CHURN = ("--guest", "churn", "--guest-args", "report=512", "--ram", "32M")


@contextmanager
def pair(folder: Path, *destination: str) -> Iterator[tuple[VmProcess, VmProcess]]:
    """A VM under churn that has made progress, and a destination awaiting it."""
    options = destination or ("--incoming", "tcp:127.0.0.1:0")
    with vm_process(folder, "a", *CHURN) as source, vm_process(folder, "b", *options) as target:
        source.wait_for_console("churn: progress", times=2)
        yield source, target


def has_heard(uri: str) -> bool:
    """Return whether bytes of a source wait for a destination at `uri` (proc_net_tcp(5)).

    One that has sent nothing yet is no source to it: it would wait for another.
    """
    port = f":{int(uri.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    arrived = [row[4].partition(":")[2] for row in rows if row[1].endswith(port) and row[3] != "0A"]
    return any(int(count, 16) for count in arrived)


def counter(line: str, name: str) -> int:
    return int(line.split(f"{name}=")[1].split(maxsplit=1)[0])


def progress_lines(vm: VmProcess) -> list[str]:
    return [line for line in vm.console.split("\n")[:-1] if line.startswith("churn: progress")]


def test_migrate_moves_a_running_guest_that_goes_on(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target):
        result = tagalong("migrate", str(source.control), target.incoming_uri(), "--verify")
        assert result.returncode == 0, result.stderr
        assert "The VM has moved to tcp:127.0.0.1:" in result.stdout
        assert "digests of all memory and tags are equal on both sides" in result.stdout
        assert result.stderr == ""

        target.wait_for_console("churn: progress", times=2)
        with source.qmp() as qmp:
            assert qmp.state() == "postmigrate"
            assert "error" in qmp.execute("cont")
            qmp.execute("quit")
        assert source.status() == 0
        last = counter(progress_lines(source)[-1], "ops")
        assert counter(progress_lines(target)[-1], "ops") > last
        assert "FAIL" not in source.console + target.console
        assert "the VM has moved to the destination" in source.messages
        assert "the VM has arrived and is running" in target.messages


def test_migrate_json_has_the_numbers(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target):
        result = tagalong(
            "migrate", str(source.control), target.incoming_uri(), "--verify", "--json"
        )

    report = json.loads(result.stdout)
    assert report["verified"] is True
    assert report["source_digest"] == report["destination_digest"]
    assert report["ram_bytes"] == 32 << 20
    assert report["rounds"] == len(report["round_details"]) >= 2
    assert report["tag_bytes_raw"] == report["data_bytes"] // 32 > 0
    assert 0 < report["tag_bytes_wire"] < report["tag_bytes_raw"]
    assert sum(report["downtime_parts_ms"].values()) == pytest.approx(report["downtime_ms"])


def test_migrate_events_tell_the_story_at_both_ends(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as here, target.qmp() as there:
        uri = target.incoming_uri()
        assert here.execute("migrate", uri=uri, x_verify=True) == {"return": {}}
        until(lambda: here.migration()["status"] == "completed", "the migration")
        until(lambda: there.migration()["status"] == "completed", "the arrival")
        assert there.state() == "running"
        told = [story(event) for event in here.events]
        passes = [line for line in told if "PASS" in line]
        assert passes == [f"MIGRATION_PASS {number + 1}" for number in range(len(passes))]
        assert len(passes) >= 2
        assert [line for line in told if line not in passes] == [
            "MIGRATION setup",
            "MIGRATION active",
            "STOP",
            "MIGRATION completed",
        ]
        assert [story(event) for event in there.events] == [
            "MIGRATION active",
            "RESUME",
            "MIGRATION completed",
        ]


def story(event: object) -> str:
    assert isinstance(event, dict)
    data = event.get("data") or {}
    return " ".join([event["event"], *(str(data[name]) for name in data if name != "x-info")])


def test_migrate_paused_guest_arrives_paused_and_can_be_continued(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as here:
        here.execute("stop")
        result = tagalong("migrate", str(source.control), target.incoming_uri())
        assert result.returncode == 0, result.stderr
        with target.qmp() as there:
            assert there.state() == "paused"
            assert progress_lines(target) == []
            there.execute("cont")
        target.wait_for_console("churn: progress")


def test_migrate_destination_started_paused_waits_for_cont(tmp_path: Path) -> None:
    with pair(tmp_path, "--incoming", f"unix:{tmp_path / 'in'}", "--paused") as (source, target):
        result = tagalong("migrate", str(source.control), target.incoming_uri())
        assert result.returncode == 0, result.stderr
        with target.qmp() as there:
            assert there.state() == "paused"
            there.execute("cont")
        target.wait_for_console("churn: progress")


def test_migrate_there_and_back_keeps_the_guest_going(tmp_path: Path) -> None:
    with pair(tmp_path) as (first, second):
        tagalong("migrate", str(first.control), second.incoming_uri(), "--verify")
        second.wait_for_console("churn: progress")
        with vm_process(tmp_path, "c", "--incoming", "tcp:127.0.0.1:0") as third:
            result = tagalong("migrate", str(second.control), third.incoming_uri(), "--verify")
            assert result.returncode == 0, result.stderr
            third.wait_for_console("churn: progress", times=2)
            assert "FAIL" not in first.console + second.console + third.console


def test_migrate_nobody_there_says_where_the_vm_is_and_it_goes_on(tmp_path: Path) -> None:
    with vm_process(tmp_path, "a", *CHURN) as source:
        source.wait_for_console("churn: progress")
        result = tagalong("migrate", str(source.control), f"unix:{tmp_path / 'nobody'}")

        assert result.returncode == 40
        error, advice = result.stderr.splitlines()
        assert error.startswith("tagalong: error: ")
        assert "cannot connect" in error
        assert advice == (
            "The VM is at the source (running); nothing was started at the destination. "
            f"See that a destination waits at unix:{tmp_path / 'nobody'}; then migrate again."
        )
        source.wait_for_console("churn: progress", times=len(progress_lines(source)) + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ram", "64M"), "the arriving machine has 32 MiB of RAM, --ram says 64 MiB"),
        (("--vcpus", "2"), "the arriving machine has 1 vCPU, --vcpus says 2"),
        (("--max-ram", "16M"), "more than --max-ram allows (16 MiB)"),
    ],
)
def test_migrate_to_a_destination_that_does_not_fit_is_refused(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with pair(tmp_path, "--incoming", "tcp:127.0.0.1:0", *options) as (source, target):
        result = tagalong("migrate", str(source.control), target.incoming_uri())

        assert result.returncode == 41
        assert message in result.stderr
        assert "The VM is at the source (running)" in result.stderr
        assert target.status() == 41
        assert message in target.messages
        source.wait_for_console("churn: progress", times=len(progress_lines(source)) + 1)


def test_migrate_destination_killed_meanwhile_leaves_the_vm_at_the_source(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)
        qmp.execute("migrate", uri=uri)
        until(lambda: qmp.migration()["status"] == "active", "the migration's begin")
        target.process.kill()
        until(lambda: qmp.migration()["status"] == "failed", "the migration's failure")

        assert qmp.state() == "running"
        source.wait_for_console("churn: progress", times=len(progress_lines(source)) + 1)


def test_migrate_source_killed_meanwhile_ends_the_destination_which_says_so(
    tmp_path: Path,
) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)
        qmp.execute("migrate", uri=uri)
        until(lambda: has_heard(uri), "the source's first bytes")
        source.process.kill()
        source.status()
        target.signal(signal.SIGCONT)

        assert target.status() != 0
        assert (
            "the source is gone: it closed the connection; nothing was started here (stream offset "
        ) in target.messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_migrate_interrupted_cancels_and_the_vm_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    with pair(tmp_path) as (source, target):
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)  # so that the migration cannot come to an end
        command = subprocess.Popen(
            [*TAGALONG, "migrate", str(source.control), uri],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with source.qmp() as qmp:
            until(lambda: qmp.migration().get("status") == "active", "the migration's begin")
            command.send_signal(number)
            _, messages = command.communicate(timeout=TIMEOUT_S)

            assert command.returncode == 128 + number
            assert qmp.migration()["status"] == "cancelled"
            assert qmp.state() == "running"
        lines = messages.splitlines()
        assert lines[0] == f"tagalong: interrupted ({number.name}): the migration was cancelled"
        assert lines[1].startswith("The VM is at the source (running); nothing was started")
        source.wait_for_console("churn: progress", times=len(progress_lines(source)) + 1)


def test_migrate_when_the_source_is_told_to_end_says_what_became_of_the_vm(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target):
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)  # so that the migration cannot come to an end
        with migrating(source, uri) as command:
            source.signal(signal.SIGTERM)
            _, messages = command.communicate(timeout=TIMEOUT_S)

        assert source.status() == 128 + signal.SIGTERM
        assert command.returncode == MigrationCancelledError.exit_code, messages
        assert messages.splitlines() == [
            "tagalong: error: the VM's process was told to end (host-signal) before the VM had "
            "moved",
            "The source's process ended (host-signal), and the VM with it; nothing was started at "
            "the destination. Start the VM again; then migrate it.",
        ]


def test_migrate_whose_guest_powers_off_says_so_and_that_nothing_is_to_be_done(
    tmp_path: Path,
) -> None:
    with (
        vm_process(tmp_path, "a", "--guest", "selftest", "--paused", "--ram", "64M") as source,
        vm_process(tmp_path, "b", "--incoming", "tcp:127.0.0.1:0") as target,
    ):
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)
        source.wait_until_serving()
        with migrating(source, uri) as command, source.qmp() as qmp:
            assert qmp.execute("cont") == {"return": {}}
            _, messages = command.communicate(timeout=TIMEOUT_S)

        assert source.status() == 0
        assert command.returncode == GuestEndedError.exit_code, messages
        lines = messages.splitlines()
        assert lines[0].startswith("tagalong: error: the guest powered off before it had moved")
        assert lines[1] == (
            "The VM has ended and nothing was started at the destination: nothing is to be done."
        )


@contextmanager
def migrating(source: VmProcess, uri: str) -> Iterator[subprocess.Popen[str]]:
    """Run `tagalong migrate` until the migration is under way, for the time of the block."""
    command = subprocess.Popen(
        [*TAGALONG, "migrate", str(source.control), uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with source.qmp() as qmp:
            until(lambda: qmp.migration().get("status") is not None, "the migration's begin")
        yield command
    finally:
        command.kill()
        command.wait(TIMEOUT_S)


def test_migrate_source_quit_meanwhile_ends_both_processes(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        uri = target.incoming_uri()
        target.signal(signal.SIGSTOP)
        qmp.execute("migrate", uri=uri)
        until(lambda: has_heard(uri), "the source's first bytes")
        qmp.execute("quit")
        assert source.status() == 0
        target.signal(signal.SIGCONT)
        assert target.status() in {40, 44}
        assert progress_lines(target) == []


def test_migrate_verified_without_tags_makes_no_sense(tmp_path: Path) -> None:
    result = tagalong(
        "migrate", str(tmp_path / "a"), "tcp:host.example:1", "--verify", "--drop-tags"
    )

    assert result.returncode == 2
    assert result.stderr == (
        "tagalong: error: dropped tags cannot be verified: ask for one or the other\n"
    )


def test_migrate_no_vm_at_the_control_socket_is_a_control_error(tmp_path: Path) -> None:
    result = tagalong("migrate", str(tmp_path / "nobody.sock"), "tcp:127.0.0.1:1")

    assert result.returncode == 50
    assert f"cannot connect to the control socket {tmp_path / 'nobody.sock'}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_migrate_bad_uri_is_wrong_usage(tmp_path: Path) -> None:
    with vm_process(tmp_path, "a", *CHURN) as source:
        source.wait_for_console("churn: progress")
        result = tagalong("migrate", str(source.control), "pigeon:1")

    assert result.returncode == 2
    assert "'pigeon:1' is not a migration address" in result.stderr


def test_migrate_under_stop_and_cont_never_lets_the_guest_run_twice(tmp_path: Path) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        uri = target.incoming_uri()
        qmp.execute("migrate", uri=uri, x_verify=True)
        while qmp.migration()["status"] != "completed":
            assert qmp.migration()["status"] != "failed", qmp.migration()
            qmp.execute("stop")
            qmp.execute("cont")
        stops = source.console.count("churn: progress")
        assert qmp.state() == "postmigrate"
        with target.qmp() as there:
            there.execute("cont")
            assert there.state() == "running"
        target.wait_for_console("churn: progress", times=3)

        assert source.console.count("churn: progress") == stops
        assert "FAIL" not in source.console + target.console


def test_migrate_over_a_connection_that_another_process_opened(tmp_path: Path) -> None:
    """As a manager of VMs does it: connect, pass the socket with getfd, migrate to fd:NAME."""
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        _, host, port = target.incoming_uri().split(":")
        with socket.create_connection((host, int(port))) as connection:
            assert qmp.get_fd("mig", connection.fileno()) == {"return": {}}
        result = tagalong("migrate", str(source.control), "fd:mig", "--verify")

        assert result.returncode == 0, result.stderr
        with target.qmp() as there:
            assert there.state() == "running"
        again = qmp.execute("closefd", fdname="mig")["error"]
        assert "no descriptor is called mig" in str(again)


def test_migrate_to_a_descriptor_of_the_vm_itself_is_refused_and_harms_nothing(
    tmp_path: Path,
) -> None:
    with vm_process(tmp_path, "vm", *CHURN) as vm, vm.qmp() as qmp:
        vm.wait_for_console("churn: progress")
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{vm.process.pid}/fd"))
        for number in numbers:
            reply = qmp.execute("migrate", uri=f"fd:{number}")
            assert f"fd:{number}: this" in str(reply["error"])

        seen = vm.console.count("churn: progress")
        vm.wait_for_console("churn: progress", seen + 2)
        assert qmp.state() == "running"
        assert "TAGALONG" not in vm.console + vm.messages
        assert len(numbers) > 3


def test_migrate_resumed_after_its_time_ran_out_is_refused_and_the_vm_is_free(
    tmp_path: Path,
) -> None:
    with pair(tmp_path) as (source, target), source.qmp() as qmp:
        uri = target.incoming_uri()
        qmp.execute("migrate-set-parameters", x_reconnect=1, max_bandwidth=1 << 20)
        assert qmp.execute("migrate", uri=uri) == {"return": {}}
        until(lambda: "return" in qmp.execute("migrate-pause"), "pages being copied")
        assert qmp.migration()["status"] == "x-precopy-paused"
        until(lambda: qmp.migration()["status"] == "failed", "the end of the reconnect time")

        answer = qmp.execute("migrate", uri=uri, resume=True)

        assert "no migration is paused: there is nothing to resume" in str(answer["error"])
        assert qmp.migration()["status"] == "failed"
        assert qmp.state() == "running"
        core = tmp_path / "vm.core"
        assert qmp.execute("x-snapshot", protocol=f"file:{core}") == {"return": {}}
        assert core.exists()
