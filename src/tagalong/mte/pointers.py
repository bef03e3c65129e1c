"""What the tag instructions compute: logical tags, and IRG, ADDG, SUBG, GMI, SUBP(S).

Pointers are ints, 0 to 2**64 - 1; tags are ints, 0 to 15. All functions are pure: IRG
takes the register that it would change and returns the new one. They compute as with
tag access enabled (SCTLR_EL1.ATA or ATA0); without it the instructions that choose a tag
(IRG, ADDG, SUBG) give tag 0, which is `with_logical_tag(result, 0)`.

Every function raises UsageError for an argument outside its range.

Source: Arm ARM (DDI 0487), C6.2 for the instructions, J1 for the shared functions that the
docstrings name.
"""

from dataclasses import dataclass, replace

from tagalong.errors import UsageError
from tagalong.mte import GRANULE_BYTES, TAG_BITS, TAG_MASK
from tagalong.mte.registers import REGISTER_BITS, Rgsr

LOGICAL_TAG_SHIFT = 56
SELECT_BIT = 55
"""Chooses between the lower and the upper half of the address space."""

_POINTER_MASK = (1 << REGISTER_BITS) - 1
_TAG_FIELD = TAG_MASK << LOGICAL_TAG_SHIFT
_ADDRESS_MASK = (1 << LOGICAL_TAG_SHIFT) - 1
_TOP_BYTE = _POINTER_MASK & ~_ADDRESS_MASK
_EXCLUDE_ALL = 0xFFFF
_SEED_BITS = 16
_LARGEST_OFFSET_BYTES = 63 * GRANULE_BYTES


@dataclass(frozen=True)
class ConditionFlags:
    """PSTATE.NZCV as SUBPS leaves it; carry set means that there was no borrow."""

    negative: bool
    zero: bool
    carry: bool
    overflow: bool

    @classmethod
    def from_bits(cls, nzcv: int) -> "ConditionFlags":
        """Return the flags of the 4-bit value N:Z:C:V. Raises UsageError for more bits.

        >>> ConditionFlags.from_bits(0b0110).zero
        True
        """
        _require("NZCV", nzcv, 0xF)
        return cls(bool(nzcv & 8), bool(nzcv & 4), bool(nzcv & 2), bool(nzcv & 1))

    def to_bits(self) -> int:
        """Return the 4-bit value N:Z:C:V: the inverse of from_bits.

        >>> bin(ConditionFlags(negative=False, zero=True, carry=True, overflow=False).to_bits())
        '0b110'
        """
        return self.negative << 3 | self.zero << 2 | self.carry << 1 | self.overflow


def logical_tag(pointer: int) -> int:
    """Return the logical tag, bits 59:56 of `pointer`.

    >>> logical_tag(0x0A00_0000_4000_0000)
    10
    """
    _require_pointer(pointer)
    return pointer >> LOGICAL_TAG_SHIFT & TAG_MASK


def with_logical_tag(pointer: int, tag: int) -> int:
    """Return `pointer` with `tag` in bits 59:56 and all other bits as they were.

    >>> hex(with_logical_tag(0xF0FF_0000_4000_0000, 0x3))
    '0xf3ff000040000000'
    """
    _require_pointer(pointer)
    _require("tag", tag, TAG_MASK)
    return pointer & ~_TAG_FIELD | tag << LOGICAL_TAG_SHIFT


def address_of(pointer: int) -> int:
    """Return the address without its top byte: bit 55 repeated in bits 63:56.

    >>> hex(address_of(0x0AFF_0000_4000_0000))
    '0xffff000040000000'
    """
    _require_pointer(pointer)
    address = pointer & _ADDRESS_MASK
    return address | _TOP_BYTE if pointer >> SELECT_BIT & 1 else address


def same_address(left: int, right: int) -> bool:
    """Return whether two pointers address the same byte, whatever their top bytes hold.

    >>> same_address(0x0A00_0000_4000_0000, 0x4000_0000)
    True
    """
    return address_of(left) == address_of(right)


def choose_nonexcluded_tag(tag: int, offset: int, exclude: int) -> int:
    """Return the tag that lies `offset` not excluded tags after `tag`.

    `exclude`: bit t set means that t is not chosen; with all 16 set the result is 0. With
    `offset` 0 it is `tag` itself or the next one not excluded. This is
    AArch64.ChooseNonExcludedTag.

    >>> choose_nonexcluded_tag(15, 1, 0b11)
    2
    """
    _require("tag", tag, TAG_MASK)
    _require("tag offset", offset, TAG_MASK)
    _require("exclude mask", exclude, _EXCLUDE_ALL)
    if exclude == _EXCLUDE_ALL:
        return 0
    for _ in range(offset):
        tag = _first_allowed(tag + 1 & TAG_MASK, exclude)
    return _first_allowed(tag, exclude)


def _first_allowed(tag: int, exclude: int) -> int:
    while exclude >> tag & 1:
        tag = tag + 1 & TAG_MASK
    return tag


def addg(pointer: int, offset_bytes: int, tag_offset: int, exclude: int) -> int:
    """Return what ADDG gives: `pointer` + `offset_bytes`, its tag moved on by `tag_offset`.

    `offset_bytes`: 0 to 1008, a multiple of 16. `exclude`: GCR_EL1.Exclude.

    >>> hex(addg(0x0F00_0000_4000_0000, 16, 1, exclude=0b1))
    '0x100000040000010'
    """
    _require_offset(offset_bytes)
    tag = choose_nonexcluded_tag(logical_tag(pointer), tag_offset, exclude)
    return with_logical_tag(pointer + offset_bytes & _POINTER_MASK, tag)


def subg(pointer: int, offset_bytes: int, tag_offset: int, exclude: int) -> int:
    """Return what SUBG gives: as ADDG, but the address goes down. The tag still goes up.

    >>> hex(subg(0x0300_0000_4000_0010, 16, 2, exclude=0))
    '0x500000040000000'
    """
    _require_offset(offset_bytes)
    tag = choose_nonexcluded_tag(logical_tag(pointer), tag_offset, exclude)
    return with_logical_tag(pointer - offset_bytes & _POINTER_MASK, tag)


def gmi(pointer: int, mask: int) -> int:
    """Return what GMI gives: the 64-bit `mask` with the bit of the pointer's tag set.

    >>> hex(gmi(0x0A00_0000_4000_0000, 0x1))
    '0x401'
    """
    _require("mask", mask, _POINTER_MASK)
    return mask | 1 << logical_tag(pointer)


def subp(left: int, right: int) -> int:
    """Return what SUBP gives: the difference of the addresses, modulo 2**64.

    >>> subp(0x0A00_0000_4000_0010, 0x0300_0000_4000_0000)
    16
    """
    return address_of(left) - address_of(right) & _POINTER_MASK


def subps(left: int, right: int) -> tuple[int, ConditionFlags]:
    """Return what SUBPS gives: the difference as SUBP, and the flags. CMPP is its alias.

    >>> subps(0x0A00_0000_4000_0000, 0x4000_0000)[1].zero
    True
    """
    difference = subp(left, right)
    return difference, ConditionFlags(
        negative=bool(difference >> (REGISTER_BITS - 1)),
        zero=difference == 0,
        carry=address_of(left) >= address_of(right),
        overflow=False,  # two signed 56-bit numbers: their difference has 57 bits
    )


def random_tag(rgsr: Rgsr) -> tuple[int, Rgsr]:
    """Return four bits of RGSR_EL1's LFSR and the register after them.

    A seed of 0 gives 0 for ever. This is AArch64.RandomTag.

    >>> random_tag(Rgsr(seed=0x0001))
    (1, Rgsr(other_bits=0, tag=0, seed=4096))
    """
    tag, seed = 0, rgsr.seed
    for place in range(TAG_BITS):
        top = (seed >> 5 ^ seed >> 3 ^ seed >> 2 ^ seed) & 1
        seed = top << (_SEED_BITS - 1) | seed >> 1
        tag |= top << place
    return tag, replace(rgsr, seed=seed)


def irg(pointer: int, exclude: int, rgsr: Rgsr) -> tuple[int, Rgsr]:
    """Return what IRG gives with GCR_EL1.RRND clear: the re-tagged pointer and RGSR_EL1.

    `exclude`: bits 15:0 of the instruction's Xm, or-ed with GCR_EL1.Exclude. With all 16
    set the tag is 0; the LFSR moves on even then. (With RRND set the architecture leaves
    the choice open; the embedded machine and QEMU choose as here.)

    >>> pointer, rgsr = irg(0x4000_0000, 0b1, Rgsr(tag=0, seed=0x0001))
    >>> hex(pointer), rgsr.tag
    ('0x100000040000000', 1)
    """
    offset, moved = random_tag(rgsr)
    tag = choose_nonexcluded_tag(rgsr.tag, offset, exclude)
    return with_logical_tag(pointer, tag), replace(moved, tag=tag)


def _require(what: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise UsageError(f"{what} {value:#x} is not in 0x0 to {largest:#x}")


def _require_pointer(pointer: int) -> None:
    _require("pointer", pointer, _POINTER_MASK)


def _require_offset(offset_bytes: int) -> None:
    _require("offset", offset_bytes, _LARGEST_OFFSET_BYTES)
    if offset_bytes % GRANULE_BYTES:
        raise UsageError(f"offset {offset_bytes:#x} is not a multiple of {GRANULE_BYTES:#x}")
