"""The hold of the preloaded library, on this host: native/beside/vcpus.c with a KVM_RUN of ours."""

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ("native/beside/vcpus.c", "tests/programs/kvm_stub/kvm.c")
RAN = 5
NANOSLEEP = {"x86_64": 35, "aarch64": 101}  # the system call
WAIT_S = 60.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("library") / "vcpus.so"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror",
         f"-I{ROOT / 'native' / 'beside'}", "-o", str(target), *(str(ROOT / it) for it in SOURCES)],
        check=True,
    )  # fmt: skip
    loaded = ctypes.CDLL(str(target), use_errno=True)
    loaded.tb_hold_for_registers.restype = ctypes.c_bool
    return loaded


class Vcpu(threading.Thread):
    """A thread of a VMM's that runs a vCPU once; `result` and errno of that."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__()
        self.descriptor = os.memfd_create("vcpu")
        os.ftruncate(self.descriptor, 4096)
        self.result: tuple[int, int] | None = None
        self._library = library
        self._before = self._counts()

    def run(self) -> None:
        result = self._library.tb_run_vcpu(self.descriptor, ctypes.c_ulong(0xAE80), None)
        self.result = (result, ctypes.get_errno())

    @property
    def calls(self) -> tuple[int, int]:
        """Return how often the guest was entered since, and KVM_RUN has returned before that."""
        now, before = self._counts(), self._before
        return now[0] - before[0], now[1] - before[1]

    def set_immediate_exit(self) -> None:
        os.pwrite(self.descriptor, b"\1", 1)

    def interrupt(self) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):  # it has just ended
            signal.pthread_kill(self.ident or 0, signal.SIGUSR1)

    def wait_until_it_sleeps(self) -> None:
        """Wait until the library has it wait for the hold's end."""
        state, until = Path(f"/proc/self/task/{self.native_id}/syscall"), time.monotonic() + WAIT_S
        while state.read_text().split()[0] != str(NANOSLEEP[platform.machine()]):
            assert time.monotonic() < until, state.read_text()

    def _counts(self) -> tuple[int, int]:
        entries, returns = (
            ctypes.c_int.in_dll(self._library, f"stub_{name}").value
            for name in ("entries", "returns")
        )
        return entries, returns


@pytest.fixture
def vcpu(library: ctypes.CDLL) -> Iterator[Vcpu]:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    vcpu = Vcpu(library)
    yield vcpu
    library.tb_hold(False)
    library.tb_release_for_registers()
    vcpu.join(WAIT_S)
    os.close(vcpu.descriptor)
    signal.signal(signal.SIGUSR1, before)


def test_held_vcpu_runs_once_it_is_released(library: ctypes.CDLL, vcpu: Vcpu) -> None:
    library.tb_hold(True)
    vcpu.start()
    time.sleep(0.05)
    held = vcpu.calls

    library.tb_hold(False)
    vcpu.join(WAIT_S)

    assert held == (0, 0)
    assert vcpu.calls == (1, 0)
    assert vcpu.result is not None
    assert vcpu.result[0] == RAN


def test_held_vcpu_that_is_called_back_returns_without_the_kernel(
    library: ctypes.CDLL, vcpu: Vcpu
) -> None:
    library.tb_hold(True)
    vcpu.set_immediate_exit()

    vcpu.start()
    vcpu.join(WAIT_S)

    assert vcpu.result == (-1, errno.EINTR)
    assert vcpu.calls == (0, 0)


def test_signal_ends_a_hold_as_it_ends_kvm_run(library: ctypes.CDLL, vcpu: Vcpu) -> None:
    library.tb_hold(True)
    vcpu.start()

    while vcpu.is_alive():
        vcpu.interrupt()
        vcpu.join(0.01)

    assert vcpu.result == (-1, errno.EINTR)
    assert vcpu.calls == (0, 0)


def test_signal_while_registers_are_read_ends_kvm_run_afterwards(
    library: ctypes.CDLL, vcpu: Vcpu
) -> None:
    """The kernel must end the vCPU's last access to a device; the guest is not entered."""
    assert library.tb_hold_for_registers()
    vcpu.start()
    for _ in range(10):  # one of them hits it while it sleeps
        vcpu.wait_until_it_sleeps()
        vcpu.interrupt()
    held = vcpu.calls, vcpu.result

    library.tb_release_for_registers()
    vcpu.join(WAIT_S)

    assert held == ((0, 0), None)
    assert vcpu.result == (-1, errno.EINTR)
    assert vcpu.calls == (0, 1)
    assert os.pread(vcpu.descriptor, 4, 0) == bytes(4)
