"""The UART: registers, input, interrupts, state."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.devices import IrqLine, Pl011
from tagalong.devices.pl011 import FIFO_ENTRIES, STATE_LAYOUT, STATE_V1_LAYOUT
from tagalong.errors import StateError, UsageError
from tagalong.machine import DEFAULT_CONSOLE, DeviceDescription
from tagalong.memory import Gpa, GuestMemory, Region
from tests.support.format_document import FormatDocument

DR, RSR, FR, LCR_H, CR, IFLS, IMSC = 0x00, 0x04, 0x18, 0x2C, 0x30, 0x34, 0x38
RIS, MIS, ICR = 0x3C, 0x40, 0x44
RXFE, RXFF, TXFE = 0x10, 0x40, 0x80
RECEIVE, TRANSMIT, TIMEOUT, BREAK = 0x10, 0x20, 0x40, 0x200
ENABLED, FIFO_ON = 0x301, 0x10
STATE_BYTES = 4 + 7 * 4 + 3 * 4 + FIFO_ENTRIES * 2


def test_write_data_register_calls_output_with_the_low_byte() -> None:
    output: list[bytes] = []

    Pl011(output.append).write(0, 0, 4, 0x141)

    assert output == [b"A"]


def test_read_identification_says_pl011() -> None:
    uart = Pl011()

    assert [uart.read(0, 0xFE0 + 4 * i, 4) for i in range(8)] == [
        0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1,
    ]  # fmt: skip


def test_save_load_carries_the_registers() -> None:
    first, second = Pl011(), Pl011()
    first.write(0, 0x30, 4, 0x301)
    first.write(0, 0x24, 4, 7)

    second.load(first.save())

    assert (second.read(0, 0x30, 4), second.read(0, 0x24, 4)) == (0x301, 7)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"", "pl011 state has version 0, expected 1 or 2"),
        (b"\1\0\0", "pl011 state has version 1, expected 1 or 2"),
        (bytes(STATE_BYTES), "pl011 state has version 0, expected 1 or 2"),
        (b"\1\0\0\0" + bytes(27), "pl011 state has 31 bytes, expected 32"),
        (b"\2\0\0\0" + bytes(28), f"pl011 state has 32 bytes, expected {STATE_BYTES}"),
        (
            b"\2\0\0\0" + bytes(36) + b"\x21\0\0\0" + bytes(64),
            "pl011 state has 33 entries in its FIFO, at most 32 fit",
        ),
    ],
)
def test_load_rubbish_is_refused_and_nothing_changes(state: bytes, message: str) -> None:
    uart = enabled()
    uart.receive(b"x")
    before = uart.save()

    with pytest.raises(StateError) as caught:
        uart.load(state)

    assert str(caught.value) == message
    assert uart.save() == before


@given(st.binary(max_size=2 * STATE_BYTES))
def test_load_any_bytes_are_taken_or_refused_by_name(state: bytes) -> None:
    uart = Pl011()

    if objection := uart.objection(state):
        with pytest.raises(StateError):
            uart.load(state)
        assert objection.startswith("pl011 state has ")
    else:
        uart.load(state)


def test_load_of_version_1_has_the_registers_and_an_empty_fifo() -> None:
    uart = enabled()
    uart.receive(b"x")

    uart.load(struct.pack("<I7I", 1, 5, 6, FIFO_ON, ENABLED, 0x12, 0, 0))

    assert (uart.read(0, 0x24, 4), uart.read(0, 0x30, 4)) == (5, ENABLED)
    assert uart.read(0, FR, 4) == RXFE | TXFE


def test_reset_gives_the_registers_their_values_at_power_on() -> None:
    uart, line = with_line(RECEIVE)
    uart.receive(b"x" * FIFO_ENTRIES)
    assert line.level

    uart.reset()

    assert uart.save() == Pl011().save()
    assert not line.level


def test_description_that_no_pl011_has_is_refused_by_name() -> None:
    description = DeviceDescription("uart7", "pl011", Gpa(0x0900_0000), 0x2000, 33, b"\1")

    with pytest.raises(UsageError) as caught:
        Pl011(None, description)

    assert str(caught.value) == (
        "device 'uart7' has a window of 0x2000 bytes and 1 bytes of configuration: "
        "a PL011 has 0x1000 bytes and no configuration here"
    )


def test_document_and_code_have_the_same_forms() -> None:
    document = FormatDocument("pl011.md")

    document.require_byte_table("State", STATE_LAYOUT)
    document.require_byte_table("State of version 1", STATE_V1_LAYOUT)


def test_save_is_what_the_document_says() -> None:
    uart = enabled()
    uart.receive(b"ab")

    assert uart.save().hex() == (
        "02000000" "00000000" "00000000" "10000000" "01030000" "12000000" "00000000" "00000000"
        "00000000" "40000000" "02000000" "61006200" + "00" * 60
    )  # fmt: skip


# --- input ---


def test_receive_fills_the_fifo_and_says_how_much_fitted() -> None:
    uart = enabled()
    flags = [uart.read(0, FR, 4)]

    taken = uart.receive(bytes(range(40)))

    flags.append(uart.read(0, FR, 4))
    read = [uart.read(0, DR, 4) for _ in range(FIFO_ENTRIES)]
    assert (taken, read) == (FIFO_ENTRIES, list(range(FIFO_ENTRIES)))
    assert flags == [RXFE | TXFE, RXFF | TXFE]
    assert uart.read(0, FR, 4) == RXFE | TXFE
    assert uart.read(0, DR, 4) == 0


def test_receive_with_the_fifo_off_takes_one_byte() -> None:
    uart = enabled(fifo=0)

    assert (uart.receive(b"ab"), uart.receive(b"b")) == (1, 0)
    assert uart.read(0, FR, 4) == RXFF | TXFE


@pytest.mark.parametrize("control", [0x300, 0x101, 0x381])
def test_receive_while_the_guest_listens_to_nobody_takes_nothing(control: int) -> None:
    uart = Pl011()
    uart.write(0, CR, 4, control)

    assert uart.receive(b"x") == 0
    assert not uart.receive_break()


def test_write_in_loopback_mode_is_received_and_not_output() -> None:
    output: list[bytes] = []
    uart = Pl011(output.append)
    uart.write(0, CR, 4, 0x381)

    uart.write(0, DR, 4, ord("x"))

    assert (uart.read(0, DR, 4), output) == (ord("x"), [])


@pytest.mark.parametrize(
    ("selected", "entries"), [(0, 4), (1, 8), (2, 16), (3, 24), (4, 28), (7, 28)]
)
def test_receive_interrupt_comes_at_the_level_that_the_guest_selected(
    selected: int, entries: int
) -> None:
    uart, line = with_line(RECEIVE)
    uart.write(0, IFLS, 4, selected << 3)

    uart.receive(bytes(entries - 1))
    before = line.level
    uart.receive(bytes(1))

    assert (before, line.level, uart.read(0, MIS, 4)) == (False, True, RECEIVE)
    uart.read(0, DR, 4)
    assert not line.level


def test_timeout_interrupt_comes_with_the_first_byte_and_goes_with_the_last() -> None:
    uart, line = with_line(TIMEOUT)

    levels = [line.level]
    uart.receive(b"ab")
    levels.append(line.level)
    for _ in range(2):
        uart.read(0, DR, 4)
        levels.append(line.level)

    assert levels == [False, True, True, False]


def test_interrupts_are_masked_and_cleared_by_the_guest() -> None:
    uart, line = with_line(0)
    uart.receive(b"a")
    uart.write(0, DR, 4, ord("b"))

    raised = uart.read(0, RIS, 4)
    uart.write(0, IMSC, 4, TRANSMIT)
    masked, level = uart.read(0, MIS, 4), line.level
    uart.write(0, ICR, 4, TRANSMIT)

    assert (raised, masked, level) == (TIMEOUT | TRANSMIT, TRANSMIT, True)
    assert (uart.read(0, RIS, 4), line.level) == (TIMEOUT, False)


def test_break_is_an_entry_of_its_own_with_its_interrupt() -> None:
    uart, line = with_line(BREAK)

    uart.receive_break()
    uart.receive(b"h")

    assert line.level
    assert (uart.read(0, DR, 4), uart.read(0, RSR, 4)) == (0x400, 4)
    assert (uart.read(0, DR, 4), uart.read(0, RSR, 4)) == (ord("h"), 0)


def test_turning_the_fifo_off_flushes_it() -> None:
    uart, line = with_line(TIMEOUT)
    uart.receive(b"abc")

    uart.write(0, LCR_H, 4, 0)

    assert (uart.read(0, FR, 4), line.level) == (RXFE | TXFE, False)


def test_guest_that_reads_or_listens_asks_for_more_input() -> None:
    uart = Pl011()
    asked: list[str] = []
    uart.when_readable(lambda: asked.append("input"))

    uart.read(0, FR, 4)
    before = len(asked)
    uart.write(0, CR, 4, ENABLED)
    uart.read(0, DR, 4)

    assert (before, len(asked)) == (0, 2)


def test_save_load_carries_input_and_the_lines_level() -> None:
    first, _ = with_line(TIMEOUT | BREAK)
    first.receive(b"a")
    first.receive_break()
    second, line = with_line(0)

    second.load(first.save())

    assert line.level
    assert second.save() == first.save()
    assert [second.read(0, DR, 4) for _ in range(2)] == [ord("a"), 0x400]


def enabled(fifo: int = FIFO_ON) -> Pl011:
    uart = Pl011()
    uart.write(0, LCR_H, 4, fifo)
    uart.write(0, CR, 4, ENABLED)
    return uart


def with_line(mask: int) -> tuple[Pl011, IrqLine]:
    line = IrqLine(33, lambda _intid, _level: None)
    uart = Pl011()
    with GuestMemory([Region.create(0x4000_0000, 0x1000)]) as memory:
        uart.attach(memory, line)
    uart.write(0, LCR_H, 4, FIFO_ON)
    uart.write(0, CR, 4, ENABLED)
    uart.write(0, IMSC, 4, mask)
    return uart, line


STEPS = st.one_of(
    st.tuples(st.just("receive"), st.binary(max_size=40)),
    st.tuples(st.just("break"), st.none()),
    st.tuples(st.just("read"), st.sampled_from([0, 0x18, 0x3C])),
    st.tuples(
        st.just("write"),
        st.tuples(st.sampled_from([0, 0x2C, 0x30, 0x44]), st.integers(0, 0x3FF)),
    ),
    st.tuples(st.sampled_from(["reset", "reload"]), st.none()),
)


@given(steps=st.lists(STEPS, max_size=20))
def test_published_flags_are_always_what_a_read_returns(steps: list[tuple[str, Any]]) -> None:
    uart = Pl011()
    (flags,) = uart.published

    for step, argument in steps:
        match step:
            case "receive":
                uart.receive(argument)
            case "break":
                uart.receive_break()
            case "read":
                uart.read(0, argument, 4)
            case "write":
                uart.write(0, argument[0], 4, argument[1])
            case "reset":
                uart.reset()
            case "reload":
                uart.load(uart.save())
        published = flags.value
        assert published == uart.read(0, 0x18, 4)

    assert flags.gpa == DEFAULT_CONSOLE.gpa + 0x18
