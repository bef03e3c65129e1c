"""The commands that control a VM, against its control socket."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tagalong.cli.app import invoke
from tagalong.cli.output import ReportStream
from tagalong.errors import MigrationError
from tests.support.outputs import closed_file, full_device, unread_pipe
from tests.support.served_thread import ServedInThread, served_in_thread

TIMEOUT_S = 60.0
URI = "tcp:127.0.0.1:1"


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[ServedInThread]:
    with served_in_thread(tmp_path / "vm.sock") as served:
        yield served


@pytest.fixture
def path(vm: ServedInThread) -> str:
    return str(vm.served.path)


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tagalong", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_cont_stop_and_status_show_the_run_state(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        ("status", "prelaunch (created and not started yet)\n"),
        ("cont", "The VM is running.\n"),
        ("status", "running (the guest runs)\n"),
        ("stop", "The VM is paused.\n"),
        ("status", "paused (the guest is paused)\n"),
    ]
    for name, said in cases:
        assert invoke([name, path]) == 0
        assert capsys.readouterr().out == said, name


def test_cont_and_status_print_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cont", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"status": "running"}

    assert invoke(["status", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "status": "running",
        "running": True,
        "migration": {},
        "saving": {"status": "none", "completed": 0, "total": 0},
    }


def test_cancel_ends_a_migration_that_is_under_way(
    vm: ServedInThread, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["migrate", path, URI, "--detach"]) == 0
    wait_until(lambda: bool(vm.served.migration.requests))
    assert invoke(["status", path]) == 0
    assert "  migration   active, round 1, 512.0 KiB left, 1,000 MB/s\n" in capsys.readouterr().out

    assert invoke(["cancel", path]) == 0
    assert capsys.readouterr().out == "Cancelled the migration. The VM is as it was.\n"
    assert invoke(["status", path]) == 0
    assert "  migration   cancelled: cancelled on request\n" in capsys.readouterr().out


def test_cancel_of_a_snapshot_names_it(
    vm: ServedInThread, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "vm.core"
    saving = started("snapshot", path, str(target))
    assert vm.served.storing.stopped.wait(TIMEOUT_S)
    assert invoke(["status", path]) == 0
    assert f"saving {target}: copying, 400 bytes" in " ".join(capsys.readouterr().out.split())

    assert invoke(["cancel", path]) == 0

    assert capsys.readouterr().out == f"Cancelled the snapshot to {target}. The VM is as it was.\n"
    _, messages = saving.communicate(timeout=TIMEOUT_S)
    assert (saving.returncode, "cancelled on request" in messages) == (74, True)


def test_cancel_of_nothing_is_an_error(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cancel", path]) == 51
    assert capsys.readouterr().err == (
        "tagalong: error: nothing to cancel: no migration, snapshot or dump is under way\n"
    )


def test_detach_returns_while_the_migration_runs_and_wait_reports_it(
    vm: ServedInThread, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["migrate", path, URI, "--detach", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"started": URI}
    vm.served.migration.finish.set()

    assert invoke(["migrate", path, "--wait"]) == 0
    assert capsys.readouterr().out.startswith("The VM has moved to the destination and runs")
    assert invoke(["migrate", path, "--wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 2


def test_wait_has_the_status_of_the_migration(
    vm: ServedInThread, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vm.served.migration.error = MigrationError("the cable was cut")
    assert invoke(["migrate", path, URI, "--detach"]) == 0
    vm.served.migration.finish.set()

    assert invoke(["migrate", path, "--wait"]) == 40
    assert "tagalong: error: the cable was cut\n" in capsys.readouterr().err


def test_interrupted_wait_leaves_the_migration_alone(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["migrate", path, URI, "--detach"]) == 0
    interrupting = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupting.start()

    assert invoke(["migrate", path, "--wait"]) == 130
    interrupting.join()
    assert invoke(["status", path]) == 0
    assert "  migration   active" in capsys.readouterr().out


def test_wait_without_a_migration_or_with_a_uri_is_refused(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: dict[str, tuple[list[str], int]] = {
        "there is no migration to wait for; start one": (["--wait"], 51),
        "so a URI has no place beside it": ([URI, "--wait"], 2),
        "so --detach has no place beside it": (["--wait", "--detach"], 2),
        "Missing argument 'URI'.": ([], 2),
    }
    for message, (options, status) in cases.items():
        assert invoke(["migrate", path, *options]) == status, message
        assert message in capsys.readouterr().err


def test_migrate_without_options_asks_for_no_tls_and_no_limit(
    vm: ServedInThread, path: str
) -> None:
    assert invoke(["migrate", path, URI, "--detach"]) == 0
    wait_until(lambda: bool(vm.served.migration.requests))

    (request,) = vm.served.migration.requests
    assert request.settings.tls_creds == ""
    assert request.settings.max_bandwidth == 0


def test_events_are_lines_until_the_one_that_is_named(path: str) -> None:
    following = started("events", path, "--until", "STOP")
    end = time.monotonic() + TIMEOUT_S
    while following.poll() is None:
        assert time.monotonic() < end
        assert invoke(["cont", path]) == 0
        assert invoke(["stop", path]) == 0

    lines = following.communicate()[0].splitlines()
    assert following.returncode == 0
    assert [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in lines][-1] == "STOP"


def test_events_end_with_the_vm_and_say_if_the_named_one_never_came(tmp_path: Path) -> None:
    for options, status in (([], 0), (["--until", "SHUTDOWN", "--json"], 1)):
        with served_in_thread(tmp_path / "vm.sock") as vm:
            following = started("events", str(vm.served.path), *options)
            assert following.stdout is not None
            while not select.select([following.stdout], [], [], 0.05)[0]:
                assert invoke(["cont", str(vm.served.path)]) == 0
                assert invoke(["stop", str(vm.served.path)]) == 0

        lines = following.communicate(timeout=TIMEOUT_S)[0].splitlines()
        assert following.returncode == status
        names = [json.loads(line)["event"] if options else line.split()[1] for line in lines]
        assert names
        assert set(names) <= {"RESUME", "STOP"}


def test_commands_without_a_vm_say_what_is_wrong_with_the_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served_in_thread(tmp_path / "gone.sock"):
        os.link(tmp_path / "gone.sock", tmp_path / "stale.sock")
    (tmp_path / "file").touch()
    cases = {
        "none": "No such file or directory; give the --control of a running tagalong run",
        "file": "Connection refused; give the --control of a running tagalong run",
        "stale.sock": "Connection refused; the VM that made it has ended",
    }
    for name, said in cases.items():
        for command in ("status", "stop", "cont", "cancel", "quit", "events"):
            assert invoke([command, str(tmp_path / name)]) == 50
            assert capsys.readouterr().err == (
                f"tagalong: error: cannot connect to the control socket {tmp_path / name}: {said}\n"
            )


def test_snapshot_is_compressed_if_its_name_says_so(
    vm: ServedInThread, path: str, tmp_path: Path
) -> None:
    vm.served.storing.finish.set()
    cases = {("a.core.zst",): True, ("a.core",): False, ("b.core", "--zstd"): True}
    for (name, *options), compressed in cases.items():
        assert invoke(["snapshot", path, str(tmp_path / name), *options]) == 0
        assert vm.served.storing.requests[-1].compress is compressed, name


def test_dump_to_a_name_of_a_compressed_file_is_refused(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.core.zst"

    assert invoke(["dump", path, str(target)]) == 2
    assert capsys.readouterr().err == (
        f"tagalong: error: cannot write {target}: a dump is not compressed; write it under "
        "another name and compress that with zstd\n"
    )
    assert not target.exists()


def test_commands_act_on_the_vm_whatever_becomes_of_their_output(
    vm: ServedInThread, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = full_device(tmp_path / "full")
    vm.served.storing.finish.set()
    for json_or_not in ([], ["--json"]):
        for output, status in ((unread_pipe, 0), (closed_file, 13), (full.open, 13)):
            for command in (["cont"], ["stop"], ["status"]):
                opened = output("w") if output is full.open else output()
                with opened as stream:
                    monkeypatch.setattr(sys, "stdout", ReportStream(stream))
                    assert invoke([*command, path, *json_or_not]) == status, command
                if command != ["status"]:
                    expected = {"cont": "running", "stop": "paused"}[command[0]]
                    assert vm.served.vm.state.value == expected
        with full.open("w") as stream:
            monkeypatch.setattr(sys, "stdout", ReportStream(stream))
            assert invoke(["snapshot", path, str(tmp_path / "vm.core"), *json_or_not]) == 13
        assert vm.served.storing.requests[-1].path == tmp_path / "vm.core"


def test_migration_whose_report_is_lost_says_that_it_is_done(
    vm: ServedInThread, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    vm.served.migration.finish.set()
    with full_device(tmp_path / "full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", ReportStream(stream))
        assert invoke(["migrate", path, URI]) == 13

    assert vm.served.vm.state.value == "postmigrate"
    assert capsys.readouterr().err == (
        "tagalong: error: cannot write to standard output: No space left on device; what was "
        "asked for is done, and only its report is lost\n"
    )
