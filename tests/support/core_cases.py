"""A core for each rule of `tagalong check`, and what the rule says there."""

from dataclasses import dataclass, field

from tests.support.core_builder import (
    CoreBuilder,
    Segment,
    auxv,
    fpregset,
    load,
    note,
    prstatus,
    tag_segment,
    tagged_addr_ctrl,
    usual_notes,
)

AT = 0x1_0000
SIZE = 8192
DATA = bytes(range(256)) * 32
TAGS = bytes((2 * n % 16) | (2 * n + 1) % 16 << 4 for n in range(256))
RUBBISH = b"\x99" * 4096
KERNEL = 0xFFFF_8000_0000_0000


@dataclass(frozen=True)
class Case:
    """A core, the rules that it breaks, and what each debugger shows of its tags.

    `gdb`, `lldb`: for addresses whether the debugger shows the true tag (True), another
    one (False) or none (None). A granule's true tag is its number modulo 16.
    """

    core: bytes
    rules: tuple[str, ...]
    gdb: dict[int, bool | None]
    lldb: dict[int, bool | None] = field(default_factory=dict)
    start: int = AT
    absent: tuple[int, ...] = ()
    """Addresses for which the core never had tags: no debugger loses them."""


FIRST, SECOND = AT + 0x20, AT + 0x1020
"""A granule in each of the two pages; its tag is 2."""


def both(first: bool | None, second: bool | None) -> dict[int, bool | None]:
    return {FIRST: first, SECOND: second}


def built(*segments: Segment, notes: bytes | None = None) -> bytes:
    return CoreBuilder(list(segments), usual_notes() if notes is None else notes).build()


def usual(notes: bytes | None = None) -> bytes:
    return built(load(AT, DATA), tag_segment(AT, TAGS), notes=notes)


def cut(missing: int) -> bytes:
    return usual()[:-missing]


def followed_by_rubbish() -> bytes:
    """Tags for the first page only, in a segment for two; then bytes that are no tags."""
    core = built(load(AT, DATA), tag_segment(AT, TAGS[:128], size_bytes=SIZE))
    return core[: -4096 + 128] + RUBBISH[128:]


LAST = ("lldb-last-granule",)

CASES: dict[str, Case] = {
    "nothing": Case(usual(), LAST, both(True, True), both(True, True)),
    "no auxv": Case(
        usual(prstatus() + fpregset() + tagged_addr_ctrl()),
        ("no-hwcap2-mte", *LAST),
        both(None, None),
        both(True, True),
    ),
    "no hwcap2 bit": Case(
        usual(prstatus() + auxv(0) + fpregset() + tagged_addr_ctrl()),
        ("no-hwcap2-mte", *LAST),
        both(None, None),
        both(True, True),
    ),
    "no 0x409": Case(
        usual(prstatus() + auxv() + fpregset()),
        ("no-tagged-addr-ctrl", *LAST),
        both(True, True),
        both(None, None),
    ),
    "no 0x409 but another note of Linux": Case(
        usual(prstatus() + auxv() + fpregset() + note(b"LINUX", 0x404, bytes(4))),
        ("no-tagged-addr-ctrl", *LAST),
        both(True, True),
        both(True, True),
    ),
    "no 0x409 but EI_OSABI": Case(
        usual(prstatus() + auxv() + fpregset())[:7]
        + b"\x03"
        + usual(prstatus() + auxv() + fpregset())[8:],
        ("no-tagged-addr-ctrl", *LAST),
        both(True, True),
        both(True, True),
    ),
    "no registers": Case(
        usual(auxv() + tagged_addr_ctrl()),
        ("no-registers", *LAST),
        both(True, True),
        both(True, True),
    ),
    "no tag segments": Case(
        built(load(AT, DATA)), ("no-tag-segments",), both(None, None), both(None, None)
    ),
    "old type": Case(
        built(load(AT, DATA), Segment(0x7000_0001, TAGS, AT, size_bytes=SIZE)),
        ("old-tag-type", "no-tag-segments"),
        both(None, None),
        both(None, None),
    ),
    "tags of a part": Case(
        built(load(AT, DATA), tag_segment(AT, TAGS[:128])),
        ("unequal-ranges", "no-tags-here", *LAST),
        both(True, None),
        both(None, None),
        absent=(SECOND,),
    ),
    "tags of more": Case(
        built(load(AT, DATA[:4096]), tag_segment(AT, TAGS)),
        ("unequal-ranges", *LAST),
        both(True, True),
        both(None, None),
    ),
    "tags without data": Case(
        built(tag_segment(AT, TAGS)), ("unequal-ranges", *LAST), both(True, True), both(None, None)
    ),
    "one of two segments with tags of both": Case(
        built(
            load(AT, DATA[:4096]),
            load(AT + 4096, DATA[4096:]),
            tag_segment(AT + 4096, TAGS[128:]),
            tag_segment(AT, TAGS[:128]),
        ),
        LAST,
        both(True, True),
        both(True, True),
    ),
    "one tag segment is equal": Case(
        built(
            load(AT, DATA[:4096]),
            load(AT + 4096, DATA[4096:] + bytes(4096)),
            tag_segment(AT, TAGS[:128]),
            tag_segment(AT + 4096, TAGS[128:]),
        ),
        ("unequal-ranges", "no-tags-here", *LAST),
        both(True, True),
        both(True, None),
    ),
    "tags not written": Case(
        built(load(AT, DATA), tag_segment(AT, b"", size_bytes=SIZE)),
        ("tags-not-written", "no-tags-here", *LAST),
        both(None, None),
        both(False, False),
    ),
    "tags not written, bytes behind": Case(
        built(
            load(AT, DATA),
            tag_segment(AT, b"", size_bytes=SIZE),
            load(AT + SIZE, RUBBISH),
        ),
        ("tags-not-written", "no-tags-here", *LAST),
        both(None, None),
        both(False, False),
    ),
    "tags of one segment not written": Case(
        built(
            load(AT, DATA[:4096]),
            load(AT + 4096, DATA[4096:]),
            tag_segment(AT, TAGS[:128]),
            tag_segment(AT + 4096, b"", size_bytes=4096),
        ),
        ("tags-not-written", "no-tags-here", *LAST),
        both(True, None),
        both(True, False),
    ),
    "tags of the first segment not written": Case(
        built(
            load(AT, DATA[:4096]),
            load(AT + 4096, DATA[4096:]),
            tag_segment(AT + 4096, TAGS[128:]),
            tag_segment(AT, b"", size_bytes=4096),
            load(AT + SIZE, RUBBISH),
        ),
        ("tags-not-written", "no-tags-here", *LAST),
        both(None, True),
        both(False, True),
    ),
    "too few tags": Case(
        followed_by_rubbish(),
        ("tag-size", "no-tags-here", *LAST),
        both(True, False),
        both(True, False),
    ),
    "too many tags": Case(
        built(load(AT, DATA), tag_segment(AT, TAGS + bytes(64), size_bytes=SIZE)),
        ("tag-size", *LAST),
        both(True, True),
        both(True, True),
    ),
    "cut in the tags": Case(
        cut(4096 - 128), ("cut-short", "no-tags-here", *LAST), both(True, None), both(True, False)
    ),
    "cut before the tags": Case(
        cut(4096), ("cut-short", "no-tags-here", *LAST), both(None, None), both(False, False)
    ),
    "overlapping tags": Case(
        built(load(AT, DATA), tag_segment(AT, TAGS), tag_segment(AT, bytes(256))),
        ("overlap", *LAST),
        both(True, True),
        both(True, True),
    ),
    "a kernel's addresses": Case(
        built(load(KERNEL, DATA), tag_segment(KERNEL, TAGS)),
        ("lldb-top-byte", *LAST),
        {KERNEL + 0x20: True},
        {KERNEL + 0x20: None},
        start=KERNEL,
    ),
}
