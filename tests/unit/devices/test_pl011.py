import pytest

from tagalong.devices import Pl011
from tagalong.errors import StateError


def test_write_data_register_calls_output_with_the_low_byte() -> None:
    output: list[bytes] = []

    Pl011(output.append).write(0, 0x141)

    assert output == [b"A"]


def test_read_identification_says_pl011() -> None:
    uart = Pl011()

    assert [uart.read(0xFE0 + 4 * i) for i in range(8)] == [
        0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1,
    ]  # fmt: skip


def test_save_load_carries_the_registers() -> None:
    first, second = Pl011(), Pl011()
    first.write(0x30, 0x301)
    first.write(0x24, 7)

    second.load(first.save())

    assert (second.read(0x30), second.read(0x24)) == (0x301, 7)


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
