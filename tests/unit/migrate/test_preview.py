"""State that the destination cannot take is refused while the guest runs: real machines."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tagalong.errors import MachineMismatchError, MigrationError, StateError
from tagalong.machine import MachineDescription, MachineState, RegisterId, RunState, register_ids
from tagalong.migrate import MigrationOptions, listen, migrate_to, parse_address, receive_from
from tagalong.soft import SoftMachine
from tests.support.migration import PATIENT, TCP

TCR2_EL1 = register_ids.sysreg(3, 0, 2, 0, 3)
MIB = 1 << 20


class Watched(SoftMachine):
    """A machine that notes stops and starts, and whose preview shows more `registers`."""

    def __init__(self, description: MachineDescription) -> None:
        super().__init__(description)
        self.registers: dict[RegisterId, int] = {}
        self.calls: list[str] = []

    def peek_state(self) -> MachineState:
        state = super().peek_state()
        return replace(
            state,
            vcpus=tuple(
                replace(vcpu, registers={**vcpu.registers, **self.registers})
                for vcpu in state.vcpus
            ),
        )

    def pause(self) -> None:
        self.calls.append("pause")
        super().pause()

    def resume(self) -> None:
        self.calls.append("resume")
        super().resume()


@pytest.fixture
def source() -> Iterator[Watched]:
    machine = Watched(SoftMachine.create(ram_bytes=MIB).description)
    machine.memory.write(machine.memory.regions[0].gpa, (0x1400_0000).to_bytes(4, "little"))  # b .
    machine.vcpus[0].set_register(register_ids.PC, machine.memory.regions[0].gpa)
    machine.resume()
    machine.calls.clear()
    yield machine
    machine.close()


@pytest.mark.parametrize(
    ("registers", "said"),
    [
        ({TCR2_EL1: 1}, "vCPU 0 lacks S3_0_C2_C0_3 = 0x1"),
        (
            {register_ids.ID_AA64PFR1_EL1: 0x220},
            "vCPU 0 is another CPU: ID_AA64PFR1_EL1 is 0x220 there and 0x320 here; "
            "accept it with --allow-cpu-mismatch",
        ),
    ],
)
def test_migrate_state_that_the_destination_lacks_is_refused_by_name_and_never_paused(
    source: Watched, registers: dict[RegisterId, int], said: str
) -> None:
    source.registers = registers
    built: list[Watched] = []
    errors: list[MigrationError] = []

    def build(description: MachineDescription) -> SoftMachine:
        built.append(Watched(description))
        return built[-1]

    with ExitStack() as stack:
        listener = stack.enter_context(listen(parse_address(TCP)))

        def receive() -> None:
            try:
                receive_from(listener, build, timeouts=PATIENT)
            except MigrationError as error:
                errors.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        stack.callback(thread.join, 30)
        with pytest.raises(MachineMismatchError) as caught:
            migrate_to(str(listener.address), source, MigrationOptions(timeouts=PATIENT))

    assert str(caught.value) == f"the peer ended the migration (STATE_REFUSED): {said}"
    assert (source.calls, source.run_state) == ([], RunState.RUNNING)
    assert isinstance(errors[0].__cause__, StateError)
    assert str(errors[0].__cause__) == said
    assert [machine.calls for machine in built] == [[]]
