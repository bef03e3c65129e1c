"""Frozen descriptions and states of virtio devices: still taken, and still written as they are."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagalong.devices import DeviceBus
from tagalong.devices.virtio.transport import VirtioMmio
from tests.golden.build_devices import (
    DISK_BYTES,
    FOLDER,
    backings,
    golden_devices,
    golden_files,
)
from tests.support.virtio_driver import new_memory
from tests.support.virtio_scene import make_devices


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Return an image and a socket that something listens at."""
    image, path = tmp_path / "disk.img", tmp_path / "net.sock"
    image.touch()
    with image.open("r+b") as file:
        file.truncate(DISK_BYTES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        yield image, path


@pytest.fixture
def devices(places: tuple[Path, Path]) -> Iterator[list[VirtioMmio]]:
    made = golden_devices(*places)
    yield made
    for device in made:
        device.close()


def test_golden_devices_are_written_byte_for_byte(devices: list[VirtioMmio]) -> None:
    files = golden_files(devices)

    assert len(files) == 8
    for name, content in files.items():
        assert content == (FOLDER / name).read_bytes(), name


def test_golden_states_are_taken(places: tuple[Path, Path]) -> None:
    given = backings(*places)
    made = make_devices(given, given.describe(), seed=99)
    DeviceBus(made, new_memory(), lambda *_: None)

    for device in made:
        state = (FOLDER / f"{device.description.kind}-v1.state").read_bytes()
        device.load(state)
        assert device.save() == state
        device.close()
