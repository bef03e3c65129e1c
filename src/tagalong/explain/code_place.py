"""Whose code the faulting instruction is: a function's that frees, the allocator's, or other."""

import re
from enum import Enum
from typing import Final

from tagalong.explain.crash import Crash

_FRAMES: Final = 2
_FREEING: Final = re.compile(
    r"(__libc_|__GI___libc_|_int_|k|kv|v|c|je_|h_)?"
    r"(free|realloc|reallocarray|krealloc|free_sensitive)(_noprof)?|_Zd[la]Pv\w*|\w+_free"
)
_LIBRARIES: Final = ("/libc.so", "/libc-", "scudo", "hardened_malloc")


class CodePlace(Enum):
    """The values are the words for people."""

    FREEING = "in a function that frees memory"
    ALLOCATOR = "in the allocator's library"
    ELSEWHERE = "not the allocator's"
    UNKNOWN = "not known"


def code_at(crash: Crash) -> CodePlace:
    """Return whose code the innermost frames are."""
    if crash.fault.is_free:
        return CodePlace.FREEING
    names = [frame.symbol for frame in crash.backtrace[:_FRAMES] if frame.symbol]
    if any(_FREEING.fullmatch(name.split("+")[0]) for name in names):
        return CodePlace.FREEING
    if names and names[0] == crash.backtrace[0].symbol:
        return CodePlace.ELSEWHERE
    pc = None if crash.access is None else crash.access.pc
    here = None if pc is None else crash.mapping_of(pc)
    libraries = [m for m in crash.mappings if any(part in m.name for part in _LIBRARIES)]
    if here is not None and libraries:
        inside = any(part in here.name for part in _LIBRARIES)
        return CodePlace.ALLOCATOR if inside else CodePlace.ELSEWHERE
    return CodePlace.UNKNOWN
