"""What exits of a vCPU come to: device accesses, power, and what went wrong."""

import pytest

from tagalong._native import KvmExit
from tagalong.devices import DeviceBus, Pl011
from tagalong.kvm.abi import KvmExitReason, SystemEvent, kvm_run, kvm_vcpu_events
from tagalong.kvm.exits import KvmExits
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine import DEFAULT_CONSOLE, RegisterId, RunState
from tagalong.memory import Gpa, GuestMemory, Region

CONSOLE = DEFAULT_CONSOLE.gpa


class StoppedVcpu(VcpuDescriptor):
    """A vCPU without a kernel behind it; `aborts` counts the external aborts that it took."""

    def __init__(self) -> None:
        self.run = kvm_run()
        self.exit = KvmExit()
        self.aborts = 0

    def get_events(self) -> kvm_vcpu_events:
        return kvm_vcpu_events()

    def set_events(self, events: kvm_vcpu_events) -> None:
        self.aborts += events.exception.ext_dabt_pending

    def get_register(self, register: RegisterId) -> int:
        del register
        return 0x4020_0000


class Scene:
    """Handles exits of one vCPU; `ends` are those that the machine was told of."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.ends: list[tuple[RunState, str]] = []
        memory = GuestMemory([Region.create(Gpa(0x4000_0000), 0x10000)])
        bus = DeviceBus([Pl011(self.output.extend)], memory, lambda *_: None)
        self.exits = KvmExits(bus, lambda state, error: self.ends.append((state, str(error or ""))))
        self.vcpu = StoppedVcpu()
        self.run = self.vcpu.run

    def access(self, gpa: int, size: int, value: int | None = None) -> bytes:
        access = self.vcpu.exit
        access.gpa, access.bytes, access.is_write = gpa, size, value is not None
        access.data = value or 0
        self.exits.handle(0, self.vcpu, KvmExitReason.KVM_EXIT_MMIO)
        return int(self.run.mmio.data).to_bytes(8, "little")[:size]

    @property
    def aborts(self) -> int:
        return self.vcpu.aborts


def test_accesses_reach_the_device_in_their_width() -> None:
    scene = Scene()

    scene.access(CONSOLE, 1, ord("A"))
    found = [scene.access(CONSOLE + 0xFE0, size) for size in (1, 2, 4, 8)]

    assert scene.output == b"A"
    assert found == [b"\x11", b"\x11\0", b"\x11\0\0\0", b"\x11\0\0\0\0\0\0\0"]
    assert scene.aborts == 0


def test_accesses_that_no_device_takes_abort_the_guest() -> None:
    scene = Scene()

    scene.access(CONSOLE - 4, 4)
    scene.access(CONSOLE + 0xFFC, 8, 1)
    scene.exits.handle(0, scene.vcpu, KvmExitReason.KVM_EXIT_ARM_NISV)

    assert scene.aborts == 3
    assert scene.ends == []


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (SystemEvent.KVM_SYSTEM_EVENT_SHUTDOWN, RunState.SHUTDOWN),
        (SystemEvent.KVM_SYSTEM_EVENT_RESET, RunState.RESET),
    ],
)
def test_power_off_and_reset_end_the_run(event: SystemEvent, state: RunState) -> None:
    scene = Scene()
    scene.run.system_event.type = event

    scene.exits.handle(0, scene.vcpu, KvmExitReason.KVM_EXIT_SYSTEM_EVENT)

    assert scene.ends == [(state, "")]


def test_what_nothing_handles_fails_the_machine_and_is_named() -> None:
    scene = Scene()
    scene.run.system_event.type = 99

    scene.exits.handle(1, scene.vcpu, KvmExitReason.KVM_EXIT_SYSTEM_EVENT)
    scene.run.internal.suberror = 7
    scene.exits.handle(1, scene.vcpu, KvmExitReason.KVM_EXIT_INTERNAL_ERROR)
    scene.exits.handle(1, scene.vcpu, 0x55)

    where = "vCPU 1 at 0x0000000040200000: KVM stopped it with"
    assert scene.ends == [
        (RunState.FAILED, "vCPU 1 stopped the machine with system event 0x63"),
        (RunState.FAILED, f"{where} KVM_EXIT_INTERNAL_ERROR (0x7)"),
        (RunState.FAILED, f"{where} exit reason 0x55"),
    ]
