import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tagalong.errors import (
    AddressError,
    RunStateError,
    UnsupportedInstructionError,
    UsageError,
)
from tagalong.machine import (
    DeviceDescription,
    MachineDescription,
    PowerState,
    RunState,
    register_ids,
)
from tagalong.memory import Gpa, PageBitmap
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA, SoftMachine
from tagalong.soft.native import NativeMachine, StopReason
from tests.support import a64, bare
from tests.support.a64_code import Code
from tests.support.descriptors import memory_files

HLT_0XF000 = 0xD45E0000
UDF = 0x00000000
SYSTEM_OFF = 0x84000008


def counting_loop() -> list[int]:
    """x1 points at a word that counts for ever."""
    return [a64.ldr(2, 1), a64.add_imm(2, 2, 1), a64.str_(2, 1), a64.b(-12)]


def power_off() -> list[int]:
    return [*a64.mov_value(0, SYSTEM_OFF), a64.hvc()]


def test_create_new_machine_is_paused_with_vcpu_0_on() -> None:
    machine = SoftMachine.create(ram_bytes=1 << 20, vcpu_count=3)

    assert machine.run_state is RunState.PAUSED
    assert [vcpu.save().power for vcpu in machine.vcpus] == [
        PowerState.ON,
        PowerState.OFF,
        PowerState.OFF,
    ]
    machine.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_size_bytes": 8192}, "page size 0x2000 is not one of 0x1000, 0x4000, 0x10000"),
        ({"mte_version": 2}, "MTE version 2: the embedded machine has 3"),
        ({"regions": ()}, "a machine needs at least one RAM region"),
        ({"vcpu_count": 0}, "cannot make 0 vCPUs: the embedded machine has 1 to 512"),
        ({"vcpu_count": 513}, "cannot make 513 vCPUs: the embedded machine has 1 to 512"),
    ],
)
def test_from_description_foreign_machine_is_refused(changes: dict[str, Any], message: str) -> None:
    described = SoftMachine.create(ram_bytes=1 << 20).description
    fields = {
        "page_size_bytes": described.page_size_bytes,
        "vcpu_count": described.vcpu_count,
        "mte_version": described.mte_version,
        "regions": described.regions,
        **changes,
    }

    with pytest.raises(UsageError, match=message):
        SoftMachine.from_description(MachineDescription(**fields))


def test_machine_that_cannot_be_leaves_no_descriptor_and_no_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SoftMachine.create(ram_bytes=1 << 20) as machine:
        described = machine.description
    disk = DeviceDescription("disk0", "virtio-blk", 0x0A00_0000, 0x200, 48)
    closed: list[NativeMachine] = []
    close = NativeMachine.close

    def note_close(native: NativeMachine) -> None:
        closed.append(native)
        close(native)

    monkeypatch.setattr(NativeMachine, "close", note_close)
    before = memory_files()

    with pytest.raises(UsageError, match="device 'disk0' is of kind 'virtio-blk'") as caught:
        SoftMachine(replace(described, devices=(*described.devices, disk)))

    assert memory_files() <= before, caught  # with its frames still alive
    assert len(closed) == 1


def test_step_executes_exactly_the_count() -> None:
    machine = bare.machine_with([a64.add_imm(0, 0, 1)] * 10)

    reason = machine.vcpus[0].step(7)

    assert reason is StopReason.BUDGET
    assert bare.get_x(machine, 0) == 7
    assert bare.get(machine, register_ids.PC) == bare.CODE + 28
    machine.close()


def test_run_guest_powers_off_machine_is_shut_down() -> None:
    machine = bare.machine_with(power_off())

    machine.resume()

    assert machine.wait(60) is RunState.SHUTDOWN
    with pytest.raises(
        RunStateError, match="cannot resume the machine: its state is 'shutdown', which is final"
    ):
        machine.resume()
    machine.close()


def test_console_guest_writes_to_pl011_bytes_arrive_in_order() -> None:
    output: list[bytes] = []
    words = [*a64.mov_value(1, 0x09000000)]
    for byte in b"tags":
        words += [a64.movz(2, byte), a64.ldst(a64.STRB, 2, 1)]
    machine = bare.machine_with([*words, *power_off()], console=output.append)

    machine.resume()
    machine.wait(60)

    assert b"".join(output) == b"tags"
    machine.close()


def test_console_that_raises_machine_fails_and_says_why() -> None:
    def broken(_: bytes) -> None:
        raise ValueError("no paper")

    words = [*a64.mov_value(1, 0x09000000), a64.ldst(a64.STRB, 2, 1), a64.b(0)]
    machine = bare.machine_with(words, console=broken)

    machine.resume()

    assert machine.wait(60) is RunState.FAILED
    assert str(machine.failure) == "a device of the machine failed: ValueError('no paper')"
    machine.pause()
    machine.close()


def test_mmio_read_flag_register_says_ready_and_undefined_offset_reads_zero() -> None:
    words = [
        *a64.mov_value(1, 0x09000000),
        a64.ldst(a64.LDR_W, 2, 1, 0x18),
        a64.ldst(a64.LDR_W, 3, 1, 0x100),
    ]
    machine = bare.machine_with(words)
    bare.set_x(machine, {3: 0xFFFF})

    machine.vcpus[0].step(len(words))

    assert (bare.get_x(machine, 2), bare.get_x(machine, 3)) == (0x90, 0)
    machine.close()


def test_access_outside_ram_and_devices_guest_takes_external_abort() -> None:
    machine = bare.machine_with([a64.ldr(2, 1)])
    bare.set_x(machine, {1: 0x0A000000})

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.PC) == bare.CURRENT_EL_VECTOR
    assert bare.get(machine, register_ids.ESR_EL1) == 0x96000010
    assert bare.get(machine, register_ids.FAR_EL1) == 0x0A000000
    machine.close()


def test_run_unsupported_instruction_stops_before_it_and_names_it() -> None:
    machine = bare.machine_with([a64.add_imm(0, 0, 1), HLT_0XF000])

    machine.resume()
    state = machine.wait(60)

    assert state is RunState.FAILED
    assert isinstance(machine.failure, UnsupportedInstructionError)
    assert str(machine.failure) == (
        f"vCPU 0 at pc {bare.CODE + 4:#018x}: instruction 0xd45e0000 (hlt #0xf000) is "
        "allocated in the architecture but not implemented by the embedded machine"
    )
    assert bare.get(machine, register_ids.PC) == bare.CODE + 4
    assert bare.get_x(machine, 0) == 1
    machine.close()


def test_run_unallocated_encoding_is_undefined_for_the_guest() -> None:
    machine = bare.machine_with([UDF])

    machine.vcpus[0].step(1)

    assert bare.get(machine, register_ids.PC) == bare.CURRENT_EL_VECTOR
    assert bare.get(machine, register_ids.ESR_EL1) == 0x02000000
    assert bare.get(machine, register_ids.ELR_EL1) == bare.CODE
    machine.close()


def test_pause_while_running_state_stands_still_until_resumed() -> None:
    machine = bare.machine_with(counting_loop())
    bare.set_x(machine, {1: bare.DATA})
    counter = machine.memory.view(Gpa(bare.DATA), 8).view(np.uint64)

    machine.resume()
    bare.wait_until(lambda: counter[0] > 1000)
    machine.pause()
    first = int(counter[0])
    time.sleep(0.02)

    assert machine.run_state is RunState.PAUSED
    assert int(counter[0]) == first
    machine.resume()
    bare.wait_until(lambda: counter[0] > first)
    machine.close()


def test_registers_while_running_are_refused() -> None:
    machine = bare.machine_with([a64.b(0)])

    machine.resume()

    with pytest.raises(RunStateError, match="the machine is running: pause it first"):
        machine.vcpus[0].get_register(register_ids.PC)
    with pytest.raises(RunStateError, match="the machine is running: pause it first"):
        machine.save_state()
    machine.close()


def test_close_twice_while_running_ends_the_thread() -> None:
    machine = bare.machine_with([a64.b(0)])
    others = set(threading.enumerate())
    machine.resume()
    (runner,) = [
        thread
        for thread in threading.enumerate()
        if thread.name == "vcpus" and thread not in others
    ]

    machine.close()
    machine.close()

    assert not runner.is_alive()
    with pytest.raises(RunStateError, match="the machine is closed"):
        machine.resume()


def test_vcpus_waiting_for_ever_cost_no_processor_time() -> None:
    machine = bare.machine_with([a64.hint(3), a64.b(-4)])

    machine.resume()
    before = time.process_time()
    time.sleep(0.3)
    used = time.process_time() - before

    assert used < 0.15
    machine.close()


# --- the dirty log ---


def test_dirty_log_data_store_marks_its_page_once() -> None:
    machine = bare.machine_with([a64.str_(2, 1), a64.str_(2, 1)])
    bare.set_x(machine, {1: bare.DATA})

    machine.start_dirty_log()
    machine.vcpus[0].step(1)
    first = machine.harvest_dirty_log()[0].pages().tolist()
    second = machine.harvest_dirty_log()[0].pages().tolist()
    machine.vcpus[0].step(1)
    third = machine.harvest_dirty_log()[0].pages().tolist()

    page = (bare.DATA - RAM_GPA) // 4096
    assert (first, second, third) == ([page], [], [page])
    machine.close()


def test_dirty_log_only_a_tag_changes_page_is_marked() -> None:
    machine = bare.machine_with([a64.stg(1, 1)])
    bare.set_x(machine, {1: bare.tagged(bare.DATA, 5)})
    data_before = machine.memory.read(Gpa(bare.DATA), 4096)

    machine.start_dirty_log()
    machine.vcpus[0].step(1)

    assert machine.harvest_dirty_log()[0].pages().tolist() == [(bare.DATA - RAM_GPA) // 4096]
    assert machine.memory.read(Gpa(bare.DATA), 4096) == data_before
    assert machine.read_tags(Gpa(bare.DATA), 4096)[0] == 5
    machine.close()


def test_dirty_log_store_across_pages_marks_both() -> None:
    machine = bare.machine_with([a64.str_(2, 1)])
    bare.set_x(machine, {1: bare.DATA + 4092})

    machine.start_dirty_log()
    machine.vcpus[0].step(1)

    page = (bare.DATA - RAM_GPA) // 4096
    assert machine.harvest_dirty_log()[0].pages().tolist() == [page, page + 1]
    machine.close()


def test_dirty_log_load_marks_nothing() -> None:
    machine = bare.machine_with([a64.ldr(2, 1)])
    bare.set_x(machine, {1: bare.DATA})

    machine.start_dirty_log()
    machine.vcpus[0].step(1)

    assert machine.harvest_dirty_log()[0].count() == 0
    machine.close()


def test_dirty_log_not_started_harvest_is_refused() -> None:
    machine = bare.machine_with([a64.b(0)])
    machine.start_dirty_log()
    machine.stop_dirty_log()

    with pytest.raises(RunStateError, match="the dirty log was not started"):
        machine.harvest_dirty_log()
    machine.close()


def page_walker() -> list[int]:
    """Change data and tags of pages all over the upper half of RAM, for ever, by an LCG."""
    code = Code(bare.CODE)
    code.label("loop")
    code.emit(
        a64.multiply(a64.MADD, 3, 3, 4, 5),  # x3 = x3 * x4 + x5
        a64.bitfield(2, 6, 3, 33, 51),  # ubfx: 19 bits of offset
        a64.logical_imm(0, 6, 6, (1, 60, 59)),  # aligned to a granule
        a64.add_reg(6, 6, 1),
        a64.irg(7, 6),
        a64.stg(7, 7),
        a64.str_(3, 7, 8),
    )
    code.branch("loop")
    return code.words_of()


def test_dirty_log_harvests_while_running_no_change_is_lost() -> None:
    machine = bare.machine_with(page_walker(), vcpu_count=2)
    for vcpu in range(2):
        bare.enable(machine, vcpu, TagCheckMode.SYNC)
        lcg = {1: RAM_GPA + (1 << 19), 3: vcpu + 1, 4: 6364136223846793005, 5: 1442695040888963407}
        bare.set_x(machine, lcg, vcpu)
        machine.vcpus[vcpu].set_power(PowerState.ON)
    region = machine.memory.regions[0]
    data, tags = region.data.copy(), region.tags.copy()

    def take(bitmap: PageBitmap) -> None:
        for page in bitmap.pages().tolist():
            data[page * 4096 :][:4096] = region.data[page * 4096 :][:4096]
            tags[page * 128 :][:128] = region.tags[page * 128 :][:128]

    machine.start_dirty_log()
    machine.resume()
    harvested, deadline = 0, time.monotonic() + 60
    while harvested < 500 and time.monotonic() < deadline:
        time.sleep(0.001)  # let the guest dirty something
        bitmap = machine.harvest_dirty_log()[0]
        harvested += bitmap.count()
        take(bitmap)
    machine.pause()
    take(machine.harvest_dirty_log()[0])

    assert machine.vcpus[1].instructions > 10_000
    assert np.array_equal(data, region.data)
    assert np.array_equal(tags, region.tags)
    machine.close()


def test_tags_misaligned_range_is_refused() -> None:
    machine = bare.machine_with([a64.b(0)])

    with pytest.raises(AddressError, match="gpa 0x40000010 is not a multiple of 0x20"):
        machine.read_tags(RAM_GPA + 16, 4096)
    with pytest.raises(AddressError, match="length 0x10 is not a multiple of 0x20"):
        machine.read_tags(RAM_GPA, 16)
    with pytest.raises(AddressError, match="gpa 0x40000010 is not a multiple of 0x20"):
        machine.write_tags(RAM_GPA + 16, np.zeros(1, np.uint8))
    machine.close()


def test_machine_of_one_vcpu_shows_itself_in_the_singular() -> None:
    with SoftMachine.create(ram_bytes=1 << 20) as machine:
        assert repr(machine) == "<SoftMachine paused: 1 vCPU, 1 MiB of RAM>"


def test_create_with_ram_that_is_no_whole_pages_is_refused_and_names_it() -> None:
    for ram_bytes in (0, 4095, 4097, -4096):
        with pytest.raises(UsageError) as caught:
            SoftMachine.create(ram_bytes=ram_bytes)

        assert str(caught.value) == (
            f"ram_bytes is {ram_bytes}: give whole pages of 4096 bytes, one at least"
        )


def test_machine_in_a_with_statement_is_closed_at_its_end() -> None:
    with SoftMachine.create(ram_bytes=1 << 20, vcpu_count=2) as machine:
        shown = [repr(machine)]
        machine.memory.write(0x4000_0000, b"plain integers are addresses")
        machine.resume()
        shown.append(repr(machine))
    shown.append(repr(machine))

    assert shown == [
        "<SoftMachine paused: 2 vCPUs, 1 MiB of RAM>",
        "<SoftMachine running: 2 vCPUs, 1 MiB of RAM>",
        "<SoftMachine closed: 2 vCPUs, 1 MiB of RAM>",
    ]
    with pytest.raises(RunStateError, match="the machine is closed"):
        machine.resume()


# --- several vCPUs ---


def racing_machine(seed: int) -> SoftMachine:
    """Two vCPUs append their number to one log without any lock."""
    words = [
        a64.ldr(2, 1),
        a64.ldst_reg(a64.STRB, 3, 2, 4),
        a64.add_imm(2, 2, 1),
        a64.str_(2, 1),
        a64.b(-16),
    ]
    machine = bare.machine_with(words, vcpu_count=2, seed=seed)
    for vcpu in range(2):
        bare.enable(machine, vcpu, TagCheckMode.SYNC)
        bare.set_x(machine, {1: bare.DATA, 3: vcpu + 1, 4: bare.DATA + 64}, vcpu)
        machine.vcpus[vcpu].set_power(PowerState.ON)
    return machine


def race(seed: int, pauses: int) -> bytes:
    machine = racing_machine(seed)
    log = machine.memory.view(Gpa(bare.DATA), 8).view(np.uint64)
    for _ in range(pauses):
        machine.resume()
        machine.pause()
    machine.resume()
    bare.wait_until(lambda: log[0] > 20_000)
    machine.pause()
    result = machine.memory.read(Gpa(bare.DATA + 64), 20_000)
    machine.close()
    return result


def test_two_vcpus_same_seed_interleave_the_same_whatever_the_pauses() -> None:
    first, again, other = race(7, pauses=0), race(7, pauses=20), race(8, pauses=0)

    assert first == again
    assert first != other
    assert {1, 2} <= set(first)


def test_exclusives_two_vcpus_increment_no_update_is_lost() -> None:
    code = Code(bare.CODE)
    code.label("loop")
    code.emit(a64.ldxr(3, 2, 1), a64.add_imm(2, 2, 1), a64.stxr(3, 5, 2, 1))
    code.branch("loop", lambda offset: a64.cbz(5, offset, nonzero=1, sf=0))
    code.emit(a64.sub_imm(6, 6, 1))
    code.branch("loop", lambda offset: a64.cbz(6, offset, nonzero=1))
    code.emit(a64.hint(3), a64.b(-4))
    machine = bare.machine_with(code.words_of(), vcpu_count=2)
    for vcpu in range(2):
        bare.enable(machine, vcpu, TagCheckMode.SYNC)
        bare.set_x(machine, {1: bare.DATA, 6: 50_000}, vcpu)
        machine.vcpus[vcpu].set_power(PowerState.ON)
    counter = machine.memory.view(Gpa(bare.DATA), 8).view(np.uint64)

    machine.resume()
    bare.wait_until(lambda: counter[0] == 100_000)
    machine.pause()
    done = [bare.get_x(machine, 6, vcpu) for vcpu in range(2)]

    assert done == [0, 0]
    machine.close()
