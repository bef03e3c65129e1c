"""Kernel files: what they are is found by their content, and nothing in them is trusted.

    Image        begins with 64 bytes of header, "ARMd" at offset 56
    gzip, zstd   a compressed file with an Image in it, as distributions install them
    zboot        an EFI program that carries such a compressed file
    flat         anything else: bytes that run from their first instruction, as kvm-unit-tests' do

Sources: Linux, Documentation/arch/arm64/booting.rst (the header) and
drivers/firmware/efi/libstub/zboot-header.S; QEMU, hw/arm/boot.c for where a flat image goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

from tagalong.binary.layout import Layout
from tagalong.boot.linux.compressed import GZIP_MAGIC, ZSTD_MAGIC, gunzip, unzstd
from tagalong.errors import GuestImageError

MAX_KERNEL_BYTES: Final = 512 << 20
"""The largest kernel, in its file and unpacked: those of distributions have about 40 MiB."""

IMAGE_HEADER: Final = Layout(
    ("code0", "u32"),
    ("code1", "u32"),
    ("text_offset", "u64"),
    ("image_size", "u64"),
    ("flags", "u64"),
    ("res2", "u64"),
    ("res3", "u64"),
    ("res4", "u64"),
    ("magic", 4),
    ("res5", "u32"),
)
ZBOOT_HEADER: Final = Layout(
    ("dos_magic", 4),
    ("magic", 4),
    ("payload_offset", "u32"),
    ("payload_size", "u32"),
    ("padding", 8),
    ("compression", 32),
)

HEAD_BYTES: Final = IMAGE_HEADER.size
"""How much of a file says whether it is an Image as it stands."""

_IMAGE_MAGIC: Final = b"ARM\x64"
_ZBOOT_MAGIC: Final = b"zimg"
_BIG_ENDIAN: Final = 1
_PAGE_SIZE_SHIFT: Final = 1
_PAGE_SIZES: Final = (None, 4 << 10, 16 << 10, 64 << 10)

# Kernels before 3.17 say nothing of their size, and begin here.
_OLD_TEXT_OFFSET: Final = 0x80000

# Where QEMU puts what has no header; such images are linked to run there.
_FLAT_OFFSET: Final = 0x80000

# What a user may well give by mistake. As a flat image it would run, and fail silently.
_FOREIGN: Final[Mapping[bytes, str]] = MappingProxyType(
    {
        b"\x7fELF": "an ELF file; --guest takes those that are programs, and --kernel an Image",
        b"BZh": "packed with bzip2; give an Image, or one packed with gzip or zstd",
        b"\xfd7zXZ\0": "packed with xz; give an Image, or one packed with gzip or zstd",
        b"\x04\x22\x4d\x18": "packed with lz4; give an Image, or one packed with gzip or zstd",
        b"\x89LZO": "packed with lzo; give an Image, or one packed with gzip or zstd",
        b"070701": "a cpio archive: an initial RAM disk is given with --initrd",
        b"!<arch>\n": "an archive, as Debian packages are; give the kernel that is in it",
        b"\xd0\x0d\xfe\xed": "a device tree; tagalong makes its own, give a kernel",
        b"#!": "a script; give a kernel",
        b"\x27\x05\x19\x56": "a U-Boot image; give the kernel that is in it",
    }
)
_BZIMAGE_AT: Final = 0x202
_BZIMAGE_MAGIC: Final = b"HdrS"

_UNPACKERS: Final[Mapping[str, Callable[[memoryview, int], bytes]]] = MappingProxyType(
    {"gzip": gunzip, "zstd": unzstd, "zstd22": unzstd}
)


class KernelForm(Enum):
    """What a kernel file was; the values are the words shown to people."""

    IMAGE = "Image"
    GZIP = "Image, packed with gzip"
    ZSTD = "Image, packed with zstd"
    ZBOOT = "Image in an EFI zboot program"
    FLAT = "flat image without a header"


@dataclass(frozen=True)
class KernelImage:
    """A kernel as it goes into memory.

    It starts `text_offset` bytes behind an address that is a multiple of 2 MiB, and needs
    `size_bytes` from there on, which its own data may not fill. `page_size_bytes`: what it
    translates with, None if it does not say.
    """

    data: memoryview
    text_offset: int
    size_bytes: int
    page_size_bytes: int | None
    form: KernelForm


def parse_kernel(content: bytes, most_bytes: int = MAX_KERNEL_BYTES) -> KernelImage:
    """Return the kernel in a file's `content`.

    `most_bytes`: unpacked, it may have no more, whatever it claims. Raises GuestImageError that
    says what the file is instead, or the offset of what is wrong.
    """
    view = memoryview(content)
    if content.startswith(GZIP_MAGIC):
        return _packed(gunzip(view, most_bytes), most_bytes, KernelForm.GZIP)
    if content.startswith(ZSTD_MAGIC):
        return _packed(unzstd(view, most_bytes), most_bytes, KernelForm.ZSTD)
    return _unpacked(view, most_bytes)


def plain_kernel(head: bytes, file_bytes: int) -> KernelImage | None:
    """Return the kernel that a file is as it stands, without its data, by its first bytes.

    `head`: HEAD_BYTES, or the whole file. None if the content must be unpacked, or looked at for
    what else it is: parse_kernel does that. Raises GuestImageError as that does.
    """
    view = memoryview(head)
    is_packed = head.startswith((GZIP_MAGIC, ZSTD_MAGIC)) or _has(
        view, ZBOOT_HEADER.offsets["magic"], _ZBOOT_MAGIC
    )
    if is_packed or not _has(view, IMAGE_HEADER.offsets["magic"], _IMAGE_MAGIC):
        return None
    return replace(_plain(view, file_bytes), data=view[:0])


def _packed(unpacked: bytes, most_bytes: int, form: KernelForm) -> KernelImage:
    """Return what a compressed file holds: an Image, or a zboot program."""
    image = _unpacked(memoryview(unpacked), most_bytes)
    if image.form is KernelForm.FLAT:
        raise GuestImageError(
            f"kernel: unpacked, its {len(unpacked):#x} bytes are no arm64 Image: it has no "
            f"{_IMAGE_MAGIC!r} at offset {IMAGE_HEADER.offsets['magic']:#x}"
        )
    return image if image.form is KernelForm.ZBOOT else _renamed(image, form)


def _unpacked(view: memoryview, most_bytes: int) -> KernelImage:
    if _has(view, ZBOOT_HEADER.offsets["magic"], _ZBOOT_MAGIC):
        return _zboot(view, most_bytes)
    if _has(view, IMAGE_HEADER.offsets["magic"], _IMAGE_MAGIC):
        return _plain(view, len(view))
    _refuse_foreign(view)
    if not view:
        raise GuestImageError("kernel: the file is empty")
    return KernelImage(view, _FLAT_OFFSET, len(view), None, KernelForm.FLAT)


def _has(view: memoryview, offset: int, magic: bytes) -> bool:
    return view[offset : offset + len(magic)] == magic


def _refuse_foreign(view: memoryview) -> None:
    for magic, what in _FOREIGN.items():
        if _has(view, 0, magic):
            raise GuestImageError(f"kernel: the file is {what}")
    if _has(view, _BZIMAGE_AT, _BZIMAGE_MAGIC):
        raise GuestImageError("kernel: the file is a kernel for x86; give one for arm64")
    if _has(view, 0, b"MZ"):
        raise GuestImageError(
            "kernel: the file is an EFI program, but neither an arm64 Image nor zboot; give one"
        )


def _plain(view: memoryview, file_bytes: int) -> KernelImage:
    if len(view) < IMAGE_HEADER.size:
        raise GuestImageError(
            f"kernel: the file ends at {len(view):#x}, in the header of its Image"
        )
    header = IMAGE_HEADER.unpack(view)
    flags = header["flags"]
    if flags & _BIG_ENDIAN:
        at = IMAGE_HEADER.offsets["flags"]
        raise GuestImageError(
            f"kernel offset {at:#x}: flags {flags:#x}: it is big-endian; give a little-endian one"
        )
    image_size = header["image_size"]
    text_offset = header["text_offset"] if image_size else _OLD_TEXT_OFFSET
    return KernelImage(
        view,
        text_offset,
        # Signatures behind the Image are in no size.
        max(image_size, file_bytes),
        _PAGE_SIZES[flags >> _PAGE_SIZE_SHIFT & 3],
        KernelForm.IMAGE,
    )


def _zboot(view: memoryview, most_bytes: int) -> KernelImage:
    if len(view) < ZBOOT_HEADER.size:
        raise GuestImageError(f"kernel: the file ends at {len(view):#x}, in its zboot header")
    header = ZBOOT_HEADER.unpack(view)
    start, size = header["payload_offset"], header["payload_size"]
    if start + size > len(view):
        raise GuestImageError(
            f"kernel offset {ZBOOT_HEADER.offsets['payload_offset']:#x}: its zboot payload, "
            f"{size:#x} bytes from {start:#x} on, does not end in the file's {len(view):#x}"
        )
    name = header["compression"].split(b"\0")[0].decode("ascii", "replace")
    unpack = _UNPACKERS.get(name)
    if unpack is None:
        raise GuestImageError(
            f"kernel offset {ZBOOT_HEADER.offsets['compression']:#x}: its zboot payload is packed "
            f"with {name!r}; there is {', '.join(sorted(_UNPACKERS))}"
        )
    unpacked = memoryview(unpack(view[start : start + size], most_bytes))
    if not _has(unpacked, IMAGE_HEADER.offsets["magic"], _IMAGE_MAGIC):
        raise GuestImageError("kernel: what its zboot payload holds is no arm64 Image")
    return _renamed(_plain(unpacked, len(unpacked)), KernelForm.ZBOOT)


def _renamed(image: KernelImage, form: KernelForm) -> KernelImage:
    return KernelImage(image.data, image.text_offset, image.size_bytes, image.page_size_bytes, form)
