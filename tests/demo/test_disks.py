"""`tagalong run --disk` as a real process: the lock of its image, and what QMP says."""

from pathlib import Path

import pytest

from tagalong.devices.virtio.image import Image
from tagalong.errors import HostError
from tagalong.qapi.devices import BlockInfo
from tests.support.vm_processes import tagalong, vm_process

CHURN = ("--guest", "churn", "--guest-args", "report=512", "--ram", "16M")


def is_free(image: Path) -> bool:
    """Return whether this process could write the image."""
    third = Image(image, "third", read_only=False)
    try:
        third.activate()
    except HostError:
        return False
    finally:
        third.close()
    return True


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 << 10))
    return path


def test_image_of_a_vm_has_one_user_and_the_socket_tells_of_it(tmp_path: Path, image: Path) -> None:
    with vm_process(tmp_path, "vm", *CHURN, "--disk", str(image), "--rng") as vm, vm.qmp() as qmp:
        second = tagalong("run", "--guest", "selftest", "--disk", str(image))
        value = qmp.execute("query-block")["return"]
        within = is_free(image)

    assert second.returncode == 10
    assert f"image {image} of disk 'disk0' is in use by another process" in second.stderr
    assert isinstance(value, list)
    (found,) = map(BlockInfo.from_qmp, value)
    assert (found.device, found.path, found.size_bytes) == ("disk0", str(image), 64 << 10)
    assert (within, is_free(image)) == (False, True)


def test_disk_moves_with_its_vm(tmp_path: Path, image: Path) -> None:
    address = f"unix:{tmp_path / 'in'}"
    with vm_process(tmp_path, "a", *CHURN, "--disk", str(image)) as source:
        source.wait_for_console("churn: progress")
        disk = ("--disk", str(image))
        with vm_process(tmp_path, "b", "--incoming", address, *disk) as destination:
            destination.incoming_uri()
            moved = tagalong("migrate", str(source.control), address, "--verify")
            with destination.qmp() as there:
                arrived = there.state()
            source.process.kill()
            source.status()
            held = not is_free(image)

    assert (moved.returncode, arrived, held) == (0, "running", True)
