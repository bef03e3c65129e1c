"""The GPIO controller: its registers, interrupts, the key at a line, its state."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.boot.linux import LINUX_GPIO
from tagalong.devices import IrqLine, Pl061
from tagalong.devices.pl061 import STATE_LAYOUT
from tagalong.errors import StateError, UsageError
from tagalong.machine import DeviceDescription
from tagalong.memory import Gpa, GuestMemory, Region
from tests.support.format_document import FormatDocument

DIR, IS, IBE, IEV, IE, RIS, MIS, IC = range(0x400, 0x420, 4)
ALL_DATA = 0x3FC
LINE = 3
BIT = 1 << LINE


class Scene:
    """A controller and its interrupt line."""

    def __init__(self) -> None:
        self.memory = GuestMemory([Region.create(Gpa(0x4000_0000), 4096)])
        self.line = IrqLine(39, lambda *_: None)
        self.gpio = Pl061(LINUX_GPIO)
        self.gpio.attach(self.memory, self.line)

    def read(self, offset: int) -> int:
        return self.gpio.read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.gpio.write(0, offset, 4, value)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_identification_says_pl061(scene: Scene) -> None:
    assert [scene.read(0xFE0 + 4 * i) for i in range(8)] == [
        0x61, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1,
    ]  # fmt: skip


def test_press_is_seen_once_and_is_two_edges(scene: Scene) -> None:
    scene.write(IBE, BIT)
    scene.write(IE, BIT)

    scene.gpio.press(LINE)
    pressed = scene.line.level, scene.read(RIS), scene.read(MIS)
    scene.write(IC, BIT)
    cleared = scene.line.level
    first = scene.read(4 * BIT)
    released = scene.line.level, scene.read(RIS)
    second = scene.read(ALL_DATA)

    assert (pressed, cleared, first) == ((True, BIT, BIT), False, BIT)
    assert (released, second) == ((True, BIT), 0)


def test_key_stays_pressed_while_other_lines_are_read(scene: Scene) -> None:
    scene.gpio.press(LINE)

    others = scene.read(4 * (0xFF & ~BIT))

    assert (others, scene.read(ALL_DATA), scene.read(ALL_DATA)) == (0, BIT, 0)


@pytest.mark.parametrize(("rising", "edges"), [(BIT, [BIT, BIT]), (0, [0, BIT])])
def test_one_edge_alone_interrupts_as_chosen(scene: Scene, rising: int, edges: list[int]) -> None:
    scene.write(IEV, rising)

    scene.gpio.press(LINE)
    raised = [scene.read(RIS)]
    scene.read(ALL_DATA)
    raised.append(scene.read(RIS))

    assert raised == edges


@pytest.mark.parametrize(
    ("high", "expected"), [(BIT, [False, True, False]), (0, [True, False, True])]
)
def test_level_interrupts_while_it_is(scene: Scene, high: int, expected: list[bool]) -> None:
    scene.write(IS, BIT)
    scene.write(IEV, high)
    scene.write(IE, BIT)

    found = [scene.line.level]
    scene.gpio.press(LINE)
    scene.write(IC, BIT)
    found.append(scene.line.level)
    scene.read(ALL_DATA)
    found.append(scene.line.level)

    assert found == expected


def test_outputs_are_what_was_written_through_the_mask(scene: Scene) -> None:
    scene.write(DIR, 0x0F)
    scene.gpio.press(LINE)

    scene.write(4 * 0x3C, 0xFF)

    assert (scene.read(ALL_DATA), scene.read(RIS)) == (0x0C, 0)


def test_reset_releases_the_key_and_lowers_the_line(scene: Scene) -> None:
    fresh = scene.gpio.save()
    scene.write(IBE, BIT)
    scene.write(IE, BIT)
    scene.gpio.press(LINE)

    scene.gpio.reset()

    assert (scene.line.level, scene.gpio.save()) == (False, fresh)


def test_state_carries_a_press_that_the_guest_has_not_seen(scene: Scene) -> None:
    scene.write(IBE, BIT)
    scene.write(IE, BIT)
    scene.gpio.press(LINE)
    other = Scene()

    other.gpio.load(scene.gpio.save())

    assert (other.line.level, other.read(ALL_DATA), other.read(ALL_DATA)) == (True, BIT, 0)


@given(st.lists(st.integers(0, 0xFF), min_size=9, max_size=9))
def test_state_is_saved_as_it_was_loaded(values: list[int]) -> None:
    state = struct.pack("<10I", 1, *values)
    gpio = Pl061(LINUX_GPIO)

    gpio.load(state)

    assert gpio.save() == state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"", "gpio state has 0 bytes, expected 40"),
        (struct.pack("<9I", 1, *[0] * 8), "gpio state has 36 bytes, expected 40"),
        (struct.pack("<10I", 2, *[0] * 9), "gpio state has version 2, expected 1"),
        (
            struct.pack("<10I", 1, *[0] * 8, 0x100),
            "gpio state has edges 0x100: a PL061 has 8 lines",
        ),
    ],
)
def test_state_that_cannot_be_is_refused(state: bytes, message: str) -> None:
    gpio = Pl061(LINUX_GPIO)
    before = gpio.save()

    with pytest.raises(StateError) as caught:
        gpio.load(state)

    assert (str(caught.value), gpio.save()) == (message, before)


def test_description_that_no_pl061_has_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Pl061(DeviceDescription("gpio", "pl061", 0x0903_0000, 0x100))

    assert str(caught.value) == (
        "device 'gpio' has a window of 0x100 bytes and 0 bytes of configuration: a PL061 has "
        "0x1000 bytes and no configuration here"
    )


def test_document_has_the_layout() -> None:
    FormatDocument("pl061.md").require_byte_table("State", STATE_LAYOUT)
