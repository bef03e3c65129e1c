"""What the commands load: a command costs what it needs, and most need no numpy."""

import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "golden" / "core-v3.core"

NUMERIC = {"numpy", "zstandard"}
ALL = {
    *NUMERIC,
    "asyncio",
    "rich",
    "ssl",
    "subprocess",
    "capstone",
    "tagalong.soft",
    "tagalong.kvm",
}

SERVING = {
    "tagalong.migrate.transport.tls",
    "tagalong.qapi.settings",
    "tagalong.qmp.server",
    "tagalong.snapshot.restorer",
    "tagalong.vmm.commands",
    "tagalong.wire.codec",
}
UNTIL_IT_RUNS = {
    *SERVING,
    "numpy",
    "asyncio",
    "ssl",
    "subprocess",
    "hashlib",
    "logging",
    "json",
    "capstone",
    # Of VMs with another access strategy, a control socket, a console that takes input.
    "tagalong.access.choice",
    "tagalong.access.host",
    "tagalong.access.native_host",
    "tagalong.qmp.control_socket",
    "tagalong.vmm.console_keys",
    "tagalong.vmm.terminal",
}
RESTORED_RAM = "tagalong.memory.private"

IMPORTING = """
import sys
import tagalong.cli.app, tagalong.cli.run, tagalong.kvm.machine
print(*(name for name in sys.argv[1].split() if name in sys.modules))
"""
ENTERING = """
import os, sys
from tagalong.cli.app import invoke
from tagalong.kvm.vcpu_fd import VcpuDescriptor
enter = VcpuDescriptor.enter
def say_what_is_loaded(vcpu):
    if vcpu.run.immediate_exit:  # a look at a vCPU, which runs nothing
        return enter(vcpu)
    names = [name for name in sys.argv[1].split() if name in sys.modules]
    os.write(1, " ".join(["entered", *names]).encode())
    os._exit(0)
VcpuDescriptor.enter = say_what_is_loaded
invoke(sys.argv[2:])
"""
SCRIPT = """
import sys
from tagalong.cli.app import invoke
status = invoke(sys.argv[2:])
print(status, *(name for name in sys.argv[1].split() if name in sys.modules))
"""


def loaded(unwanted: set[str], *arguments: str) -> tuple[int, set[str]]:
    """Run a command; return its status, and which of `unwanted` its process has loaded."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, " ".join(unwanted), *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    status, *names = ran.stdout.splitlines()[-1].split()
    return int(status), set(names)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("help",), ("run", "-h")])
def test_help_loads_only_the_command_line(arguments: tuple[str, ...]) -> None:
    unwanted = ALL if arguments[0] != "run" else {"tagalong.soft", "tagalong.kvm"}

    assert loaded(unwanted, *arguments) == (0, set())


def test_info_of_a_core_loads_no_more_than_it_reads() -> None:
    assert loaded(ALL, "info", str(CORE)) == (0, set())


@pytest.mark.parametrize("command", ["status", "stop", "cont", "cancel", "events", "quit"])
def test_commands_for_a_running_vm_load_no_numbers(command: str, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "a.sock")

    assert loaded({*NUMERIC, "rich", "tagalong.soft"}, command, nowhere) == (50, set())


@pytest.mark.parametrize(
    "arguments", [("migrate", "a.sock", "tcp:127.0.0.1:1"), ("snapshot", "a.sock", "vm.core")]
)
def test_commands_that_move_and_save_a_vm_leave_the_work_to_its_process(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert loaded({*NUMERIC, "rich", "tagalong.soft"}, *arguments) == (50, set())


def test_run_of_a_new_vm_without_a_control_socket_loads_no_migrations(tmp_path: Path) -> None:
    kernel, tree = tmp_path / "kernel", tmp_path / "tree"
    kernel.write_bytes(bytes(64))
    order = ("run", "--machine", "soft", "--kernel", str(kernel), "--dump-dtb", str(tree))

    unwanted = {*SERVING, "asyncio", "ssl", "capstone", "zstandard"}

    assert loaded(unwanted, *order) == (0, set())
    assert tree.stat().st_size > 0


def test_run_and_the_kvm_machine_are_loaded_without_numbers_and_without_an_event_loop() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTING, " ".join({*UNTIL_IT_RUNS, RESTORED_RAM})],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert ran.stdout.split() == []


@pytest.mark.lab
def test_a_program_on_kvm_is_entered_before_numbers_or_an_event_loop_are_loaded() -> None:
    order = ("run", "--machine", "kvm", "--guest", "selftest", "--console", "null")

    ran = subprocess.run(
        [sys.executable, "-c", ENTERING, " ".join(UNTIL_IT_RUNS), *order],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (ran.stdout.split(), ran.returncode) == (["entered"], 0), ran.stderr


@pytest.mark.lab
def test_a_kernel_on_kvm_is_entered_before_numbers_or_an_event_loop_are_loaded(
    tmp_path: Path,
) -> None:
    kernel, initrd, disk = tmp_path / "kernel", tmp_path / "initrd", tmp_path / "disk"
    kernel.write_bytes(bytes(64))
    initrd.write_bytes(bytes(5 << 20))
    disk.write_bytes(bytes(1 << 20))
    order = (
        "run", "--machine", "kvm", "--kernel", str(kernel), "--initrd", str(initrd), "--disk",
        str(disk), "--console", "null",
    )  # fmt: skip

    ran = subprocess.run(
        [sys.executable, "-c", ENTERING, " ".join(UNTIL_IT_RUNS), *order],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (ran.stdout.split(), ran.returncode) == (["entered"], 0), ran.stderr
