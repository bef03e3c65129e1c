"""Images and modules taken out of kernel packages, which the tests build as tar archives."""

import lzma
import shutil
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.kernel import dependencies, extract, extract_for_guest, load_order
from tests.support.cpio_reader import read_by_path
from tests.support.deb_builder import DebBuilder

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on the PATH"
)

CONSOLE = b"\x7fELF\0depends=virtio,virtio_ring\0intree=Y\0"
PCI = b"\x7fELF\0depends=virtio_pci_modern_dev,virtio,virtio_ring\0"
MODERN = b"\x7fELF\0depends=\0"
VIRTIO = b"\x7fELF\0license=GPL\0depends=virtio_ring\0"
RING = b"\x7fELF\0depends=\0"


@pytest.fixture
def deb(tmp_path: Path) -> DebBuilder:
    return DebBuilder(tmp_path)


def test_extract_old_layout_image_in_boot_and_modules_in_lib(
    deb: DebBuilder, tmp_path: Path
) -> None:
    drivers = "lib/modules/6.1.0-50-cloud-arm64/kernel/drivers"
    package = deb(
        {
            "boot/vmlinuz-6.1.0-50-cloud-arm64": b"MZ the image",
            "boot/config-6.1.0-50-cloud-arm64": b"CONFIG_KVM=y",
            f"{drivers}/char/virtio_console.ko": CONSOLE,
            f"{drivers}/virtio/virtio.ko": VIRTIO,
            f"{drivers}/virtio/virtio_ring.ko": RING,
            f"{drivers}/net/virtio_net.ko": MODERN,
        }
    )

    release = extract([package], tmp_path)

    assert release == "6.1.0-50-cloud-arm64"
    assert (tmp_path / "Image").read_bytes() == b"MZ the image"
    entries = read_by_path((tmp_path / "modules.cpio").read_bytes())
    assert [path for path in entries if path.endswith(".ko")] == [
        "lab/modules/00-virtio_ring.ko",
        "lab/modules/01-virtio.ko",
        "lab/modules/02-virtio_console.ko",
    ]
    assert entries["lab/modules/02-virtio_console.ko"].data == CONSOLE


def test_extract_new_layout_split_packages_and_packed_modules(
    deb: DebBuilder, tmp_path: Path
) -> None:
    base = "usr/lib/modules/7.3.4+deb13-cloud-arm64"
    binary = deb({f"{base}/vmlinuz": b"the image"})
    modules = deb({f"{base}/kernel/drivers/char/virtio_console.ko.xz": lzma.compress(MODERN)})

    release = extract([binary, modules], tmp_path)

    assert release == "7.3.4+deb13-cloud-arm64"
    entries = read_by_path((tmp_path / "modules.cpio").read_bytes())
    assert entries["lab/modules/00-virtio_console.ko"].data == MODERN


def test_extract_has_tap_devices_and_bridges(deb: DebBuilder, tmp_path: Path) -> None:
    folder = "lib/modules/6.12.1-cloud-arm64/kernel"
    package = deb(
        {
            "boot/vmlinuz-6.12.1-cloud-arm64": b"image",
            f"{folder}/drivers/net/tun.ko": MODERN,
            f"{folder}/net/bridge/bridge.ko": b"\0depends=stp,llc\0",
            f"{folder}/net/802/stp.ko": b"\0depends=llc\0",
            f"{folder}/net/llc/llc.ko": MODERN,
        }
    )

    extract([package], tmp_path)

    entries = read_by_path((tmp_path / "modules.cpio").read_bytes())
    assert [Path(path).stem for path in entries if path.endswith(".ko")] == [
        "00-tun", "01-llc", "02-stp", "03-bridge",
    ]  # fmt: skip


def test_extract_everything_built_in_gives_an_empty_archive(
    deb: DebBuilder, tmp_path: Path
) -> None:
    extract([deb({"boot/vmlinuz-6.12.95-cloud-arm64": b"i"})], tmp_path)

    assert read_by_path((tmp_path / "modules.cpio").read_bytes()) == {}


def test_extract_without_an_image_names_the_packages(deb: DebBuilder, tmp_path: Path) -> None:
    with pytest.raises(LabSetupError, match=r"^cannot find a kernel image in linux-1\.deb$"):
        extract([deb({"usr/share/doc/x": b""})], tmp_path)


def test_extract_of_a_damaged_package_tells_what_dpkg_says(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"not a package")

    with pytest.raises(LabSetupError) as caught:
        extract([broken], tmp_path)

    assert str(caught.value).startswith("cannot read broken.deb")


def test_load_order_puts_dependencies_first_and_each_once() -> None:
    modules = {
        "virtio_console": CONSOLE, "virtio_pci": PCI, "virtio": VIRTIO,
        "virtio_ring": RING, "virtio_pci_modern_dev": MODERN, "virtio_net": PCI,
    }  # fmt: skip

    assert load_order(modules) == [
        "virtio_pci_modern_dev", "virtio_ring", "virtio", "virtio_pci", "virtio_console",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "names"),
    [(CONSOLE, ["virtio", "virtio_ring"]), (RING, []), (b"no such section", [])],
)
def test_dependencies_come_from_modinfo(module: bytes, names: list[str]) -> None:
    assert dependencies(module) == names


def test_extract_for_guest_writes_the_modules_of_its_devices_in_load_order(
    deb: DebBuilder, tmp_path: Path
) -> None:
    folder = "lib/modules/6.12.1-cloud-arm64"
    package = deb(
        {
            "boot/vmlinuz-6.12.1-cloud-arm64": b"image",
            f"{folder}/kernel/drivers/net/virtio_net.ko.xz": lzma.compress(
                b"\0depends=net_failover\0"
            ),
            f"{folder}/kernel/drivers/net/net_failover.ko": b"\0depends=failover\0",
            f"{folder}/kernel/net/core/failover.ko": b"\0depends=\0",
            f"{folder}/kernel/drivers/char/hw_random/virtio-rng.ko": b"\0depends=rng-core\0",
            f"{folder}/kernel/drivers/char/hw_random/rng-core.ko": b"\0depends=\0",
            f"{folder}/kernel/drivers/input/virtio_input.ko": b"\0depends=\0",
        }
    )

    release = extract_for_guest([package], tmp_path, tmp_path / "modules")

    assert (release, (tmp_path / "Image").read_bytes()) == ("6.12.1-cloud-arm64", b"image")
    assert [path.name for path in sorted((tmp_path / "modules").iterdir())] == [
        "00-failover.ko", "01-net_failover.ko", "02-virtio_net.ko", "03-rng_core.ko",
        "04-virtio_rng.ko",
    ]  # fmt: skip
