"""Loads the native library and declares its functions; the C side is native/tagalong.h.

The library is plain C without any Python API. Arrays cross as (pointer, length); the callers
check every length in Python before they pass the pointer. A library of another version, or one
whose structs have other sizes, is rejected when it is loaded: a call with a wrong prototype
would corrupt memory.
"""

import ctypes
import platform
from functools import cache
from pathlib import Path

from tagalong.errors import NativeLibraryError

LIBRARY_FOLDER = Path(__file__).parent / "_lib"

# Raised together with TA_ABI_VERSION in native/tagalong.h whenever a prototype changes.
ABI_VERSION = 16

_u8p = ctypes.c_void_p
_pointer = ctypes.c_void_p
_u64 = ctypes.c_uint64
_u32 = ctypes.c_uint32
_size = ctypes.c_size_t


class InterpreterExit(ctypes.Structure):
    """`struct ta_exit`: why ta_machine_run or ta_vcpu_step returned."""

    _fields_ = (
        ("reason", _u32),
        ("vcpu", _u32),
        ("pc", _u64),
        ("insn", _u32),
        ("mmio_size", _u32),
        ("mmio_gpa", _u64),
        ("mmio_data", _u64),
        ("mmio_is_write", _u32),
        ("mmio_window", _u32),
        ("idle_ticks", _u64),
    )


class RoutineCall(ctypes.Structure):
    """`struct ta_call`: one routine to run, and its result. arm64 only."""

    _fields_ = (
        ("routine", _u64),
        ("arguments", _u64 * 6),
        ("flags", _u32),
        ("system_calls", _u32),
        ("value", _u64),
        ("signal", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("address", _u64),
        ("pc", _u64),
        ("sp", _u64),
        ("pstate", _u64),
    )


class OpenSsl(ctypes.Structure):
    """`struct ta_openssl`: addresses of functions of OpenSSL."""

    _fields_ = (
        ("ssl_read", ctypes.c_void_p),
        ("ssl_peek", ctypes.c_void_p),
        ("ssl_write", ctypes.c_void_p),
        ("ssl_key_update", ctypes.c_void_p),
        ("ssl_get_error", ctypes.c_void_p),
        ("ssl_set0_wbio", ctypes.c_void_p),
        ("bio_meth_new", ctypes.c_void_p),
        ("bio_meth_set_write", ctypes.c_void_p),
        ("bio_meth_set_ctrl", ctypes.c_void_p),
        ("bio_new", ctypes.c_void_p),
        ("bio_set_data", ctypes.c_void_p),
        ("bio_get_data", ctypes.c_void_p),
        ("bio_set_init", ctypes.c_void_p),
        ("err_peek_last_error", ctypes.c_void_p),
        ("err_clear_error", ctypes.c_void_p),
    )


class TlsStream(ctypes.Structure):
    """`struct ta_tls`: a TLS connection of OpenSSL, and its progress."""

    _fields_ = (
        ("openssl", ctypes.POINTER(OpenSsl)),
        ("ssl", ctypes.c_void_p),
        ("outgoing", ctypes.c_void_p),
        ("outgoing_bytes", _u64),
        ("records_per_key", _u64),
        ("fd", ctypes.c_int32),
        ("is_over", ctypes.c_int32),
        ("end", ctypes.c_int32),
        ("reason", _u64),
        ("accepted", _u64),
        ("reported", _u64),
        ("encrypted", _u64),
        ("sent", _u64),
        ("records", _u64),
    )


class PageCursor(ctypes.Structure):
    """`struct ta_page_cursor`: a position in the segments of a page stream."""

    _fields_ = (("segment", _u64), ("offset", _u64), ("total", _u64))


class DigestState(ctypes.Structure):
    """`struct ta_digest`: an XXH3-128 under way."""

    _fields_ = (
        ("sums", _u64 * 8),
        ("total", _u64),
        ("stripes", _u32),
        ("rest_bytes", _u32),
        ("rest", ctypes.c_uint8 * 64),
        ("before", ctypes.c_uint8 * 64),
    )


class DigestStretch(ctypes.Structure):
    """`struct ta_digest_stretch`: memory that a digest is taken of."""

    _fields_ = (
        ("address", _u64),
        ("bytes", _u64),
        ("block_bytes", _u64),
        ("data_per_tag_byte", _u64),
        ("data", ctypes.c_void_p),
        ("tags", ctypes.c_void_p),
    )


class PageStream(ctypes.Structure):
    """`struct ta_page_stream`: the data of a batch in transit, and its progress."""

    _fields_ = (
        ("fd", ctypes.c_int32),
        ("page_bytes", _u32),
        ("tls", ctypes.c_void_p),
        ("segments", ctypes.c_void_p),
        ("segment_count", _u64),
        ("total_bytes", _u64),
        ("digests", ctypes.c_void_p),
        ("stage", ctypes.c_void_p),
        ("stage_bytes", _u64),
        ("follows_packets", _u32),
        ("reserved", _u32),
        ("staged_sent", _u64),
        ("moved", PageCursor),
        ("hashed", PageCursor),
    )


class RamRange(ctypes.Structure):
    """`struct ta_ram_range`: a range of guest RAM and where this process has it."""

    _fields_ = (("gpa", _u64), ("bytes", _u64), ("address", _u64))


class Buffer(ctypes.Structure):
    """`struct ta_buffer`: a piece of guest RAM, with the layout of struct iovec."""

    _fields_ = (("address", _u64), ("bytes", _u64))


class VirtqChain(ctypes.Structure):
    """`struct ta_chain`: a request that a driver made."""

    _fields_ = (
        ("head", _u32),
        ("first", _u32),
        ("readable", _u32),
        ("writable", _u32),
        ("readable_bytes", _u64),
        ("writable_bytes", _u64),
    )


class Virtq(ctypes.Structure):
    """`struct ta_virtq`: a queue as its driver set it up, and how far its device is."""

    _fields_ = (
        ("desc", _u64),
        ("avail", _u64),
        ("used", _u64),
        ("ram", _u64),
        ("ram_count", _u32),
        ("size", _u32),
        ("has_event_idx", _u32),
        ("has_indirect", _u32),
        ("next_avail", ctypes.c_uint16),
        ("next_used", ctypes.c_uint16),
        ("signalled_used", ctypes.c_uint16),
        ("has_signalled", ctypes.c_uint16),
        ("is_quiet", _u32),
        ("left", _u32),
        ("rule", _u32),
        ("head", _u32),
        ("found", _u64),
        ("limit", _u64),
    )


class KvmExit(ctypes.Structure):
    """`struct ta_kvm_exit`: why ta_kvm_run returned."""

    _fields_ = (
        ("reason", _u32),
        ("bytes", _u32),
        ("is_write", _u32),
        ("answered", _u32),
        ("gpa", _u64),
        ("data", _u64),
    )


class PublishedRegister(ctypes.Structure):
    """`struct ta_register`: a register that a read does not change, as it is now."""

    _fields_ = (("gpa", _u64), ("value", _u64))


class KvmAnswers(ctypes.Structure):
    """`struct ta_kvm_answers`: what ta_kvm_run answers by itself."""

    _fields_ = (
        ("interrupts", _u64),
        ("interrupt_count", _u64),
        ("registers", _u64),
        ("register_count", _u64),
    )


# name -> (result type, argument types)
_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    # abi.c
    "ta_abi_version": (_u32, ()),
    "ta_struct_bytes": (_size, (ctypes.c_char_p,)),
    # tags.c
    "ta_tags_pack": (None, (_u8p, _u8p, _size)),
    "ta_tags_unpack": (None, (_u8p, _u8p, _size)),
    "ta_tags_runs": (_size, (_u8p, _size, ctypes.c_void_p, _size)),
    "ta_tags_count": (_u64, (_u8p, _size)),
    "ta_pages_zero": (None, (_u8p, _size, _size, _u8p)),
    # tag_runs.c
    "ta_tag_runs_encode": (ctypes.c_int64, (_u8p, _size, _u8p, _size)),
    "ta_tag_runs_decode": (ctypes.c_int, (_u8p, _size, _u8p, _size, ctypes.POINTER(_u64))),
    # xxh3.c
    "ta_hash_pages": (None, (_u8p, _size, _size, ctypes.c_void_p)),
    "ta_hash_pages_as": (ctypes.c_int, (ctypes.c_uint32, _u8p, _size, _size, ctypes.c_void_p)),
    "ta_digest_begin": (None, (ctypes.POINTER(DigestState), ctypes.c_char_p, _size)),
    "ta_digest_add": (None, (ctypes.POINTER(DigestState), ctypes.POINTER(DigestStretch))),
    "ta_digest_add_as": (
        ctypes.c_int,
        (_u32, ctypes.POINTER(DigestState), ctypes.POINTER(DigestStretch)),
    ),
    "ta_digest_end": (None, (ctypes.POINTER(DigestState), _u8p)),
    # counter.c
    "ta_counter_hz": (_u64, ()),
    # tls.c
    "ta_tls_begin": (ctypes.c_int, (ctypes.POINTER(TlsStream),)),
    "ta_tls_is_readable": (ctypes.c_int, (ctypes.POINTER(TlsStream),)),
    "ta_tls_send": (ctypes.c_int64, (ctypes.POINTER(TlsStream), ctypes.c_void_p, _size)),
    "ta_tls_receive": (ctypes.c_int64, (ctypes.POINTER(TlsStream), _u8p, _size)),
    # page_stream.c
    "ta_send_pages": (ctypes.c_int, (ctypes.POINTER(PageStream), _u32)),
    "ta_receive_pages": (ctypes.c_int, (ctypes.POINTER(PageStream), _u32)),
    # cpus.c
    "ta_follow_packets": (None, (ctypes.c_int,)),
    "ta_start_apart": (None, (_u32,)),
    # planes.c
    "ta_read_pages": (ctypes.c_int, (ctypes.c_int, _u64, ctypes.c_void_p, _size, _u8p)),
    "ta_copy_and_hash": (None, (_u8p, _u8p, _size, _size, ctypes.c_void_p)),
    "ta_ioctl_each": (_size, (ctypes.c_int, _u64, _u8p, _size, _size, ctypes.c_void_p)),
    "ta_write_ranges": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_void_p, _size, _u8p, ctypes.POINTER(_u64)),
    ),
    "ta_file_extents": (ctypes.c_int64, (ctypes.c_int, _u64, ctypes.c_void_p, _size)),
    # virtio/
    "ta_virtq_take": (ctypes.c_int, (_pointer, _pointer, _u32, _pointer, _size)),
    "ta_virtq_await": (ctypes.c_int, (_pointer,)),
    "ta_virtq_give": (ctypes.c_int, (_pointer, _pointer, _pointer, _u32)),
    "ta_buffers_part": (_size, (_pointer, _size, _u64, _u64, _pointer)),
    "ta_buffers_read": (None, (_pointer, _size, _u64, _u64, _pointer)),
    "ta_buffers_write": (None, (_pointer, _size, ctypes.c_char_p, _u64)),
    "ta_buffers_transfer": (ctypes.c_int, (ctypes.c_int, _pointer, _size, _u64, _u32)),
    "ta_buffers_mark": (None, (_pointer, _size, _u64, _u64, _u64, _pointer)),
    "ta_frames_whole": (_size, (_pointer, _size, ctypes.POINTER(ctypes.c_int64))),
    "ta_frames_gather": (
        ctypes.c_int64,
        (_pointer, _size, _pointer, _pointer, _size, ctypes.POINTER(_size)),
    ),
    "ta_frames_scatter": (
        ctypes.c_int64,
        (_pointer, _size, _pointer, _size, _pointer, _u32, _pointer, ctypes.POINTER(_size)),
    ),
    "ta_frames_read_tap": (
        ctypes.c_int,
        (ctypes.c_int, _pointer, _size, ctypes.POINTER(_size)),
    ),
    "ta_frames_write_tap": (
        ctypes.c_int,
        (ctypes.c_int, _pointer, _size, ctypes.POINTER(_size)),
    ),
    # kvm/
    "ta_interrupts_new": (_pointer, ()),
    "ta_interrupts_free": (None, (_pointer,)),
    "ta_interrupts_connect": (ctypes.c_int, (_pointer, ctypes.c_int, _u32, _u64)),
    "ta_interrupts_get": (_u32, (_pointer,)),
    "ta_interrupts_change": (ctypes.c_int, (_pointer, _u32, _u32)),
    "ta_kvm_run": (
        ctypes.c_int,
        (ctypes.c_int, _pointer, ctypes.POINTER(KvmAnswers), ctypes.POINTER(KvmExit)),
    ),
    # cpu/
    "ta_machine_new": (ctypes.c_void_p, (_u32, _u64)),
    "ta_machine_free": (None, (ctypes.c_void_p,)),
    "ta_machine_add_ram": (ctypes.c_int, (ctypes.c_void_p, _u64, _u64, _u8p, _u8p)),
    "ta_machine_add_mmio": (ctypes.c_int, (ctypes.c_void_p, _u64, _u64)),
    "ta_machine_share_tags": (None, (ctypes.c_void_p, _u32)),
    "ta_machine_run_plainly": (None, (ctypes.c_void_p, _u32)),
    "ta_machine_set_dirty_log": (ctypes.c_int, (ctypes.c_void_p, _u32, ctypes.c_void_p)),
    "ta_machine_run": (None, (ctypes.c_void_p, _u64, ctypes.POINTER(InterpreterExit))),
    "ta_machine_interrupt": (None, (ctypes.c_void_p,)),
    "ta_machine_complete_mmio": (
        ctypes.c_int,
        (ctypes.c_void_p, _u32, _u64, ctypes.POINTER(InterpreterExit)),
    ),
    "ta_vcpu_abort_mmio": (None, (ctypes.c_void_p, _u32)),
    "ta_vcpu_step": (None, (ctypes.c_void_p, _u32, _u64, ctypes.POINTER(InterpreterExit))),
    "ta_vcpu_set_power": (None, (ctypes.c_void_p, _u32, _u32)),
    "ta_vcpu_set_interrupt": (ctypes.c_int, (ctypes.c_void_p, _u32, _u32, _u32)),
    "ta_vcpu_wait": (None, (ctypes.c_void_p, _u32)),
    "ta_machine_follow_host_clock": (None, (ctypes.c_void_p, _u32)),
    "ta_machine_counter": (_u64, (ctypes.c_void_p,)),
    "ta_machine_advance": (None, (ctypes.c_void_p, _u64)),
    "ta_machine_set_alarm": (None, (ctypes.c_void_p, _u64)),
    "ta_machine_add_gic": (ctypes.c_int, (ctypes.c_void_p, _u64, _u64, _u32)),
    "ta_gic_set_line": (ctypes.c_int, (ctypes.c_void_p, _u32, _u32)),
    "ta_gic_get": (ctypes.c_int, (ctypes.c_void_p, _u32, _u32, _u32, ctypes.POINTER(_u64))),
    "ta_gic_set": (ctypes.c_int, (ctypes.c_void_p, _u32, _u32, _u32, _u64)),
    "ta_gic_reset": (None, (ctypes.c_void_p,)),
    "ta_gic_reset_interface": (ctypes.c_int, (ctypes.c_void_p, _u32)),
    "ta_vcpu_get": (ctypes.c_int, (ctypes.c_void_p, _u32, _u64, ctypes.c_void_p, _size)),
    "ta_vcpu_set": (ctypes.c_int, (ctypes.c_void_p, _u32, _u64, ctypes.c_char_p, _size)),
    "ta_vcpu_get_each": (None, (ctypes.c_void_p, _u32, _pointer, _size, _pointer, _pointer)),
    "ta_vcpu_set_each": (None, (ctypes.c_void_p, _u32, _pointer, _size, _pointer, _pointer)),
    "ta_vcpu_register_ids": (_size, (ctypes.POINTER(_u64), _size)),
    "ta_vcpu_instructions": (_u64, (ctypes.c_void_p, _u32)),
    "ta_vcpu_snapshot_bytes": (_size, ()),
    "ta_vcpu_save_snapshot": (ctypes.c_int, (ctypes.c_void_p, _u32, _u8p)),
    "ta_vcpu_load_snapshot": (ctypes.c_int, (ctypes.c_void_p, _u32, _u8p)),
}

# What native/arm64 adds on arm64 hosts.
_ARM64_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "ta_routines": (ctypes.c_void_p, ()),
    "ta_routines_bytes": (_u64, ()),
    "ta_call_guarded": (ctypes.c_int, (ctypes.POINTER(RoutineCall),)),
}

IS_ARM64 = platform.machine() == "aarch64"

# The C struct that each class declares; the sizes have to agree.
_STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "ta_exit": InterpreterExit,
    "ta_openssl": OpenSsl,
    "ta_tls": TlsStream,
    "ta_page_cursor": PageCursor,
    "ta_page_stream": PageStream,
    "ta_ram_range": RamRange,
    "ta_buffer": Buffer,
    "ta_chain": VirtqChain,
    "ta_virtq": Virtq,
    "ta_kvm_exit": KvmExit,
    "ta_register": PublishedRegister,
    "ta_kvm_answers": KvmAnswers,
    "ta_digest": DigestState,
    "ta_digest_stretch": DigestStretch,
} | ({"ta_call": RoutineCall} if IS_ARM64 else {})


@cache
def library() -> ctypes.CDLL:
    """Return the loaded library. Raises NativeLibraryError if it is missing or does not fit."""
    return load(LIBRARY_FOLDER / "libtagalong.so")


def load(path: Path) -> ctypes.CDLL:
    """Load a library and declare its functions. Raises NativeLibraryError as library() does."""
    try:
        loaded = ctypes.CDLL(str(path))
        _declare(loaded, {name: _PROTOTYPES[name] for name in ("ta_abi_version",)})
        if objection := _version_objection(loaded):
            raise NativeLibraryError(f"cannot use {path}: {objection}; {_REBUILD}")
        _declare(loaded, _PROTOTYPES | (_ARM64_PROTOTYPES if IS_ARM64 else {}))
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"cannot load {path}: {error}; {_REBUILD}") from error
    if objections := _size_objections(loaded):
        raise NativeLibraryError(f"cannot use {path}: {objections}; {_REBUILD}")
    return loaded


_REBUILD = "build it with `pip install -e .` in the source folder"


def _declare(loaded: ctypes.CDLL, prototypes: dict[str, tuple[object, tuple[object, ...]]]) -> None:
    for name, (result, arguments) in prototypes.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = arguments


def _version_objection(loaded: ctypes.CDLL) -> str:
    """Return why the library is another version's, "" if it is not; asked before all else."""
    found = loaded.ta_abi_version()
    return "" if found == ABI_VERSION else f"its ABI version is {found}, not {ABI_VERSION}"


def _size_objections(loaded: ctypes.CDLL) -> str:
    sizes = {
        name: (loaded.ta_struct_bytes(name.encode()), ctypes.sizeof(structure))
        for name, structure in _STRUCTURES.items()
    }
    return ", ".join(
        f"struct {name} has {there} bytes there and {here} here"
        for name, (there, here) in sizes.items()
        if there != here
    )
