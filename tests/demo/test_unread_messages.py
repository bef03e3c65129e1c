"""`tagalong run` whose standard error is a full pipe with a reader that stopped."""

import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.tiny_guest import write_guest
from tests.support.vm_processes import VmProcess, tagalong, until, vm_process

CHURN = ("--guest", "churn", "--guest-args", "working-set=1M", "--ram", "16M")
PIPE_BYTES = 4096
HLT_0 = 0xD4400000
BY_SIGTERM = 128 + signal.SIGTERM


@contextmanager
def unread_vm(folder: Path, *options: str) -> Iterator[tuple[VmProcess, int]]:
    """Run a VM whose standard error takes no byte more; gives it and the pipe's reading end."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    assert os.write(writing, bytes(PIPE_BYTES)) == PIPE_BYTES
    try:
        with vm_process(folder, "unread", *options, stderr=writing) as vm:
            os.close(writing)
            yield vm, reading
    finally:
        os.close(reading)


def test_run_with_unread_messages_is_saved_controlled_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    with unread_vm(tmp_path, *CHURN) as (vm, _):
        until(vm.is_serving, "the control socket")

        saved = tagalong("snapshot", str(vm.control), str(path), timeout_s=60)
        status = tagalong("status", str(vm.control), timeout_s=60)
        vm.signal(signal.SIGTERM)

        assert saved.stdout.startswith(f"{path} is complete.\n"), saved.stderr
        assert status.returncode == 0, status.stderr
        assert vm.status() == BY_SIGTERM


def test_run_with_unread_messages_receives_a_vm_after_a_rejected_peer(tmp_path: Path) -> None:
    incoming = tmp_path / "in"
    with (
        vm_process(tmp_path, "source", *CHURN) as source,
        unread_vm(tmp_path, "--incoming", f"unix:{incoming}") as (vm, _),
    ):
        source.wait_for_console("churn: ")
        until(lambda: vm.is_serving() and incoming.exists(), "the destination")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(incoming))
            peer.sendall(b"not a tagalong" * 64)

        moved = tagalong("migrate", str(source.control), f"unix:{incoming}", timeout_s=60)

        assert moved.returncode == 0, moved.stderr
        with vm.qmp() as qmp:
            assert qmp.state() == "running"
        vm.signal(signal.SIGTERM)
        assert vm.status() == BY_SIGTERM


def test_run_with_unread_messages_ends_with_the_status_of_its_error(tmp_path: Path) -> None:
    guest = write_guest(tmp_path / "hlt.elf", HLT_0)
    with unread_vm(tmp_path, "--guest", str(guest)) as (vm, _):
        assert vm.status() == 25


def test_run_gives_its_messages_to_a_reader_that_reads_again(tmp_path: Path) -> None:
    with unread_vm(tmp_path, *CHURN, "--paused") as (vm, reading):
        with vm.qmp() as qmp:
            qmp.execute("query-status")

        with open(reading, "rb", closefd=False) as stream:
            assert stream.read(PIPE_BYTES) == bytes(PIPE_BYTES)
            first = stream.readline()
        vm.signal(signal.SIGTERM)

        assert first == f"tagalong: control socket (QMP): {vm.control}\n".encode()
        assert vm.status() == BY_SIGTERM
