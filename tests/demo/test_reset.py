"""`system_reset`, a guest's own reset, `--no-reboot` and the power button, with real processes."""

from pathlib import Path

import pytest

from tests.support import a64
from tests.support.bare import encoded
from tests.support.kernel_files import image
from tests.support.tiny_guest import write_guest
from tests.support.vm_processes import Qmp, VmProcess, tagalong, until, vm_process

UART = 0x0900_0000
SYSTEM_RESET = 0x8400_0009


def says(letter: str) -> list[int]:
    """Return instructions that write a letter to the UART."""
    return [*a64.mov_value(1, UART), a64.movz(2, ord(letter)), a64.ldst(a64.STR_W, 2, 1)]


LOOP = [*says("A"), a64.b(0)]
ASKS = [*says("R"), *a64.mov_value(0, SYSTEM_RESET), a64.hvc(), a64.b(0)]


@pytest.fixture
def loop(tmp_path: Path) -> tuple[str, ...]:
    guest = write_guest(tmp_path / "loop.elf", *LOOP)
    return ("--guest", str(guest), "--ram", "4M", "--machine", "soft")


@pytest.fixture
def asks(tmp_path: Path) -> tuple[str, ...]:
    guest = write_guest(tmp_path / "asks.elf", *ASKS)
    return ("--guest", str(guest), "--ram", "4M", "--machine", "soft")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """Return a kernel that says K, then waits."""
    path = tmp_path / "Image"
    path.write_bytes(image(body=encoded([*says("K"), a64.b(0)])))
    return path


def events(qmp: Qmp) -> list[tuple[object, object]]:
    """Return all events, until the VM closes the connection."""
    return [(each["event"], each.get("data", {})) for each in qmp.rest()]


def refusal(vm: VmProcess, command: str) -> str:
    with vm.qmp() as qmp:
        answer = qmp.execute(command)
    error = answer["error"]
    assert isinstance(error, dict)
    return str(error["desc"])


def test_system_reset_starts_the_guest_anew(loop: tuple[str, ...], tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *loop) as vm, vm.qmp() as qmp:
        vm.wait_for_console("A")
        qmp.execute("system_reset")
        until(lambda: vm.console.count("A") == 2, "the guest's second start")
        qmp.execute("stop")
        qmp.execute("system_reset")
        state = qmp.state()
        qmp.execute("quit")
        told = events(qmp)

    reset = ("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
    assert state == "prelaunch"
    assert [each for each in told if each[0] in ("RESET", "STOP")] == [reset, ("STOP", {}), reset]
    assert vm.console == "AA"


def test_guest_that_resets_starts_anew_as_often_as_it_asks(
    asks: tuple[str, ...], tmp_path: Path
) -> None:
    with vm_process(tmp_path, "vm", *asks, "--paused") as vm, vm.qmp() as qmp:
        qmp.execute("cont")
        until(lambda: vm.console.count("R") >= 3, "three starts")
        qmp.execute("quit")
        told = events(qmp)

    assert told.count(("RESET", {"guest": True, "reason": "guest-reset"})) >= 2


@pytest.mark.parametrize("by_guest", [True, False])
def test_no_reboot_ends_the_vm_where_it_would_be_reset(
    loop: tuple[str, ...], asks: tuple[str, ...], tmp_path: Path, by_guest: bool
) -> None:
    guest = asks if by_guest else loop
    with vm_process(tmp_path, "vm", *guest, "--no-reboot", "--paused") as vm, vm.qmp() as qmp:
        qmp.execute("cont")
        if not by_guest:
            qmp.execute("system_reset")
        told = events(qmp)
        status = vm.status()

    reason = "guest-reset" if by_guest else "host-qmp-system-reset"
    assert status == 0
    assert ("SHUTDOWN", {"guest": by_guest, "reason": reason}) in told
    assert "RESET" not in [name for name, _ in told]


def test_kernel_of_an_arrived_vm_is_what_a_reset_starts(tmp_path: Path, kernel: Path) -> None:
    address = f"unix:{tmp_path / 'in'}"
    started = ("--kernel", str(kernel), "--ram", "32M", "--machine", "soft")
    arriving = ("--machine", "soft", "--incoming", address)
    with vm_process(tmp_path, "a", *started) as source:
        source.wait_for_console("K")
        with vm_process(tmp_path, "b", *arriving, "--kernel", str(kernel)) as there:
            there.incoming_uri()
            early = refusal(there, "system_reset")
            moved = tagalong("migrate", str(source.control), address, "--verify")
            gone = refusal(source, "system_reset")
            with there.qmp() as qmp:
                qmp.execute("system_reset")
                qmp.execute("system_powerdown")
            there.wait_for_console("K")

    assert moved.returncode == 0
    assert early == "the VM is not here yet: an incoming migration is awaited"
    assert gone.startswith(f"the VM was migrated to {address}, which owns it")


def test_arrived_vm_without_a_kernel_ends_when_its_guest_resets(
    tmp_path: Path, asks: tuple[str, ...]
) -> None:
    address = f"unix:{tmp_path / 'in'}"
    arriving = ("--machine", "soft", "--incoming", address)
    with (
        vm_process(tmp_path, "a", *asks, "--paused") as source,
        vm_process(tmp_path, "b", *arriving) as there,
    ):
        there.incoming_uri()
        source.wait_until_serving()
        moved = tagalong("migrate", str(source.control), address)
        refused = refusal(there, "system_reset")
        button = refusal(there, "system_powerdown")
        with there.qmp() as qmp:
            qmp.execute("cont")
        status = there.status()

    assert moved.returncode == 0, moved.stderr
    assert refused.startswith("this process has nothing to start the guest with again")
    assert button == "the VM has no power button: VMs that began with --kernel have one"
    assert status == 0
    assert "the guest asked for a reset, and this process has nothing to start" in there.messages


def test_reset_whose_kernel_cannot_be_read_is_refused_and_the_guest_runs_on(
    tmp_path: Path, kernel: Path
) -> None:
    started = ("--kernel", str(kernel), "--ram", "32M", "--machine", "soft")
    with vm_process(tmp_path, "a", *started) as vm:
        vm.wait_for_console("K")
        kernel.unlink()
        refused = refusal(vm, "system_reset")
        with vm.qmp() as qmp:
            state = qmp.state()

    assert refused == f"cannot read the kernel {kernel}: No such file or directory"
    assert state == "running"
