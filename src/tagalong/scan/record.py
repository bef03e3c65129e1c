"""What is kept of one explained crash: flat and bounded, a line of JSON or a row of a table."""

from dataclasses import dataclass, fields
from hashlib import blake2b
from types import NoneType
from typing import Any, Final, Self, get_args, get_type_hints

from tagalong.explain.crash import Crash, StackFrame
from tagalong.explain.explanation import Explanation
from tagalong.printable import one_line
from tagalong.scan.items import Item

MAX_WORD: Final = 300
"""Characters of a text that are kept: names come from files."""

_FRAMES: Final = 3
_REQUIRED: Final = ("url", "size_bytes", "stamp", "report", "reports", "duration_s")


@dataclass(frozen=True)
class CrashRecord:
    """One crash, or one file that could not be explained (`error` is set then).

    `url`, `size_bytes`, `stamp` say which file it was, and `report` which of the `reports` in it,
    from 1 on. `signature` names what happened where, tags and addresses aside. `module`, `build`,
    `place`: of the first frame. `distance_bytes`, `block_bytes`: of the most likely hypothesis.
    """

    url: str
    size_bytes: int
    stamp: str
    report: int = 1
    reports: int = 1
    error: str | None = None
    error_class: str | None = None
    signature: str | None = None
    title: str | None = None
    cause: str | None = None
    probability: float | None = None
    source: str | None = None
    world: str | None = None
    mode: str | None = None
    process: str | None = None
    module: str | None = None
    build: str | None = None
    place: str | None = None
    direction: str | None = None
    access_bytes: int | None = None
    allocator: str | None = None
    block_bytes: int | None = None
    distance_bytes: int | None = None
    pointer_tag: int | None = None
    memory_tag: int | None = None
    duration_s: float = 0.0

    @classmethod
    def of_explanation(
        cls, item: Item, report: int, found: Explanation, duration_s: float = 0.0
    ) -> Self:
        """Return what is kept of an explanation."""
        crash, top = found.crash, found.top
        frame = next(iter(crash.backtrace), None)
        direction = (crash.access and crash.access.direction) or crash.fault.direction
        cause = top.cause.value if top else crash.fault.mode.value
        title = f"{cause} in {_place(frame) or _place_of_access(crash)}"
        return cls(
            *item.identity, report,
            signature=signature_of(cause, direction, crash),
            title=_word(title), cause=cause,
            probability=round(top.probability, 4) if top else None,
            source=crash.source.value, world=crash.world.value, mode=crash.fault.mode.value,
            process=_word(crash.process), module=_word(frame.module if frame else None),
            build=_word(frame.build if frame else None),
            place=_word(_place(frame)), direction=direction and direction.value,
            access_bytes=(crash.access and crash.access.size_bytes) or crash.fault.size_bytes,
            allocator=crash.allocator.kind.value,
            block_bytes=top.block.size_bytes if top and top.block else None,
            distance_bytes=top.distance_bytes if top else None,
            pointer_tag=crash.fault.pointer_tag, memory_tag=crash.fault.memory_tag,
            duration_s=round(duration_s, 4),
        )  # fmt: skip

    @classmethod
    def of_failure(cls, item: Item, reason: str, error_class: str, duration_s: float = 0.0) -> Self:
        """Return the record of a file that could not be explained."""
        return cls(
            *item.identity, error=_word(reason), error_class=error_class,
            duration_s=round(duration_s, 4),
        )  # fmt: skip

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Return the record that `to_json` made. Raises ValueError if it is none."""
        if not isinstance(values, dict):
            raise ValueError("a record is an object")
        for name, value in values.items():
            if not isinstance(value, _TYPES.get(name, ())):
                raise ValueError(f"a record has no {name!r} like {repr(value)[:40]}")
        for name in _REQUIRED:
            if values.get(name) is None:
                raise ValueError(f"a record needs {name!r}")
        if values["reports"] < 1:
            raise ValueError(f"a record has no 'reports' like {values['reports']}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return dict(vars(self))

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """Return the type of each field by its name, in order; each may be None as well."""
        hints = get_type_hints(cls)
        return {each.name: (get_args(hints[each.name]) or (hints[each.name],))[0]
                for each in fields(cls)}  # fmt: skip

    @property
    def item(self) -> Item:
        """Return the file that it is about."""
        return Item(self.url, self.size_bytes, self.stamp)


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    # JSON has one kind of number.
    each.name: (kind, int, NoneType) if kind is float else (kind, NoneType)
    for each, kind in zip(fields(CrashRecord), CrashRecord.kinds().values(), strict=True)
}


def signature_of(cause: str, direction: object, crash: Crash) -> str:
    """Return 16 hex digits for what happened where: cause, direction, and the first frames.

    Frames count by symbol, or by module and offset in its file, so that neither tags nor where a
    program was loaded make a difference.
    """
    frames = [place for frame in crash.backtrace[:_FRAMES] if (place := _place(frame))]
    where = frames or [_place_of_access(crash)]
    parts = [crash.world.value, cause, str(direction or ""), *where]
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _place(frame: StackFrame | None) -> str | None:
    """Return where a frame is, whatever address its module was loaded at."""
    if frame is None:
        return None
    module = frame.module.rsplit("/", 1)[-1] if frame.module else ""
    if frame.symbol:
        # KASAN and symbolizers write function+offset/length: the function names the place.
        name = frame.symbol.split("+", 1)[0]
        return f"{module}!{name}" if module else name
    if module and frame.module_offset is not None:
        return f"{module}+{frame.module_offset:#x}"
    return module or None


def _place_of_access(crash: Crash) -> str:
    """Return what says where without a backtrace: the mapping of the pc, the instruction."""
    access = crash.access
    if access is None:
        return "an unknown place"
    mapping = None if access.pc is None else crash.mapping_of(access.pc)
    if mapping is not None and access.pc is not None:
        offset = access.pc - mapping.start + (mapping.file_offset or 0)
        return f"{mapping.name.rsplit('/', 1)[-1]}+{offset:#x}"
    return access.text or "an unknown place"


def _word(text: str | None) -> str | None:
    if text is None:
        return None
    shown = one_line(text)
    return shown if len(shown) <= MAX_WORD else f"{shown[: MAX_WORD - 3]}..."
