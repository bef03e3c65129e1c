"""`tagalong snapshot`, `restore` and `dump` with real VM processes."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.errors import HostError
from tests.support.vm_processes import TAGALONG, TIMEOUT_S, VmProcess, tagalong, until, vm_process

CHURN = ("--machine", "soft", "--guest", "churn", "--guest-args", "report=512", "--ram", "32M")


@contextmanager
def churning(folder: Path, *options: str) -> Iterator[VmProcess]:
    with vm_process(folder, "a", *CHURN, *options) as vm:
        vm.wait_for_console("churn: progress", times=2)
        yield vm


@pytest.mark.parametrize("options", [(), ("--live",), ("--zstd",)])
def test_snapshot_and_restore_the_guest_goes_on_in_both(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "vm.core"
    with churning(tmp_path) as vm:
        result = tagalong("snapshot", str(vm.control), str(path), *options)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{path} is complete.\n")
        assert result.stderr == ""
        count = vm.console.count("churn: progress")
        vm.wait_for_console("churn: progress", times=count + 2)
        assert "FAIL" not in vm.console

    with vm_process(tmp_path, "b", "--machine", "soft", "--restore", str(path)) as restored:
        restored.wait_for_console("churn: progress", times=2)
        assert "FAIL" not in restored.console
        assert f"restored from {path}" in restored.messages


def test_snapshot_json_has_the_numbers(tmp_path: Path) -> None:
    with churning(tmp_path) as vm:
        result = tagalong("snapshot", str(vm.control), str(tmp_path / "s"), "--json", "--live")

    report = json.loads(result.stdout)
    assert report["ram_bytes"] == 32 << 20
    assert report["size_bytes"] == (tmp_path / "s").stat().st_size
    assert 0 < report["downtime_ms"] < report["duration_ms"]
    assert report["rounds"] >= 2


def test_snapshot_by_relative_path_is_where_the_operator_stands(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with churning(tmp_path) as vm:
        subprocess.run(
            [*TAGALONG, "snapshot", str(vm.control), "vm.core"],
            cwd=tmp_path / "here", check=True, capture_output=True,
            env={"PYTHONPATH": str(Path.cwd() / "src"), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    assert (tmp_path / "here" / "vm.core").is_file()


def test_snapshot_of_a_paused_vm_stays_paused_when_restored(tmp_path: Path) -> None:
    path = str(tmp_path / "vm.core")
    with churning(tmp_path) as vm, vm.qmp() as qmp:
        qmp.execute("stop")
        result = tagalong("snapshot", str(vm.control), path)
        assert "the guest did not run" in result.stdout
        assert qmp.state() == "paused"

    options = ("--machine", "soft", "--restore", path)
    with vm_process(tmp_path, "b", *options) as restored, restored.qmp() as qmp:
        until(lambda: "was paused when it was saved" in restored.messages, "the announcement")
        assert qmp.state() == "prelaunch"
        qmp.execute("cont")
        restored.wait_for_console("churn: progress")


def test_snapshot_without_room_says_so_and_the_vm_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    path.write_bytes(b"an older one")
    with churning(tmp_path) as vm:
        # As on a full disk: no file of this process grows beyond 8 MiB.
        resource.prlimit(vm.process.pid, resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))

        result = tagalong("snapshot", str(vm.control), str(path))

        assert result.returncode == 10
        assert "tagalong: error: cannot write" in result.stderr
        assert f"The VM continues as before. Nothing new is at {path}." in result.stderr
        with vm.qmp() as qmp:
            assert qmp.state() == "running"
    assert path.read_bytes() == b"an older one"


def test_vm_killed_while_it_is_saved_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    path.write_bytes(b"an older one")
    with churning(tmp_path, "--ram", "1G") as vm, vm.qmp() as qmp:
        qmp.execute("x-snapshot", protocol=f"file:{path}", zstd=True, detach=True)
        vm.signal(signal.SIGKILL)
        vm.process.wait(TIMEOUT_S)

    assert path.read_bytes() == b"an older one"


def test_snapshot_to_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with churning(tmp_path) as vm:
        result = tagalong("snapshot", str(vm.control), str(tmp_path / "no" / "vm.core"))

    assert result.returncode == 10
    assert "cannot create " in result.stderr


def test_snapshot_and_dump_of_a_vm_leave_links_and_refuse_what_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    fifo, link = folder / "fifo", folder / "latest.core"
    os.mkfifo(fifo)
    link.symlink_to("vm.core")
    with churning(tmp_path) as vm, vm.qmp() as qmp:
        refused = [tagalong(verb, str(vm.control), str(fifo)) for verb in ("snapshot", "dump")]
        written = tagalong("snapshot", str(vm.control), str(link))
        state = qmp.state()

    for result in refused:
        assert result.returncode == 10
        assert f"cannot open {fifo}: it is a FIFO; give a file name" in result.stderr
    assert written.returncode == 0, written.stderr
    assert link.is_symlink()
    assert sorted(each.name for each in folder.iterdir()) == ["fifo", "latest.core", "vm.core"]
    assert state == "running"


def test_snapshot_without_a_vm_is_a_control_error(tmp_path: Path) -> None:
    result = tagalong("snapshot", str(tmp_path / "none.sock"), str(tmp_path / "vm.core"))

    assert result.returncode == 50
    assert not (tmp_path / "vm.core").exists()


def test_dump_of_kernel_space_of_a_vm_and_of_its_snapshot_are_the_same(tmp_path: Path) -> None:
    with vm_process(tmp_path, "a", "--machine", "soft", "--guest", "paged") as vm:
        vm.wait_for_console("paged: granule")
        for name, source in (("vm.core", ""), ("one.core", ""), ("two.core", "vm.core")):
            space = "physical" if name == "vm.core" else "kernel"
            given = str(tmp_path / source) if source else str(vm.control)
            result = tagalong("dump", given, str(tmp_path / name), "--space", space)
            assert result.returncode == 0, result.stderr

    assert "as its kernel addresses map it: 3 pieces" in result.stdout
    with open_core(tmp_path / "one.core") as one, open_core(tmp_path / "two.core") as two:
        assert [s.address for s in one.loads] == [s.address for s in two.loads]
        window = 0xFFFF_FF81_0000_0000
        assert one.data(window, 0x8000).tobytes() == two.data(window, 0x8000).tobytes()
        assert one.tags(window, 0x8000).tobytes() == two.tags(window, 0x8000).tobytes()
        assert one.tags(window, 0x20).tolist() == [0x10]


def test_dump_that_cannot_be_says_why(tmp_path: Path) -> None:
    refusals = [
        (("SOCK", "OUT", "--space", "kernel"), 26, "ask for its user addresses (--space user)"),
        (("SOCK", "OUT", "--space", "user", "--vcpu", "4"), 2, "there is no vCPU 4"),
        (("CORE", "CORE"), 2, "cannot be dumped onto itself"),
        (("NONE", "OUT"), 10, "cannot look at"),
        (("TEXT", "OUT"), 71, "does not start an ELF file"),
    ]
    (tmp_path / "TEXT").write_bytes(b"text" * 100)
    with churning(tmp_path) as vm:
        assert tagalong("dump", str(vm.control), str(tmp_path / "CORE")).returncode == 0
        places = {name: str(tmp_path / name) for name in ("OUT", "CORE", "NONE", "TEXT")}
        places["SOCK"] = str(vm.control)

        for arguments, status, message in refusals:
            result = tagalong("dump", *(places.get(each, each) for each in arguments))

            assert result.returncode == status, result.stderr
            assert message in result.stderr
        with vm.qmp() as qmp:
            assert qmp.state() == "running"
    assert not (tmp_path / "OUT").exists()


def test_restore_command_is_run_restore(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    with churning(tmp_path) as vm:
        tagalong("snapshot", str(vm.control), str(path))
    control = tmp_path / "b.sock"
    command = [*TAGALONG, "restore", str(path), "--control", str(control), "--machine", "soft"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the snapshot may have cut this one in two
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM

    assert line.startswith(b"churn: progress vcpu=0 ")


def test_restore_of_another_machine_than_expected_is_refused(tmp_path: Path) -> None:
    refusals = [
        (("--ram", "64M"), "has 32 MiB of RAM, --ram says 64 MiB"),
        (("--max-ram", "16M"), "more than --max-ram allows"),
        (("--vcpus", "2"), "has 1 vCPU, --vcpus says 2"),
    ]
    path = tmp_path / "vm.core"
    with churning(tmp_path) as vm:
        tagalong("snapshot", str(vm.control), str(path))
    command = ("restore", str(path), "--control", str(tmp_path / "b.sock"), "--machine", "soft")

    for options, message in refusals:
        result = tagalong(*command, *options)

        assert result.returncode == 75
        assert message in result.stderr


def test_dump_by_an_access_strategy_says_which(tmp_path: Path) -> None:
    with vm_process(tmp_path, "a", "--guest", "churn", "--ram", "32M") as vm:
        vm.wait_for_console("churn: progress")
        result = tagalong("dump", str(vm.control), str(tmp_path / "vm.core"), "--access", "tco")

    assert result.returncode == 0, result.stderr
    assert "  access      tco (asked for)\n" in result.stdout


def test_snapshot_by_an_access_strategy_reports_it(tmp_path: Path) -> None:
    with vm_process(tmp_path, "a", "--guest", "churn", "--ram", "32M") as vm:
        vm.wait_for_console("churn: progress")
        result = tagalong(
            "snapshot", str(vm.control), str(tmp_path / "vm.core"), "--access", "auto", "--json"
        )

    assert json.loads(result.stdout)["access"] == "ioctl", result.stderr


def test_dump_of_a_file_by_an_access_strategy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vm.core").write_bytes(b"")

    result = tagalong("dump", str(tmp_path / "vm.core"), "out.core", "--access", "tco")

    assert result.returncode == 2
    assert "is a file: access strategies are for the RAM of running VMs" in result.stderr


def test_name_of_a_descriptor_is_refused_by_every_command_that_writes(tmp_path: Path) -> None:
    core, output = tmp_path / "vm.core", tmp_path / "mine"
    words = "cannot open /dev/stdout: it names a descriptor of this process; give a file name"
    with churning(tmp_path) as vm:
        tagalong("snapshot", str(vm.control), str(core))
        commands = [
            ("snapshot", str(vm.control), "/dev/stdout"),
            ("dump", str(vm.control), "/dev/stdout"),
            ("dump", str(core), "/dev/stdout"),
            ("migrate", str(vm.control), "file:/dev/stdout"),
            ("migrate", str(vm.control), "file:/dev/stdout,offset=4096"),
        ]
        for command in commands:
            output.write_text("before\n")
            with output.open("ab") as stream:
                node = os.fstat(stream.fileno()).st_ino
                done = subprocess.run(
                    [*TAGALONG, *command], stdout=stream, stderr=subprocess.PIPE, text=True,
                    timeout=TIMEOUT_S, check=False,
                )  # fmt: skip

            assert done.returncode == HostError.exit_code, command
            assert words in done.stderr, command
            assert (output.stat().st_ino, output.read_text()) == (node, "before\n"), command


def test_vm_told_to_write_to_a_descriptor_of_its_own_refuses(tmp_path: Path) -> None:
    words = "it names a descriptor of this process; give a file name"
    with churning(tmp_path) as vm, vm.qmp() as qmp:
        console = tmp_path / "a.out"
        node = console.stat().st_ino
        for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/2"):
            for command in ("x-snapshot", "dump-guest-memory"):
                paging = {"paging": False} if command == "dump-guest-memory" else {}
                answer = qmp.execute(command, protocol=f"file:{name}", **paging)

                assert words in str(answer["error"])
            for uri in (f"file:{name}", f"file:{name},offset=0x1000"):
                qmp.execute("migrate", uri=uri)
                until(lambda: qmp.migration().get("status") == "failed", "the failure")

                assert f"{uri}: cannot open {name}: {words}" in str(qmp.migration()["error-desc"])
        assert qmp.state() == "running"
        assert console.stat().st_ino == node
