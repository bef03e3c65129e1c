"""What the preloaded library and the process beside it say to each other, as bytes.

docs/formats/beside-link.md is normative. Requests and replies alternate; integers are
little-endian. Pure: no socket here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.layout import Layout, MalformedError
from tagalong.machine import RegisterId
from tagalong.machine.register_ids import register_bytes
from tagalong.memory import PageBitmap
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES

VERSION: Final = 3
MAX_SLOTS: Final = 512
MAX_CHOSEN_BYTES: Final = 64 << 20
"""Guest RAM that one request for tags or data may choose."""

MAX_RANGE_PAGES: Final = 1 << 24
"""Pages from the first to the last of these."""

MAX_HARVEST_TAG_BYTES: Final = 1 << 20
"""Packed tags that the reply to a harvest may have."""

# A slot's bitmap is the largest reply: one bit per page.
MAX_REPLY_BYTES: Final = 1 << 30

REQUEST: Final = Layout(
    ("operation", "u16"), ("reserved", "u16"), ("payload_bytes", "u32"), ("slot", "u32"),
    ("argument", "u32"), ("first_page", "u64"), ("page_count", "u64"),
)  # fmt: skip
REPLY: Final = Layout(("status", "u32"), ("payload_bytes", "u32"))
STATE: Final = Layout(
    ("version", "u32"), ("flags", "u32"), ("page_bytes", "u32"), ("slot_count", "u32"),
    ("vcpu_count", "u32"), ("vcpus_running", "u32"), ("runs", "u64"), ("generation", "u64"),
)  # fmt: skip
SLOT: Final = Layout(("slot", "u32"), ("flags", "u32"), ("gpa", "u64"), ("size_bytes", "u64"))
REGISTERS: Final = Layout(("mp_state", "u32"), ("count", "u32"))
REGISTER: Final = Layout(
    ("id", "u64"),
)

MAX_REGISTERS: Final = 4096
MAX_REGISTER_BYTES: Final = 256
"""As long as the longest of SVE."""


class LinkOperation(IntEnum):
    """What a request asks for."""

    STATE = 1
    SLOTS = 2
    START_LOG = 3
    STOP_LOG = 4
    HARVEST = 5
    POPULATED = 6
    READ_TAGS = 7
    WRITE_TAGS = 8
    HOLD = 9
    READ_DATA = 10
    READ_REGISTERS = 11


class Harvest(IntEnum):
    """Which pages a harvest takes: see docs/design/beside.md."""

    LIVE = 0
    FINAL = 1
    PROTECTING = 2


class VmFlag(IntFlag):
    """What is known of the VM."""

    HAS_VM = 1
    HAS_MTE = 2
    MANUAL_PROTECT = 4
    DIRTY_RING = 8
    HELD = 16
    LOGGING = 32
    VMM_ASKED_FOR_MTE = 64
    TOO_MANY_SLOTS = 128
    ENDING = 256


class SlotFlag(IntFlag):
    """What is known of a memory slot."""

    READ_ONLY = 1
    LOGGED = 2
    SHARED = 4


@dataclass(frozen=True)
class LinkState:
    """The VM as the library sees it; `runs` counts how often a vCPU has entered the guest."""

    flags: VmFlag
    page_bytes: int
    slot_count: int
    vcpu_count: int
    vcpus_running: int
    runs: int
    generation: int


@dataclass(frozen=True)
class MemorySlot:
    """One memory slot, in bytes."""

    number: int
    flags: SlotFlag
    gpa: int
    size_bytes: int


@dataclass(frozen=True)
class Harvested:
    """What a harvest took: `state` as after it, a row of packed `tags` per page.

    `tags` is None if they were too many for one reply.
    """

    state: LinkState
    pages: PageBitmap
    tags: NDArray[np.uint8] | None


def encode_request(
    operation: LinkOperation,
    *,
    slot: int = 0,
    argument: int = 0,
    first_page: int = 0,
    page_count: int = 0,
    payload_bytes: int = 0,
) -> bytes:
    """Return the head of a request."""
    return REQUEST.pack(
        operation=operation, payload_bytes=payload_bytes, slot=slot, argument=argument,
        first_page=first_page, page_count=page_count,
    )  # fmt: skip


def decode_reply(head: bytes) -> tuple[int, int]:
    """Return errno (0 for success) and the size of the payload. Raises MalformedError."""
    values = REPLY.unpack(head)
    error = (1 << 32) - values["status"] if values["status"] else 0
    if error > _MAX_ERRNO:
        raise MalformedError(f"status {values['status']:#x} is no errno")
    if values["payload_bytes"] > (0 if error else MAX_REPLY_BYTES):
        raise MalformedError(f"a payload of {values['payload_bytes']:#x} bytes")
    return error, values["payload_bytes"]


_MAX_ERRNO = 4095


def decode_state(payload: bytes) -> LinkState:
    """Return a state. Raises MalformedError for another version or a size that is not possible."""
    _require_size(payload, STATE.size, "a state")
    values = STATE.unpack(payload)
    version = values.pop("version")
    if version != VERSION:
        raise MalformedError(
            f"the library in the VMM's process speaks version {version} of this link, this "
            f"process {VERSION}: start the VMM with the library of this release"
        )
    if values["page_bytes"] not in PAGE_SIZES_BYTES or values["slot_count"] > MAX_SLOTS:
        raise MalformedError(f"a state that is not possible: {values}")
    return LinkState(**{**values, "flags": VmFlag(values["flags"])})


def decode_slots(payload: bytes, page_bytes: int) -> tuple[MemorySlot, ...]:
    """Return the slots in ascending order of gpa. Raises MalformedError."""
    if len(payload) % SLOT.size or len(payload) > MAX_SLOTS * SLOT.size:
        raise MalformedError(f"{len(payload):#x} bytes are no whole slots")
    slots = []
    for at in range(0, len(payload), SLOT.size):
        values = SLOT.unpack(payload, at)
        if values["gpa"] % page_bytes or values["size_bytes"] % page_bytes:
            raise MalformedError(f"a slot that is not of whole pages: {values}", offset=at)
        flags = SlotFlag(values["flags"])
        slots.append(MemorySlot(values["slot"], flags, values["gpa"], values["size_bytes"]))
    return tuple(sorted(slots, key=lambda slot: slot.gpa))


def decode_bitmap(payload: bytes, page_count: int) -> PageBitmap:
    """Return a bitmap of pages. Raises MalformedError for another size, or bits behind its end."""
    _require_size(payload, -(-page_count // 64) * 8, "a bitmap")
    words = np.frombuffer(payload, "<u8").astype(np.uint64)
    if page_count % 64 and int(words[-1]) >> page_count % 64:
        raise MalformedError("a bitmap has bits behind its last page")
    return PageBitmap(page_count, words)


@dataclass(frozen=True)
class VcpuRegisters:
    """All registers of a vCPU by KVM's ONE_REG ids, and KVM's word for whether it is on."""

    mp_state: int
    values: Mapping[RegisterId, int]


def decode_registers(payload: bytes) -> VcpuRegisters:
    """Return the registers of a vCPU. Raises MalformedError."""
    head, at = REGISTERS.unpack(payload), REGISTERS.size
    if head["count"] > MAX_REGISTERS:
        raise MalformedError(f"a vCPU of {head['count']:#x} registers")
    values = dict[RegisterId, int]()
    for _ in range(head["count"]):
        register = RegisterId(REGISTER.unpack(payload, at)["id"])
        at += REGISTER.size
        size = register_bytes(register)
        if size > MAX_REGISTER_BYTES or register in values:
            raise MalformedError(f"register {register:#x} of {size:#x} bytes, or twice", offset=at)
        if at + size > len(payload):
            raise MalformedError(f"register {register:#x} is cut short", offset=at)
        values[register] = int.from_bytes(payload[at : at + size], "little")
        at += size
    if at != len(payload):
        raise MalformedError(f"{len(payload) - at:#x} bytes behind the last register", offset=at)
    return VcpuRegisters(head["mp_state"], values)


def decode_harvest(payload: bytes, page_count: int, page_bytes: int) -> Harvested:
    """Return what a harvest took. Raises MalformedError for sizes that do not fit each other."""
    behind_state, behind_bitmap = STATE.size, STATE.size + -(-page_count // 64) * 8
    state = decode_state(payload[:behind_state])
    if state.page_bytes != page_bytes:
        raise MalformedError(f"pages of {state.page_bytes:#x} bytes, not {page_bytes:#x}")
    pages = decode_bitmap(payload[behind_state:behind_bitmap], page_count)
    size_bytes = tag_bytes(pages.count(), page_bytes)
    has_tags = size_bytes <= MAX_HARVEST_TAG_BYTES
    _require_size(payload, behind_bitmap + size_bytes * has_tags, "a harvest")
    if not has_tags:
        return Harvested(state, pages, None)
    tags = np.frombuffer(payload, np.uint8, offset=behind_bitmap)
    return Harvested(state, pages, tags.reshape(-1, page_bytes // PACKED_RATIO))


def encode_choice(first_page: int, pages: NDArray[np.int64], page_count: int) -> bytes:
    """Return the bitmap that chooses `pages`, numbers in a slot, of a range of it."""
    words: bytes = (
        PageBitmap.from_pages(page_count, pages - first_page).words.astype("<u8").tobytes()
    )
    return words


def tag_bytes(page_count: int, page_bytes: int) -> int:
    """Return the size of the packed tags of so many pages."""
    return page_count * page_bytes // PACKED_RATIO


def _require_size(payload: bytes, size_bytes: int, what: str) -> None:
    if len(payload) != size_bytes:
        raise MalformedError(f"{what} of {len(payload):#x} bytes, not {size_bytes:#x}")
