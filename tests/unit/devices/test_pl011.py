import pytest

from tagalong.devices import Pl011
from tagalong.errors import StateError, UsageError
from tagalong.machine import DeviceDescription
from tagalong.memory import Gpa


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
        (b"", "pl011 state has 0 bytes, expected 32"),
        (bytes(31), "pl011 state has 31 bytes, expected 32"),
        (bytes(32), "pl011 state has version 0, expected 1"),
    ],
)
def test_load_rubbish_is_refused_and_nothing_changes(state: bytes, message: str) -> None:
    uart = Pl011()
    before = uart.save()

    with pytest.raises(StateError, match=message):
        uart.load(state)

    assert uart.save() == before


def test_reset_gives_the_registers_their_values_at_power_on() -> None:
    uart = Pl011()
    uart.write(0, 0x30, 4, 0x301)

    uart.reset()

    assert uart.save() == Pl011().save()


def test_description_that_no_pl011_has_is_refused_by_name() -> None:
    description = DeviceDescription("uart7", "pl011", Gpa(0x0900_0000), 0x2000, 33, b"\1")

    with pytest.raises(UsageError) as caught:
        Pl011(None, description)

    assert str(caught.value) == (
        "device 'uart7' has a window of 0x2000 bytes, interrupt 33 and 1 bytes of configuration: "
        "a PL011 has 0x1000 bytes, no interrupt and no configuration here"
    )
