"""`tagalong lab run`: real boots; what comes out is what happened inside."""

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.lab_command import arguments, lab

# What every test of the kvm machine stands on.
PROBE = """
import ctypes, fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
KVM_CHECK_EXTENSION, KVM_CAP_ARM_MTE = 0xAE03, 205
print("mte", fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_ARM_MTE))
import tagalong.soft, numpy, pytest
print("code", tagalong.__file__)
"""


def processes_of_qemu() -> set[str]:
    """Return the process ids of all emulators that run now."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"qemu-system-aarch64" in status.read_bytes():
                found.add(status.parent.name)
        except OSError:
            continue
    return found


def test_command_that_succeeds_gives_0_and_finds_kvm_mte_and_our_code() -> None:
    run = lab("run", "--", "python3", "-c", PROBE)

    assert run.stdout.decode() == "mte 1\ncode /tagalong/src/tagalong/__init__.py\n"
    assert run.stderr == b""
    assert run.returncode == 0


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_round_trip_of_true_on_each_kernel_is_short(kernel: str) -> None:
    assert lab("setup", "--kernel", kernel, seconds=280).returncode == 0

    start = time.monotonic()
    run = lab("run", "--kernel", kernel, "--", "true")
    seconds = time.monotonic() - start

    assert run.returncode == 0, run.stderr.decode()
    # Measured: 4 s on an idle machine of two cores. Twice the aim leaves room for a busy one.
    assert seconds < 16


def test_both_outputs_and_the_status_come_back_unmixed() -> None:
    script = "head -c 300000 /dev/zero; echo problem >/dev/stderr; exit 7"

    run = lab("run", "--", "sh", "-c", script)

    assert run.stdout == bytes(300_000)
    assert run.stderr == b"problem\n"
    assert run.returncode == 7


def test_standard_input_is_passed_on_with_its_end() -> None:
    data = bytes(range(256)) * 4000

    run = lab("run", "-i", "--", "sha256sum", stdin=data)

    expected = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout
    assert run.stdout == expected


def test_output_arrives_while_the_command_runs() -> None:
    with subprocess.Popen(
        arguments("run", "--", "sh", "-c", "echo first; sleep 5; echo second"),
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        first, first_at = run.stdout.readline(), time.monotonic()
        second, second_at = run.stdout.readline(), time.monotonic()

    assert (first, second) == (b"first\n", b"second\n")
    assert second_at - first_at > 3


def test_what_the_command_leaves_behind_does_not_keep_the_machine() -> None:
    run = lab("run", "--timeout", "60", "--", "sh", "-c", "sleep 1000 & echo done; exit 1")

    assert run.stdout == b"done\n"
    assert run.returncode == 1


def test_kernel_panic_is_a_lost_machine_with_its_console() -> None:
    run = lab("run", "--", "sh", "-c", "echo before; echo c >/proc/sysrq-trigger; sleep 60")

    assert run.returncode == 62
    assert run.stdout == b"before\n"
    message, rest = run.stderr.decode().split("\n", 1)
    assert message == "tagalong: error: the lab's machine ended without a result"
    assert rest.startswith("--- console ---\n")
    assert "Kernel panic - not syncing: sysrq triggered crash" in rest
    assert rest.endswith("--- end of console ---\n")


def test_command_that_powers_the_machine_off_is_a_lost_machine() -> None:
    run = lab("run", "--", "poweroff", "-f")

    assert run.returncode == 62
    assert "reboot: Power down" in run.stderr.decode()


def test_time_over_is_an_error_of_its_own_and_ends_the_emulator() -> None:
    before = processes_of_qemu()

    run = lab("run", "--timeout", "6", "--", "sleep", "1000")

    assert run.returncode == 63
    assert run.stderr.decode().startswith(
        "tagalong: error: the lab's machine had no result within 6 s\n--- console ---\n"
    )
    assert not processes_of_qemu() - before


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_signal_ends_the_emulator_too(number: signal.Signals, status: int) -> None:
    before = processes_of_qemu()
    with subprocess.Popen(
        arguments("run", "--", "sh", "-c", "echo up; sleep 1000"), stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert processes_of_qemu() - before
        run.send_signal(number)

    assert run.returncode == status
    deadline = time.monotonic() + 5
    while processes_of_qemu() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of_qemu() - before


def test_reader_that_goes_away_ends_the_run() -> None:
    command = f"{shlex.join(arguments('run', '--', 'yes'))} | head -n 2; echo ${{PIPESTATUS[0]}}"

    run = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=True)

    assert run.stdout == b"y\ny\n141\n"
    assert run.stderr == b""


def test_emulator_that_does_not_start_is_told_from_a_lost_machine() -> None:
    run = lab("run", "--smp", "100000", "--", "true")

    assert run.returncode == 60
    assert re.match(r"tagalong: error: QEMU did not start: .*SMP", run.stderr.decode())


def test_shell_from_a_pipe_runs_a_script() -> None:
    run = lab("shell", stdin=b"uname -m\nexit 5\n")

    assert run.stdout == b"aarch64\n"
    assert run.returncode == 5
