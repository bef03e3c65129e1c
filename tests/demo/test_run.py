"""`tagalong run` as a real process: guests, exit statuses, signals, the control socket."""

import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tagalong.errors import HostError
from tagalong.kvm import why_not
from tagalong.vmm.launch import run_vm
from tagalong.vmm.options import NewVm, RunOptions
from tagalong.wire import Connection, Hello, Role
from tests.support.tiny_guest import write_guest
from tests.support.vm_processes import TAGALONG, Qmp, VmProcess, tagalong, until, vm_process

CHURN = ("--guest", "churn", "--guest-args", "report=512", "--ram", "16M")

HLT_0 = 0xD4400000
BRANCH_TO_SELF = 0x14000000


def test_run_selftest_prints_to_stdout_and_ends_with_0(tmp_path: Path) -> None:
    control = tmp_path / "vm.sock"

    result = tagalong("run", "--guest", "selftest", "--control", str(control))

    assert result.returncode == 0, result.stderr
    assert "selftest" in result.stdout
    assert "FAIL" not in result.stdout
    assert result.stderr.startswith(f"tagalong: control socket (QMP): {control}\n")
    assert not control.exists()


def test_run_console_comes_while_the_guest_runs(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN) as vm:
        vm.wait_for_console("churn: progress", times=2)

        assert not vm.has_ended()
        assert stat.S_IMODE(vm.control.stat().st_mode) == 0o600


def test_run_stop_and_cont_stop_and_continue_the_guest(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN) as vm, vm.qmp() as qmp:
        vm.wait_for_console("churn: progress")
        qmp.execute("stop")
        assert qmp.state() == "paused"
        qmp.execute("query-status")
        before = vm.console
        qmp.execute("cont")
        vm.wait_for_console("churn: progress", times=before.count("churn: progress") + 1)
        assert [event["event"] for event in qmp.events] == ["STOP", "RESUME"]


def test_run_paused_does_not_start_until_cont(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN, "--paused") as vm, vm.qmp() as qmp:
        assert qmp.state() == "prelaunch"
        assert vm.console == ""
        qmp.execute("cont")
        vm.wait_for_console("churn: progress")


def test_run_quit_ends_with_0_and_says_so_to_every_client(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN) as vm, vm.qmp() as qmp, Qmp(vm.control) as other:
        assert qmp.execute("quit") == {"return": {}}
        assert vm.status() == 0
        for client in (qmp, other):
            (event,) = client.rest()
            assert event["event"] == "SHUTDOWN"
            assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}
        assert not vm.control.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_run_signal_ends_with_its_status_and_tidies_up(
    tmp_path: Path, number: signal.Signals
) -> None:
    with vm_process(tmp_path, "vm", *CHURN) as vm, vm.qmp() as qmp:
        vm.signal(number)
        assert vm.status() == 128 + number
        (event,) = qmp.rest()
        assert event["data"] == {"guest": False, "reason": "host-signal"}
        assert not vm.control.exists()


def test_run_killed_process_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN, "--paused") as first:
        first.qmp().__exit__(None, None, None)
    assert first.control.exists()

    with vm_process(tmp_path, "vm", *CHURN, "--paused") as second, second.qmp() as qmp:
        assert qmp.state() == "prelaunch"


def test_run_control_socket_in_use_is_wrong_usage(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN, "--paused") as vm, vm.qmp() as qmp:
        result = tagalong("run", *CHURN, "--control", str(vm.control))

        assert result.returncode == 2
        assert result.stderr == (
            f"tagalong: error: another process listens on {vm.control}: end it or choose another "
            "path\n"
        )
        assert qmp.state() == "prelaunch"


def test_run_auto_says_which_machine_and_why(tmp_path: Path) -> None:
    options = ("run", "--guest", "speed", "--guest-args", "iterations=10")

    result = tagalong(*options, "--control", str(tmp_path / "vm.sock"))

    assert result.returncode == 0, result.stderr
    obstacle = why_not()
    expected = f"soft (no kvm: {obstacle})" if obstacle else "kvm (this host runs guests with MTE)"
    assert f"tagalong: machine: {expected}\n" in result.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("auto", "ioctl (never faults, needs no mapping with PROT_MTE and no state of the thread)"),
        ("sp", "sp (asked for)"),
    ],
)
def test_run_says_by_which_strategy_it_touches_ram(tmp_path: Path, name: str, said: str) -> None:
    options = ("run", "--machine", "soft", "--guest", "speed", "--guest-args", "iterations=10")

    result = tagalong(*options, "--access", name, "--control", str(tmp_path / "vm.sock"))

    assert result.returncode == 0, result.stderr
    assert f"tagalong: access: {said}\n" in result.stderr


def test_run_kvm_where_it_cannot_be_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.kvm.kvm_fd.platform.machine", lambda: "s390x")
    options = RunOptions(NewVm("churn"), tmp_path / "vm.sock", machine="kvm")

    with pytest.raises(HostError) as caught:
        run_vm(options, lambda _: None)

    assert caught.value.exit_code == 10
    assert str(caught.value) == (
        "this host is s390x: machine 'kvm' runs arm64 guests on arm64 hosts only"
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (
            ("--guest", "nobody"),
            22,
            "no built-in guest 'nobody'; there are: churn, paged, retag, selftest, speed",
        ),
        (("--guest", "./no.elf"), 22, "cannot read the guest program no.elf: No such file"),
        (("--guest", "churn", "--ram", "1M"), 22, "is not in RAM"),
        (("--incoming", "pigeon:1"), 2, "'pigeon:1' is not a migration address"),
    ],
)
def test_run_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    control = tmp_path / "vm.sock"

    result = tagalong("run", *options, "--control", str(control))

    assert result.returncode == status, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not control.exists()


def connect_to(vm: VmProcess) -> socket.socket:
    host, port = vm.incoming_uri().removeprefix("tcp:").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=120)


def test_run_keeps_waiting_after_a_stranger_and_says_who_it_was(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", "--incoming", "tcp:127.0.0.1:0") as vm, vm.qmp() as qmp:
        with connect_to(vm) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(1000))
            name = "{}:{}".format(*stranger.getsockname())
            while stranger.recv(4096):
                pass
        assert qmp.state() == "inmigrate"
        qmp.execute("quit")
        assert vm.status() == 0

    assert name in vm.messages
    assert vm.console == ""


def test_run_source_that_turns_to_rubbish_ends_with_a_typed_error(tmp_path: Path) -> None:
    hello = b"".join(Connection(Role.SOURCE).send(Hello(Role.SOURCE, bytes(range(16)))))
    with vm_process(tmp_path, "vm", "--incoming", "tcp:127.0.0.1:0") as vm, vm.qmp() as qmp:
        with connect_to(vm) as source:
            source.sendall(hello + b"\xff" * 1000)
            assert vm.status() == 40
        names = [event["event"] for event in qmp.rest()]

    assert "tagalong: error: " in vm.messages
    assert f"stream offset {len(hello):#x}" in vm.messages
    assert "migration failed; nothing was started here" in vm.messages
    assert names[-2:] == ["MIGRATION", "SHUTDOWN"]
    assert vm.console == ""


def test_run_quit_while_waiting_for_a_vm_ends_with_0(tmp_path: Path) -> None:
    path = tmp_path / "in"
    with vm_process(tmp_path, "vm", "--incoming", f"unix:{path}") as vm, vm.qmp() as qmp:
        assert qmp.state() == "inmigrate"
        assert vm.incoming_uri() == f"unix:{path}"
        qmp.execute("quit")
        assert vm.status() == 0
    assert not path.exists()


def test_run_unsupported_instruction_is_an_internal_error_with_its_status(tmp_path: Path) -> None:
    guest = write_guest(tmp_path / "hlt.elf", HLT_0)
    with vm_process(tmp_path, "vm", "--guest", str(guest), "--paused") as vm, vm.qmp() as qmp:
        qmp.execute("cont")
        assert vm.status() == 25
        events = qmp.rest()

    assert [event["event"] for event in events] == ["RESUME", "STOP", "SHUTDOWN"]
    assert events[-1]["data"] == {"guest": False, "reason": "host-error"}
    assert vm.messages.splitlines()[-1] == (
        "tagalong: error: vCPU 0 at pc 0x0000000040200000: instruction 0xd4400000 (hlt #0) "
        "is allocated in the architecture but not implemented by the embedded machine"
    )
    assert not vm.control.exists()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_run_vm_survives_that_nobody_reads_its_output_any_more(tmp_path: Path, stream: str) -> None:
    control = tmp_path / "vm.sock"
    command = [*TAGALONG, "run", *CHURN, "--control", str(control)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            read = getattr(process, stream)
            assert read.readline()
            read.close()
            until(control.exists, "the control socket")
            with Qmp(control) as qmp:
                for _ in range(5):
                    time.sleep(0.1)
                    assert qmp.state() == "running"
                qmp.execute("migrate", uri="tcp:127.0.0.1:1")
                until(lambda: qmp.migration()["status"] == "failed", "the failure")
                assert qmp.state() == "running"
                qmp.execute("quit")
            assert process.wait(120) == 0
        finally:
            process.kill()


def test_run_exit_with_a_parent_that_is_gone_ends_at_once(tmp_path: Path) -> None:
    guest = write_guest(tmp_path / "spin.elf", BRANCH_TO_SELF)

    result = tagalong(
        "run", "--guest", str(guest), "--control", str(tmp_path / "a"), "--exit-with-parent", "1"
    )

    assert result.returncode == -signal.SIGTERM


def test_run_without_a_control_socket_runs_the_guest_and_ends_with_it(tmp_path: Path) -> None:
    result = tagalong("run", "--guest", "selftest", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "selftest" in result.stdout
    assert "control socket" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_guest_that_reports_its_own_failure_ends_with_1_and_says_so(tmp_path: Path) -> None:
    result = tagalong("run", "--guest", "churn", "--guest-args", "nonsense=1", cwd=tmp_path)

    assert result.returncode == 1, result.stderr
    assert "churn: error: command line: cannot use nonsense=1" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "tagalong: the guest powered off and reported its own failure (status 2)"
    )


def test_run_guest_that_reports_nothing_ends_with_0(tmp_path: Path) -> None:
    """SYSTEM_OFF alone, as a guest of anybody else does: x0 = 0x84000008, HVC #0."""
    guest = write_guest(tmp_path / "off.elf", 0xD2800100, 0xF2B08000, 0xD4000002)

    result = tagalong("run", "--guest", str(guest), cwd=tmp_path)

    assert result.returncode == 0, result.stderr


def test_run_guest_that_lost_its_tags_on_the_way_ends_with_1_at_the_destination(
    tmp_path: Path,
) -> None:
    with (
        vm_process(tmp_path, "a", *CHURN) as source,
        vm_process(tmp_path, "b", "--incoming", "tcp:127.0.0.1:0") as target,
    ):
        source.wait_for_console("churn: progress")
        moved = tagalong("migrate", str(source.control), target.incoming_uri(), "--drop-tags")
        assert moved.returncode == 0, moved.stderr

        assert target.status() == 1, target.messages
        assert "churn: FAIL" in target.console
