"""Kernel files: what they are is found by their content, and no lie of theirs costs anything."""

import io
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tagalong.boot.linux.image import (
    HEAD_BYTES,
    KernelForm,
    KernelImage,
    parse_kernel,
    plain_kernel,
)
from tagalong.errors import GuestImageError
from tests.support.kernel_files import gz, image, zboot, zstd

IMAGE = image(text_offset=0x80000, image_size=0x30000, body=bytes(range(256)) * 16)


def message_of(content: bytes, most_bytes: int = 1 << 20) -> str:
    with pytest.raises(GuestImageError) as caught:
        parse_kernel(content, most_bytes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (IMAGE, KernelForm.IMAGE),
        (gz(IMAGE), KernelForm.GZIP),
        (zstd(IMAGE), KernelForm.ZSTD),
        (zboot(gz(IMAGE), b"gzip"), KernelForm.ZBOOT),
        (zboot(zstd(IMAGE), b"zstd"), KernelForm.ZBOOT),
        # The size of what is in it, as the kernel's build appends it.
        (zboot(zstd(IMAGE) + len(IMAGE).to_bytes(4, "little"), b"zstd22"), KernelForm.ZBOOT),
        (gz(zboot(zstd(IMAGE), b"zstd22")), KernelForm.ZBOOT),
    ],
    ids=["plain", "gzip", "zstd", "zboot-gzip", "zboot-zstd", "zboot-zstd22", "gzip-zboot"],
)
def test_parse_kernel_every_form_gives_the_same_image(content: bytes, form: KernelForm) -> None:
    found = parse_kernel(content)

    assert (found.form, bytes(found.data)) == (form, IMAGE)
    assert (found.text_offset, found.size_bytes) == (0x80000, 0x30000)
    assert found.page_size_bytes == 4096


def test_parse_kernel_without_a_header_is_flat_and_goes_where_qemu_puts_it() -> None:
    found = parse_kernel(b"\x1f\x20\x03\xd5" * 10)

    assert (found.form, found.text_offset, found.size_bytes) == (KernelForm.FLAT, 0x80000, 40)
    assert found.page_size_bytes is None


def test_parse_kernel_of_before_3_17_has_its_fixed_offset() -> None:
    found = parse_kernel(image(text_offset=5, image_size=0, body=bytes(36)))

    assert (found.text_offset, found.size_bytes) == (0x80000, 100)


def test_parse_kernel_image_size_smaller_than_the_file_reserves_the_file() -> None:
    assert parse_kernel(image(image_size=1, body=bytes(36))).size_bytes == 100


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, None), (2, 4096), (4, 16384), (6, 65536), (14, 65536)]
)
def test_parse_kernel_page_size_is_in_the_flags(flags: int, expected: int | None) -> None:
    assert parse_kernel(image(flags=flags)).page_size_bytes == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "kernel: the file is empty"),
        (
            image(flags=1),
            "kernel offset 0x18: flags 0x1: it is big-endian; give a little-endian one",
        ),
        (image()[:60], "kernel: the file ends at 0x3c, in the header of its Image"),
        (b"MZ\0\0zimg" + bytes(8), "kernel: the file ends at 0x10, in its zboot header"),
        (
            b"\x7fELF" + bytes(99),
            "kernel: the file is an ELF file; --guest takes those that are programs, and --kernel "
            "an Image",
        ),
        (
            b"\xfd7zXZ\0" + bytes(99),
            "kernel: the file is packed with xz; give an Image, or one packed with gzip or zstd",
        ),
        (
            b"070701" + bytes(99),
            "kernel: the file is a cpio archive: an initial RAM disk is given with --initrd",
        ),
        (
            bytes(0x202) + b"HdrS" + bytes(99),
            "kernel: the file is a kernel for x86; give one for arm64",
        ),
        (
            b"MZ" + bytes(99),
            "kernel: the file is an EFI program, but neither an arm64 Image nor zboot; give one",
        ),
        (
            gz(b"hello"),
            "kernel: unpacked, its 0x5 bytes are no arm64 Image: it has no b'ARMd' at offset 0x38",
        ),
        (
            zboot(b"", b"lzma"),
            "kernel offset 0x18: its zboot payload is packed with 'lzma'; there is gzip, zstd, "
            "zstd22",
        ),
        (
            zboot(b"12345678", b"gzip", size=9),
            "kernel offset 0x8: its zboot payload, 0x9 bytes from 0x40 on, does not end in the "
            "file's 0x48",
        ),
        (
            zboot(gz(b"x" * 99), b"gzip"),
            "kernel: what its zboot payload holds is no arm64 Image",
        ),
        (
            gz(b"x" * 99)[:20],
            "kernel: its gzip data end early, after 0x14 bytes; the file was cut short",
        ),
    ],
)
def test_parse_kernel_of_another_file_says_what_it_is(content: bytes, message: str) -> None:
    assert message_of(content) == message


def test_parse_kernel_of_damaged_data_names_the_format() -> None:
    packed = bytearray(gz(IMAGE))
    packed[-5] ^= 1  # its checksum

    assert message_of(bytes(packed)).startswith("kernel: cannot unpack it with gzip: Error -3")
    packed = bytearray(zstd(IMAGE))
    packed[-1] ^= 1

    assert message_of(bytes(packed)).startswith(
        "kernel: cannot unpack it with zstd: zstd decompress"
    )


@pytest.mark.parametrize("pack", [gz, zstd])
def test_parse_kernel_packed_in_several_parts_is_refused(pack: Callable[[bytes], bytes]) -> None:
    parts = pack(IMAGE[:1000]) + pack(IMAGE[1000:])

    for content in (parts, zboot(parts, pack.__name__.replace("gz", "gzip").encode())):
        assert message_of(content).endswith("in several parts; unpack it, or pack it as one")


@pytest.mark.parametrize("pack", [gz, zstd])
def test_parse_kernel_bomb_is_refused_at_the_limit(pack: object) -> None:
    assert callable(pack)
    bomb = pack(bytes(8 << 20))

    assert message_of(bomb) == "kernel: unpacked, it has more than 0x100000 bytes"
    assert len(bomb) < 10_000


def test_parse_kernel_zstd_bomb_without_a_declared_size_is_refused_at_the_limit() -> None:
    out = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as writer:
        writer.write(bytes(8 << 20))

    assert message_of(out.getvalue()) == "kernel: unpacked, it has more than 0x100000 bytes"


@pytest.mark.parametrize("content", [gz(image()), zstd(image()), zboot(zstd(image()), b"zstd")])
def test_parse_kernel_cut_anywhere_is_refused_or_flat(content: bytes) -> None:
    for size in range(len(content)):
        try:
            found = parse_kernel(content[:size])
        except GuestImageError:
            continue
        # Less than a magic number is left: nothing says that it was anything else.
        assert (found.form, size < 8) == (KernelForm.FLAT, True)


@given(st.binary(max_size=200))
def test_parse_kernel_any_bytes_are_taken_or_refused(content: bytes) -> None:
    for prefix in (b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"MZ\0\0zimg", image()[:64]):
        try:
            found = parse_kernel(prefix + content, 1 << 20)
        except GuestImageError:
            continue
        assert found.size_bytes >= len(found.data)


@pytest.mark.parametrize("content", [gz(IMAGE), zstd(IMAGE), zboot(zstd(IMAGE), b"zstd")])
def test_parse_kernel_with_flipped_bits_never_fails_otherwise(content: bytes) -> None:
    choose = random.Random(1)
    for _ in range(300):
        broken = bytearray(content)
        broken[choose.randrange(len(broken))] ^= 1 << choose.randrange(8)
        with suppress(GuestImageError):
            parse_kernel(bytes(broken), 1 << 20)


@given(st.binary(max_size=200), st.integers(0, 1 << 16))
def test_plain_kernel_says_by_the_head_what_parse_kernel_says_of_all(
    content: bytes, more: int
) -> None:
    for prefix in (b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"MZ\0\0zimg", IMAGE[:60], IMAGE[:64]):
        whole = prefix + content + bytes(more)
        found, refused = _outcome(plain_kernel, whole[:HEAD_BYTES], len(whole))
        if found is None and refused is None:
            continue
        parsed, reason = _outcome(parse_kernel, whole, 1 << 20)
        assert reason == refused
        if parsed is not None and found is not None:
            assert bytes(parsed.data) == whole
            assert replace(parsed, data=found.data) == found


def _outcome(
    parse: Callable[[bytes, int], KernelImage | None], content: bytes, size_bytes: int
) -> tuple[KernelImage | None, str | None]:
    """Return what `parse` returns, and the text of what it raises."""
    try:
        return parse(content, size_bytes), None
    except GuestImageError as error:
        return None, str(error)


@pytest.mark.parametrize("content", [b"flat", gz(IMAGE), zstd(IMAGE), zboot(zstd(IMAGE), b"zstd")])
def test_plain_kernel_leaves_what_is_no_plain_image_to_parse_kernel(content: bytes) -> None:
    assert plain_kernel(content[:HEAD_BYTES], len(content)) is None
