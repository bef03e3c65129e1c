"""The registers that control tag checking, as frozen values with named fields.

Each class is one register of the Arm ARM (DDI 0487, D24 "AArch64 System registers") and
names the fields that this package acts on. **All other bits are preserved**: from_bits
keeps them in `other_bits` and to_bits puts them back, so `to_bits(from_bits(x)) == x` for
every 64-bit x and a register of a newer architecture passes through unharmed. Refused
with UsageError are values that do not fit: a negative one, more than 64 bits, a field
larger than its width, or `other_bits` that overlap a named field.
"""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import Any, Self

from tagalong.errors import UsageError
from tagalong.mte.version import MteVersion

REGISTER_BITS = 64


class TagCheckMode(Enum):
    """What a failed tag check does: the values of SCTLR_EL1.TCF and TCF0."""

    NONE = 0
    """Nothing."""
    SYNC = 1
    """A synchronous exception at the access."""
    ASYNC = 2
    """A bit in TFSR_EL1 or TFSRE0_EL1, to be looked at later."""
    ASYMMETRIC = 3
    """Reads as SYNC, writes as ASYNC."""


def _bits(high: int, low: int, kind: Callable[[int], object] = int) -> Any:
    """Declare a register field in bits high:low, as the Arm ARM writes it."""
    mask = (1 << (high - low + 1)) - 1
    return field(default=kind(0), metadata={"low": low, "mask": mask, "kind": kind})


def _bit(number: int) -> Any:
    return _bits(number, number, bool)


@dataclass(frozen=True)
class Register:
    """A 64-bit register value: named fields, and `other_bits` for all bits without a name."""

    other_bits: int = field(default=0, kw_only=True)

    @classmethod
    def from_bits(cls, bits: int) -> Self:
        """Return the register whose 64-bit value is `bits`. Raises UsageError if it is not one.

        >>> Rgsr.from_bits(0x1205)
        Rgsr(other_bits=0, tag=5, seed=18)
        """
        _require_fits(f"{cls.__name__} value", bits, (1 << REGISTER_BITS) - 1)
        values: dict[str, Any] = {
            f.name: f.metadata["kind"](bits >> f.metadata["low"] & f.metadata["mask"])
            for f in _named_fields(cls)
        }
        return cls(other_bits=bits & ~_named_mask(cls), **values)

    def to_bits(self) -> int:
        """Return the register's 64-bit value: the inverse of from_bits.

        >>> hex(Rgsr(tag=5, seed=0x12).to_bits())
        '0x1205'
        """
        bits = self.other_bits
        for f in _named_fields(type(self)):
            bits |= _as_int(getattr(self, f.name)) << f.metadata["low"]
        return bits

    def __post_init__(self) -> None:
        name = type(self).__name__
        for f in _named_fields(type(self)):
            _require_fits(f"{name}.{f.name}", _as_int(getattr(self, f.name)), f.metadata["mask"])
        _require_fits(f"{name}.other_bits", self.other_bits, (1 << REGISTER_BITS) - 1)
        overlap = self.other_bits & _named_mask(type(self))
        if overlap:
            raise UsageError(f"{name}.other_bits holds bits of named fields: {overlap:#x}")


def _named_fields(register: type[Register]) -> list[Field[Any]]:
    return [f for f in fields(register) if f.name != "other_bits"]


def _named_mask(register: type[Register]) -> int:
    return sum(f.metadata["mask"] << f.metadata["low"] for f in _named_fields(register))


def _as_int(value: int | Enum) -> int:
    return int(value.value if isinstance(value, Enum) else value)


def _require_fits(what: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise UsageError(f"{what} {value:#x} is not in 0x0 to {largest:#x}")


@dataclass(frozen=True)
class Gcr(Register):
    """GCR_EL1: which tags IRG must not choose, and how it chooses."""

    exclude: int = _bits(15, 0)
    """Bit t set: IRG, ADDG and SUBG do not choose tag t."""
    rrnd: bool = _bit(16)
    """IRG may use a source of its own; if clear it uses RGSR_EL1's LFSR."""


@dataclass(frozen=True)
class Rgsr(Register):
    """RGSR_EL1: the tag that IRG chose last, and its LFSR.

    With GCR_EL1.RRND set, bits 55:24 belong to the seed too, in a form that each
    implementation chooses; they are in `other_bits`.
    """

    tag: int = _bits(3, 0)
    seed: int = _bits(23, 8)


@dataclass(frozen=True)
class Tfsr(Register):
    """TFSR_EL1 or TFSRE0_EL1: a tag check failed with asynchronous reporting."""

    tf0: bool = _bit(0)
    """At an address with bit 55 clear."""
    tf1: bool = _bit(1)
    """At an address with bit 55 set."""


@dataclass(frozen=True)
class Sctlr(Register):
    """SCTLR_EL1: access to tags and mode of checking, for EL1 and (names with 0) for EL0."""

    itfsb: bool = _bit(37)
    """Taking an exception to EL1 first brings TFSR_EL1 and TFSRE0_EL1 up to date."""
    tcf0: TagCheckMode = _bits(39, 38, TagCheckMode)  # noqa: RUF009
    tcf: TagCheckMode = _bits(41, 40, TagCheckMode)  # noqa: RUF009
    ata0: bool = _bit(42)
    ata: bool = _bit(43)


@dataclass(frozen=True)
class Tcr(Register):
    """TCR_EL1: what the top byte means, for addresses with bit 55 clear (0) and set (1)."""

    tbi0: bool = _bit(37)
    """The top byte is not part of the address; without that nothing is checked."""
    tbi1: bool = _bit(38)
    tcma0: bool = _bit(57)
    """Logical tag 0x0 is not checked."""
    tcma1: bool = _bit(58)
    """Logical tag 0xf is not checked."""


@dataclass(frozen=True)
class Pstate(Register):
    """PSTATE in the form of SPSR_EL1: where the vCPU is, and whether it checks tags."""

    el: int = _bits(3, 2)
    """Exception level: 0 or 1 in the guests of this package."""
    tco: bool = _bit(25)
    """Tag check override: nothing is checked."""


@dataclass(frozen=True)
class IdAa64pfr1(Register):
    """ID_AA64PFR1_EL1: how much of MTE there is."""

    mte: int = _bits(11, 8)
    mte_frac: int = _bits(43, 40)

    @property
    def version(self) -> MteVersion:
        """Return the newest known version that this register promises.

        >>> IdAa64pfr1(mte=3).version.name
        'MTE3'
        """
        return MteVersion.promised(self.mte)

    @property
    def has_async(self) -> bool:
        """Return whether asynchronous checks exist: with MTE2, unless MTE_frac denies them.

        >>> IdAa64pfr1(mte=2, mte_frac=0xF).has_async
        False
        """
        return self.version >= MteVersion.MTE2 and self.mte_frac == 0
