"""The bus: which device and window an access hits, and what is refused by name."""

from dataclasses import replace

import pytest

from tagalong.devices import (
    Device,
    DeviceBus,
    HostTime,
    Pl011,
    SharedInput,
    StatusDevice,
    Window,
    built_in_models,
    create_devices,
)
from tagalong.errors import UsageError
from tagalong.machine import DEFAULT_CONSOLE, DeviceDescription
from tagalong.memory import Gpa, GuestMemory, Region
from tests.support.storing_device import (
    ACK,
    BYTES,
    DEVICES,
    GO,
    GPA,
    MODELS,
    PAGE,
    PAGES,
    SECOND_GPA,
    SECOND_ID,
    START,
    StoringDevice,
    described,
)
from tests.support.virtio_driver import new_memory
from tests.support.virtio_scene import echo_scene

RAM = Gpa(0x4000_0000)
CONSOLE = DEFAULT_CONSOLE.gpa


class Scene:
    """A bus with a console and a storing device over 16 pages of RAM; `levels` are the sink's."""

    def __init__(self, *devices: Device) -> None:
        self.output = bytearray()
        self.levels: list[tuple[int, bool]] = []
        self.memory = GuestMemory([Region.create(RAM, 16 * PAGE)])
        self.storer = StoringDevice()
        self.bus = DeviceBus(
            devices or (Pl011(self.output.extend), self.storer),
            self.memory,
            lambda intid, level: self.levels.append((intid, level)),
        )


def test_access_goes_to_the_window_that_has_all_of_it() -> None:
    bus = Scene().bus
    cases = {
        "console": (CONSOLE + 0xFE0, 4, 0x11),
        "last word of the console": (CONSOLE + 0xFFC, 4, 0xB1),
        "across the end of the console": (CONSOLE + 0xFFC, 8, None),
        "second window": (SECOND_GPA + 8, 4, SECOND_ID),
        "below the storer, in its page": (GPA - 4, 4, None),
        "after the storer": (GPA + BYTES, 4, None),
        "a width that it does not take": (SECOND_GPA, 2, None),
        "nothing there": (0, 4, None),
        "beyond all": (1 << 40, 4, None),
    }

    found = {name: bus.read(gpa, size) for name, (gpa, size, _) in cases.items()}

    assert found == {name: expected for name, (_, _, expected) in cases.items()}


def test_write_that_no_device_takes_says_so() -> None:
    scene = Scene()

    assert scene.bus.write(CONSOLE, 1, 0x141)
    assert not scene.bus.write(CONSOLE - 4, 4, 0)
    assert not scene.bus.write(GPA, 1, 0)

    assert scene.output == b"A"


def test_windows_that_overlap_are_refused_by_name() -> None:
    close = StoringDevice(replace(described(0), name="storer9", gpa=Gpa(GPA + BYTES - 8)))
    in_ram = StoringDevice(replace(described(0), gpa=Gpa(RAM + 0x1000)))

    with pytest.raises(UsageError) as overlap:
        Scene(StoringDevice(), close)
    with pytest.raises(UsageError) as ram:
        Scene(in_ram)

    assert str(overlap.value) == (
        "device 'storer0' at [0xa000200, 0xa000400) and device 'storer9' at "
        "[0xa0003f8, 0xa0005f8) overlap"
    )
    assert str(ram.value) == (
        "device 'storer0' at [0x40001000, 0x40001200) and guest RAM [0x40000000, 0x40010000) "
        "overlap"
    )


def test_any_number_of_devices_is_found() -> None:
    devices = [StoringDevice(described(number)) for number in range(300)]
    bus = Scene(*devices).bus

    for number in range(300):
        bus.write(GPA + number * PAGE + START, 8, number)

    assert [device.start for device in devices] == list(range(300))


def test_page_ranges_cover_the_windows_and_join_where_they_touch() -> None:
    bus = Scene(Pl011(), *(StoringDevice(described(number)) for number in range(3))).bus

    ranges = bus.page_ranges(PAGE)

    assert ranges == [
        Window(CONSOLE, 0x1000),
        Window(Gpa(0x0A00_0000), 3 * PAGE),
        Window(SECOND_GPA, 3 * PAGE),
    ]


def test_store_of_a_device_is_in_the_log_and_its_line_reaches_the_sink() -> None:
    scene = Scene()
    scene.memory.regions[0].stores.start()
    scene.bus.write(GPA + START, 8, RAM)
    scene.bus.write(GPA + PAGES, 4, 16)

    scene.bus.write(GPA + GO, 4, 0)
    scene.bus.write(GPA + GO, 4, 0)
    scene.bus.write(GPA + ACK, 4, 0)

    assert scene.memory.regions[0].stores.harvest().pages().tolist() == [1, 2]
    assert scene.levels == [(48, True), (48, False)]


def test_save_and_load_carry_every_device_and_its_line() -> None:
    first, second = Scene(), Scene()
    first.bus.write(GPA + START, 8, RAM)
    first.bus.write(GPA + PAGES, 4, 16)
    first.bus.write(GPA + GO, 4, 0)
    first.bus.write(CONSOLE + 0x24, 4, 7)

    states = first.bus.save()
    assert [*second.bus.objections(states)] == []
    second.bus.load(states)

    assert second.bus.save() == states
    assert second.levels == [(48, True)]


def test_objections_name_each_device_at_fault() -> None:
    bus = Scene().bus

    said = [*bus.objections({"gpu": b"", "storer0": b"123"})]

    assert said == [
        "the state has a device 'gpu', which this machine has not",
        "the state has no device 'pl011', which this machine has",
        "storer0 state has 3 bytes",
    ]


def test_create_devices_makes_each_by_its_kind() -> None:
    console, storer = create_devices(DEVICES, {**built_in_models(None, HostTime()), **MODELS})

    assert isinstance(console, Pl011)
    assert isinstance(storer, StoringDevice)


def test_create_devices_of_an_unknown_kind_is_refused_by_name() -> None:
    disk = DeviceDescription("disk0", "virtio-blk", Gpa(0x0A00_0000), 0x200, 49)

    with pytest.raises(UsageError) as caught:
        create_devices((DEFAULT_CONSOLE, disk), built_in_models(None, HostTime()))

    assert str(caught.value) == (
        "device 'disk0' is of kind 'virtio-blk': this machine knows pl011, pl031, pl061"
    )


def test_shared_input_is_high_while_any_line_is() -> None:
    levels: list[bool] = []
    shared = SharedInput(levels.append)

    for intid, level in ((48, True), (49, True), (48, False), (48, False), (49, False)):
        shared(intid, level)

    assert levels == [True, False]


def test_bus_publishes_what_may_be_read_without_it() -> None:
    scene, _ = echo_scene()
    bus = DeviceBus([Pl011(), scene.device], new_memory(), lambda *_: None)

    published = {(each.gpa, each.value) for each in bus.published}

    assert published == {(DEFAULT_CONSOLE.gpa + 0x18, 0x90)}
    assert [isinstance(each, StatusDevice) for each in bus.devices] == [False, True]
