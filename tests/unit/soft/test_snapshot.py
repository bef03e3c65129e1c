from tagalong._native import InterpreterExit
from tagalong.machine import register_ids
from tagalong.memory import Region
from tagalong.soft import RAM_GPA
from tagalong.soft.native import NativeMachine
from tagalong.soft.native import state_register_ids as all_registers
from tests.support import a64, bare

WORDS = [a64.addg(0, 0, 16, 1), a64.msr_tco(1), a64.add_imm(1, 1, 3, s=1), a64.ldxr(3, 2, 3)]


def machine() -> tuple[NativeMachine, Region]:
    made, region = NativeMachine(2, 0), Region.create(RAM_GPA, 0x10000)
    made.add_ram(region)
    region.raw_data[: 4 * len(WORDS)] = memoryview(bare.encoded(WORDS))
    made.set_register(0, register_ids.PC, RAM_GPA)
    made.set_register(0, register_ids.x(3), RAM_GPA + 0x1000)
    return made, region


def registers(native: NativeMachine) -> dict[int, int | None]:
    return {register: native.get_register(0, register) for register in all_registers()}


def test_load_snapshot_brings_every_register_back() -> None:
    native, region = machine()
    before, snapshot = registers(native), native.save_snapshot(0)

    native.step(0, len(WORDS), InterpreterExit())
    after = registers(native)
    native.load_snapshot(0, snapshot)

    assert after != before
    assert registers(native) == before
    assert native.instructions(0) == 0
    native.close()
    region.close()


def test_snapshots_of_equal_states_are_equal_bytes_whatever_was_done_between() -> None:
    native, region = machine()
    start = native.save_snapshot(0)
    native.step(0, 3, InterpreterExit())
    first = native.save_snapshot(0)

    native.load_snapshot(0, start)
    for _ in range(3):
        native.step(0, 1, InterpreterExit())
        native.save_snapshot(0)
    second = native.save_snapshot(0)

    assert first == second
    assert first != start
    native.close()
    region.close()


def test_exclusive_reservation_comes_back_with_its_snapshot() -> None:
    native, region = machine()
    code = [a64.ldxr(3, 2, 3), a64.stxr(3, 4, 2, 3)]
    region.raw_data[:8] = memoryview(bare.encoded(code))
    native.step(0, 1, InterpreterExit())
    reserved = native.save_snapshot(0)
    results = []

    for _ in range(2):
        native.load_snapshot(0, reserved)
        native.step(0, 1, InterpreterExit())
        results.append(native.get_register(0, register_ids.x(4)))

    assert results == [0, 0]
    native.close()
    region.close()


def test_snapshot_of_one_vcpu_leaves_the_other_alone() -> None:
    native, region = machine()
    snapshot = native.save_snapshot(0)
    native.set_register(1, register_ids.x(5), 77)

    native.load_snapshot(0, snapshot)

    assert native.get_register(1, register_ids.x(5)) == 77
    native.close()
    region.close()
