"""A strategy's look at a granule, as the code that it has the CPU run.

The strategies are written against `Host`. `Trace` is one that runs nothing: it takes down
which routines are called with what, and what the kernel is asked to do as the routine that does
the same. `Replay` hands a strategy the memory as those calls left it, so that what the
look gave is what the strategy itself makes of it. Both give out addresses in the same order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.access.choice import STRATEGIES
from tagalong.access.host import (
    PR_MTE_TCF_MASK,
    CallFlags,
    Counts,
    Direction,
    Door,
    Fault,
    Host,
    Need,
    Result,
    View,
    tagged_addr_ctrl,
)
from tagalong.access.routines import Routine, load_blob
from tagalong.errors import UsageError
from tagalong.memory import Gpa, GuestMemory, Region
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAGS_PER_BYTE
from tagalong.mte.registers import TagCheckMode
from tagalong.mte.tags import get_tag, unpack
from tagalong.race.code import LOOK_BYTES, RACED_GPA, Call, VmmCode
from tagalong.race.explore import Reading
from tagalong.race.world import Granule, World, scratch_address
from tagalong.soft.host.process import CODE_VA, PLAIN_VA, TAGGED_VA
from tagalong.soft.host.stage1 import PAGE_BYTES

_BASES: Final = {View.PLAIN: PLAIN_VA, View.TAGGED: TAGGED_VA}
_LINE_BYTES: Final = 64


class TagsFirst:
    """The order of a look: the granule's tag, then its data."""


def vmm_code(name: str, *, mode: TagCheckMode, tags_first: bool) -> VmmCode:
    """Return the code of the strategy `name`'s look, in a thread that checks as `mode` says.

    Raises UsageError for a name that is none.
    """
    trace = _Trace(mode)
    _look(name, trace, tags_first=tags_first)
    trace.close()
    return VmmCode(name, tuple(trace.calls), scratch=bytes(trace.scratch))


def reading(name: str, world: World, *, tags_first: bool) -> Reading:
    """Return what the strategy's look has given in `world`, whose VMM is done."""
    replay = _Replay(world.scratch())
    seen = _look(name, replay, tags_first=tags_first)
    replay.close()
    return seen
