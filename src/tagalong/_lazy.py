"""Names and modules that load when they are used: a command costs what it needs.

numpy alone takes longer to load than most commands that do not need it take to run.

A package's `__init__` shows what the package offers, and would load all of it for a command that
needs one name. So it has its imports under TYPE_CHECKING, for readers and type checkers, and a
table for the interpreter (PEP 562):

    else:
        __getattr__, __dir__ = names_of(__name__, {"package.module": ("Name", "function")})

No module of such a package may have the name of something that the package offers: as soon as
the module is loaded, the interpreter puts it in that place.

What a VM loads before its guest runs is the guest's start, so the modules on that way load neither
numpy nor what only some VMs, or some moments of a VM, need. What such a module needs in some of its
functions is imported at its first use, and what only its annotations name is never imported:

    from __future__ import annotations

    if TYPE_CHECKING:
        from collections.abc import Sequence

        import numpy as np

        from tagalong.boot import program
    else:
        np = module_when_used("numpy")
        program = module_when_used("tagalong.boot.program")

A module of this package is then used by its own name (`program.parse_image`): a name that was
imported out of it would have loaded it. tests/unit/cli/test_start.py says what must not be loaded.
All other modules import as usual.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


def names_of(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package.

    `homes`: the names that each module has, by the module's full name; those of `package` itself
    are modules below it.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = module_of[name]
        if home == package:
            return _load(f"{package}.{name}")
        found = getattr(_load(home), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return load, names


class _ModuleWhenUsed:
    """A module, of which the first use of any name loads it."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> object:
        found = getattr(_load(self.__name__), name)
        setattr(self, name, found)  # the next use finds it here, without this method
        return found


def module_when_used(name: str) -> _ModuleWhenUsed:
    """Return what stands for the module `name`, and loads it at the first use of one of its names.

    A name that was used once costs what it costs in the module itself.
    """
    return _ModuleWhenUsed(name)


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage while the block loads modules: what they make stays.

    Python would look through all of it again and again, a fifteenth of the time that loading takes.
    Modules that load when they are used do so by themselves.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def _load(name: str) -> ModuleType:
    with loading():
        return import_module(name)
