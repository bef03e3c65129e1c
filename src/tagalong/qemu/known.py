"""What is known of QEMU's virt machine and of the files that people take for its streams."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.core.reader import QEMU_STREAM_MAGIC
from tagalong.errors import CoreError
from tagalong.machine import DeviceDescription

BLOCK_OF_RAM: Final = "mach-virt.ram"
BLOCK_OF_TAGS: Final = "mach-virt.tag"

VIRT_RAM: Final = 0x4000_0000
"""Where RAM begins, of any size."""

VIRT_DEVICES: Final = DeviceDescription(
    "qemu-virt", "qemu-virt", 0x0800_0000, VIRT_RAM - 0x0800_0000
)
"""All devices of the machine as one, in its range of device registers.

Their state is not taken over: no machine of ours has such a device, so none restores the core.
"""

_LIBVIRT_MAGIC: Final = b"LibvirtQemudSave"
_LIBVIRT_HEADER_BYTES: Final = 92
_LIBVIRT_XML_BYTES: Final = slice(20, 24)
_LIBVIRT_COMPRESSED: Final = slice(28, 32)

_OTHERS: Final = {
    b"\x1f\x8b": "it is compressed by gzip; decompress it first",
    b"BZh": "it is compressed by bzip2; decompress it first",
    b"\xfd7zXZ": "it is compressed by xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd; decompress it first",
    b"\x89LZO": "it is compressed by lzop; decompress it first",
    b"QFI\xfb": "it is a qcow2 image; save the guest with `migrate file:PATH`",
    b"\x11\x22\x33\x44": "it is a further connection of multifd, which has pages alone; save the "
    "guest with multifd off, or with mapped-ram on",
    b"\x7fELF": "it is an ELF file already: `tagalong info` says what is in it",
    b"LibvirtQemudPart": "libvirt has not completed it; save the guest again",
}


def what_file(content: NDArray[np.uint8], path: Path) -> None:
    """Raise CoreError if a file is none of QEMU's streams, saying what it is if that is known."""
    start = content[:_LIBVIRT_HEADER_BYTES].tobytes()
    if start.startswith(QEMU_STREAM_MAGIC):
        return
    if start.startswith(_LIBVIRT_MAGIC) and len(start) == _LIBVIRT_HEADER_BYTES:
        raise CoreError(f"cannot convert {path}: {_libvirt(start)}")
    for magic, advice in _OTHERS.items():
        if start.startswith(magic):
            raise CoreError(f"cannot convert {path}: {advice}")
    raise CoreError(
        f"cannot convert {path}: it does not begin as a migration stream of QEMU, with QEVM; give "
        "a file of `migrate file:PATH`, or say with --offset where its stream begins"
    )


def _libvirt(head: bytes) -> str:
    if int.from_bytes(head[_LIBVIRT_COMPRESSED], "little"):
        return (
            'libvirt saved it compressed; set save_image_format = "raw" in its qemu.conf and save '
            "the guest again"
        )
    offset = _LIBVIRT_HEADER_BYTES + int.from_bytes(head[_LIBVIRT_XML_BYTES], "little")
    return f"libvirt saved it, and QEMU's stream begins later; give --offset {offset:#x}"
