"""A kernel for the lab or for a guest: its image, and the modules that its devices need."""

import lzma
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tagalong.errors import LabSetupError
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.deb import files_of

IMAGE = "Image"
MODULES = "modules.cpio"

# A folder in the lab; PID 1 loads the modules in the order of their names.
MODULE_FOLDER = "lab/modules"

NEEDED = (
    "virtio_pci",
    "virtio_console",
    "tls",
    "ghash_ce",
    "gcm",
    "ghash_generic",
    "tun",
    "bridge",
)
"""The modules that are loaded, besides what they depend on.

The drivers of the lab's ports, which Debian builds into the kernel from 6.12 on. What nothing in
the lab would load when it is asked for: TLS in the kernel, and AES-GCM for it; tap devices and
bridges.
"""

# The drivers of what a machine of ours has. Some kernels have some of them built in.
_NEEDED_BY_GUEST = (
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_console",
    "evdev",
    "gpio_keys",
)

_MODULE = re.compile(
    r".*/kernel/.*/(?P<name>virtio[^/.]*|(net_)?failover|rng-core|evdev|gpio_keys"
    r"|tls|ghash-ce|gcm|ghash-generic|gf128mul|crypto_null|tun|bridge|stp|llc)"
    r"\.ko(?P<packed>\.xz)?"
)
_IMAGE = re.compile(r"(usr/)?(boot/vmlinuz-|lib/modules/[^/]+/vmlinuz).*")
_RELEASE = re.compile(r"(?:usr/)?(?:lib/modules/|boot/vmlinuz-)(?P<release>[^/]+)(?:/.*)?")


def extract(debs: Iterable[Path], folder: Path) -> str:
    """Write image and modules of the kernel in `debs` into `folder`; return its release.

    Raises LabSetupError if they contain no image.
    """
    modules, release = _extract(debs, folder)
    _write_modules(folder / MODULES, modules)
    return release


def extract_for_guest(debs: Iterable[Path], folder: Path, module_folder: Path) -> str:
    """Write the image into `folder`, and a guest's modules, in load order, into `module_folder`.

    Returns the kernel's release. Raises LabSetupError if `debs` contain no image.
    """
    modules, release = _extract(debs, folder)
    module_folder.mkdir()
    for number, name in enumerate(load_order(modules, _NEEDED_BY_GUEST)):
        (module_folder / f"{number:02}-{name}.ko").write_bytes(modules[name])
    return release


def _extract(debs: Iterable[Path], folder: Path) -> tuple[dict[str, bytes], str]:
    """Write the image into `folder`; return the modules that may be needed, and the release."""
    image, release, modules = b"", "", dict[str, bytes]()
    for deb in debs:
        for file in files_of(deb):
            if _IMAGE.fullmatch(file.path):
                image, release = file.read(), _release(file.path)
            elif found := _MODULE.fullmatch(file.path):
                name = found["name"].replace("-", "_")
                modules[name] = lzma.decompress(file.read()) if found["packed"] else file.read()
    if not image:
        names = ", ".join(deb.name for deb in debs)
        raise LabSetupError(f"cannot find a kernel image in {names}")
    (folder / IMAGE).write_bytes(image)
    return modules, release


def load_order(modules: Mapping[str, bytes], needed: Iterable[str] = NEEDED) -> list[str]:
    """Return which of `modules` to load for those that are `needed`, each after its dependencies.

    A needed module that is missing from `modules` is built into the kernel.
    """
    order: list[str] = []

    def load(name: str) -> None:
        if name in modules and name not in order:
            for other in dependencies(modules[name]):
                load(other.replace("-", "_"))
            order.append(name)

    for name in needed:
        load(name)
    return order


def dependencies(module: bytes) -> list[str]:
    """Return the modules that a module depends on, from its .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def _release(path: str) -> str:
    found = _RELEASE.fullmatch(path)
    return found["release"] if found else ""


def _write_modules(target: Path, modules: Mapping[str, bytes]) -> None:
    with target.open("wb") as out:
        writer = CpioWriter(out)
        for number, name in enumerate(load_order(modules)):
            writer.add_file(f"{MODULE_FOLDER}/{number:02}-{name}.ko", modules[name])
        writer.close()
