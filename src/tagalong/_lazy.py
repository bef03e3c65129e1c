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
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Final


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


class _Collections:
    """Garbage collections, which are off while any thread loads modules.

    A thread that begins or ends meanwhile must not switch them for another. A child that is forked
    meanwhile lacks the threads that would switch them on again, so it does that itself.
    """

    def __init__(self) -> None:
        self._loaders: set[int] = set()
        self._were_on = False
        # A signal's handler may load a module, too, in the midst of this.
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forget_others)

    def switch_off(self) -> bool:
        """Switch them off for this thread; return whether it had not done so before."""
        thread = threading.get_ident()
        with self._lock:
            if thread in self._loaders:
                return False
            if not self._loaders:
                self._were_on = gc.isenabled()
            self._loaders.add(thread)
            gc.disable()
            return True

    def switch_back(self) -> None:
        """Let them be as before, unless another thread still loads modules."""
        thread = threading.get_ident()
        with self._lock:
            if self._loaders == {thread} and self._were_on:
                gc.enable()
            self._loaders.discard(thread)

    def _forget_others(self) -> None:
        self._lock = threading.RLock()
        thread = threading.get_ident()
        if self._loaders and thread not in self._loaders and self._were_on:
            gc.enable()
        self._loaders &= {thread}


_collections: Final = _Collections()


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage while the block loads modules: what they make stays.

    Python would look through all of it again and again, a fifteenth of the time that loading takes.
    Modules that load when they are used do so by themselves. For any number of threads at a time.
    """
    is_first = _collections.switch_off()
    try:
        yield
    finally:
        if is_first:
            _collections.switch_back()


def _load(name: str) -> ModuleType:
    with loading():
        return import_module(name)
