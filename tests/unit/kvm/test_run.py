"""What native code answers between two exits, with a KVM that follows a script.

The script's exits are taken by KVM_RUN in their order; its last one is returned to Python.
"""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tagalong import _native
from tagalong._native import KvmAnswers, KvmExit, PublishedRegister
from tagalong.devices import InterruptStatus
from tagalong.kvm import vcpu_fd
from tagalong.kvm.descriptor import IoctlError
from tagalong.kvm.vcpu_fd import VcpuDescriptor

ROOT = Path(__file__).parents[3]
VM = 7  # the descriptor that the scripted KVM takes for the VM's
DEVICE, OTHER = 0x0A00_0000, 0x0A00_0200
STATUS, ACK, NOTIFY = 0x60, 0x64, 0x50
FLAGS = 0x0900_0018
MMIO, HVC = 6, 24


class ScriptedExit(ctypes.Structure):
    _fields_ = (
        ("reason", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("is_write", ctypes.c_uint32),
        ("error", ctypes.c_uint32),
        ("gpa", ctypes.c_uint64),
        ("data", ctypes.c_uint64),
    )


def load(gpa: int, size: int = 4) -> ScriptedExit:
    return ScriptedExit(reason=MMIO, bytes=size, gpa=gpa, data=0xEEEE_EEEE_EEEE_EEEE)


def store(gpa: int, value: int, size: int = 4) -> ScriptedExit:
    return ScriptedExit(reason=MMIO, bytes=size, is_write=1, gpa=gpa, data=value)


def signal() -> ScriptedExit:
    return ScriptedExit(error=errno.EINTR)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("scripted") / "kvm.so"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-std=gnu11",
         f"-I{ROOT / 'native'}", "-o", target, ROOT / "tests/support/scripted_kvm.c"],
        check=True, timeout=240,
    )  # fmt: skip
    library = ctypes.CDLL(str(target))
    for name in ("ta_interrupts_new", "scripted_start"):
        getattr(library, name).restype = ctypes.c_void_p
    library.ta_interrupts_connect.argtypes = (
        ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64,
    )  # fmt: skip
    return library


class Guest:
    """Two devices and a register, on the scripted KVM."""

    def __init__(self, library: ctypes.CDLL, *script: ScriptedExit) -> None:
        self.library = library
        self.script = (ScriptedExit * len(script))(*script)
        self.loaded = (ctypes.c_uint64 * len(script))()
        shared = library.scripted_start(self.script, self.loaded)
        self.statuses = [ctypes.c_void_p(library.ta_interrupts_new()) for _ in range(2)]
        for number, (status, gpa) in enumerate(zip(self.statuses, (DEVICE, OTHER), strict=True)):
            library.ta_interrupts_connect(status, VM, 48 + number, gpa)
        self.flags = PublishedRegister(FLAGS, 0x90)
        self.interrupts = (ctypes.c_void_p * 2)(*(each.value for each in self.statuses))
        self.registers = (ctypes.c_void_p * 1)(ctypes.addressof(self.flags))
        self.answers = KvmAnswers(
            ctypes.addressof(self.interrupts), 2, ctypes.addressof(self.registers), 1
        )
        self.shared = ctypes.c_void_p(shared)
        self.exit = KvmExit()

    def add(self, number: int, reasons: int) -> int:
        return int(self.library.ta_interrupts_change(self.statuses[number], 0, reasons))

    def run(self) -> int:
        return int(
            self.library.ta_kvm_run(
                3, self.shared, ctypes.byref(self.answers), ctypes.byref(self.exit)
            )
        )

    def found(self) -> Sequence[int]:
        return [value & 0xFFFF_FFFF for value in self.loaded]

    def lines(self) -> list[tuple[int, bool]]:
        into = (ctypes.c_uint32 * 64)()
        count = self.library.scripted_lines(into)
        return [(value >> 1, bool(value & 1)) for value in into[:count]]


def test_interrupt_is_read_and_acknowledged_without_an_exit(scripted: ctypes.CDLL) -> None:
    guest = Guest(scripted, load(DEVICE + STATUS), store(DEVICE + ACK, 3), load(OTHER + STATUS),
                  store(DEVICE + NOTIFY, 1))  # fmt: skip
    guest.add(0, 3)

    result = guest.run()

    assert (result, guest.exit.reason, guest.exit.answered) == (0, MMIO, 3)
    found = guest.exit.gpa, guest.exit.bytes, guest.exit.is_write, guest.exit.data
    assert found == (DEVICE + NOTIFY, 4, 1, 1)
    assert (guest.found()[0], guest.found()[2]) == (3, 0)
    assert guest.lines() == [(48, True), (48, False)]


def test_line_stays_high_until_every_reason_is_acknowledged(scripted: ctypes.CDLL) -> None:
    guest = Guest(scripted, store(OTHER + ACK, 1), load(OTHER + STATUS), store(OTHER + ACK, 2),
                  signal())  # fmt: skip
    guest.add(1, 1)
    guest.add(1, 2)

    result = guest.run()

    assert (result, guest.found()[1]) == (-errno.EINTR, 2)
    assert guest.lines() == [(49, True), (49, False)]


def test_register_that_is_published_is_read_without_an_exit(scripted: ctypes.CDLL) -> None:
    guest = Guest(scripted, load(FLAGS), load(FLAGS, 2), store(FLAGS, 1))

    guest.run()

    assert (guest.found()[:2], guest.exit.answered) == ([0x90, 0x90], 2)
    assert (guest.exit.gpa, guest.exit.is_write) == (FLAGS, 1)


@pytest.mark.parametrize(
    "access",
    [
        load(DEVICE + STATUS, 2),
        store(DEVICE + STATUS, 1),
        load(DEVICE + ACK),
        store(DEVICE + ACK, 1, 8),
        load(DEVICE + STATUS + 4),
        load(DEVICE - 4),
        load(FLAGS + 4),
        ScriptedExit(reason=HVC),
    ],
    ids=range(8),
)
def test_every_other_exit_is_returned(scripted: ctypes.CDLL, access: ScriptedExit) -> None:
    guest = Guest(scripted, access)

    result = guest.run()

    assert (result, guest.exit.reason, guest.exit.answered) == (0, access.reason, 0)
    assert guest.lines() == []


def test_line_that_cannot_be_set_ends_the_run_with_its_error(scripted: ctypes.CDLL) -> None:
    guest = Guest(scripted, store(DEVICE + ACK, 1))
    guest.add(0, 1)
    scripted.scripted_fail_lines(errno.ENXIO)

    assert guest.run() == -errno.ENXIO
    assert guest.exit.reason == 0xFFFF_FFFF


class ScriptedVcpu(VcpuDescriptor):
    """A vCPU's descriptor, whose shared page is a file; `library` runs it."""

    def __init__(self, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
        descriptor = os.memfd_create("vcpu")
        os.truncate(descriptor, 4096)
        super().__init__(descriptor, 4096)
        real = _native.library()
        library.ta_kvm_run.argtypes = real.ta_kvm_run.argtypes
        monkeypatch.setattr(vcpu_fd, "library", lambda: library)


def test_descriptor_passes_on_what_is_answered_and_what_is_not(
    scripted: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, flags = InterruptStatus(), PublishedRegister(FLAGS, 0x90)
    status.connect(-1, 0, DEVICE)
    status.change(add=2)
    script = (ScriptedExit * 5)(
        load(DEVICE + STATUS), load(FLAGS), store(DEVICE + ACK, 2), store(DEVICE + NOTIFY, 7),
        signal(),
    )  # fmt: skip
    loaded = (ctypes.c_uint64 * 5)()
    shared = scripted.scripted_start(script, loaded)

    with ScriptedVcpu(scripted, monkeypatch) as vcpu:
        vcpu.answer([status], [flags])
        vcpu._shared = shared
        first, second = vcpu.enter(), vcpu.enter()
        exit_of_first = vcpu.exit.gpa, vcpu.exit.data & 0xFFFF_FFFF, vcpu.exit.answered

    assert (first, second, exit_of_first) == (MMIO, None, (DEVICE + NOTIFY, 7, 3))
    assert [value & 0xFFFF_FFFF for value in loaded[:2]] == [2, 0x90]
    assert status.reasons == 0


def test_descriptor_that_is_no_vcpu_names_the_ioctl() -> None:
    descriptor = os.memfd_create("vcpu")
    os.truncate(descriptor, 4096)

    with (
        VcpuDescriptor(descriptor, 4096) as vcpu,
        pytest.raises(IoctlError, match=r"KVM_RUN\(0x0\) failed: ENOTTY"),
    ):
        vcpu.enter()


def test_reasons_that_are_there_already_raise_the_line_when_it_is_connected(
    scripted: ctypes.CDLL,
) -> None:
    guest = Guest(scripted, signal())
    scripted.ta_interrupts_connect(guest.statuses[0], -1, 0, 0)
    guest.add(0, 1)

    scripted.ta_interrupts_connect(guest.statuses[0], VM, 50, DEVICE)

    assert guest.lines() == [(50, True)]
