"""Call stacks by drgn, where it is installed: names, source lines, and frames without a pointer.

Only local files are looked at: the program and its libraries where they were or in the user's
folder, and their debug files by build ID, which drgn compares. Whatever fails here is no failure:
the stack by frame pointers is taken, and a note says why.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tagalong.core import Core
from tagalong.explain.backtrace import MAX_FRAMES, Frames
from tagalong.explain.crash import StackFrame
from tagalong.printable import one_line

if TYPE_CHECKING:
    import drgn

DEBUG_FOLDER: Final = Path("/usr/lib/debug")
_FINDER: Final = "tagalong"
_MOST_MODULES: Final = 1024


class DrgnStacks:
    """What drgn says of one core. `notes`: why it says nothing, in sentences."""

    def __init__(self, core: Core, folder: Path | None) -> None:
        self._core = core
        self._folder = folder
        self.notes: tuple[str, ...] = ()

    def of_process(self, addresses: Sequence[int], frames: Frames) -> tuple[StackFrame, ...]:
        """Return the stack of a process's first thread, from the frame at `addresses[0]` on.

        `addresses`: the stack by frame pointers, which goes on where drgn ends. `frames`: what else
        is known of an address. Empty if there is no drgn, or if it cannot tell.
        """
        return self._tried(lambda: self._process_frames(addresses, frames))

    def of_kernel(self, addresses: Sequence[int]) -> tuple[StackFrame, ...]:
        """Return frames of a kernel with the names in its own memory, or in its vmlinux."""
        return self._tried(lambda: self._kernel_frames(addresses))

    def _tried(self, read: Callable[[], list[StackFrame]]) -> tuple[StackFrame, ...]:
        if find_spec("drgn") is None:
            return ()
        try:
            with _quiet():
                return tuple(read())
        except Exception as error:  # noqa: BLE001 (what drgn raises has no common class)
            self.notes = (f"drgn tells nothing of the call stack: {one_line(str(error))}",)
            return ()

    def _process_frames(self, addresses: Sequence[int], frames: Frames) -> list[StackFrame]:
        from tagalong.drgn import program_of  # noqa: PLC0415 (an extra)

        program = program_of(self._core)
        program.register_debug_info_finder(_FINDER, self._find)
        program.set_enabled_debug_info_finders([_FINDER])
        program.create_loaded_modules()
        self._load(program)
        trace = [*_known(program.crashed_thread().stack_trace())]
        # A handler's frames come before those of the fault.
        starts = (number for number, frame in enumerate(trace) if frame.pc == addresses[0])
        found = trace[next(starts, len(trace)) :][:MAX_FRAMES]
        is_short = not found or (found[-1].pc not in addresses and len(found) < len(addresses))
        # Without the program's tables drgn has frame pointers alone, not even the link register.
        if is_short or _function(found[0], addresses[0]) is None:
            return _by_addresses(program, addresses, frames)
        # Without the tables of some library drgn ends there.
        last = found[-1].pc
        rest = addresses[addresses.index(last) + 1 :] if last in addresses else ()
        return [
            *(_frame(each, frames) for each in found),
            *_by_addresses(program, rest, frames, is_first=False),
        ]

    def _kernel_frames(self, addresses: Sequence[int]) -> list[StackFrame]:
        return _by_addresses(self._kernel, addresses, StackFrame)

    @cached_property
    def _kernel(self) -> "drgn.Program":
        from tagalong.drgn import load_symbols, program_of  # noqa: PLC0415 (an extra)

        program = program_of(self._core)
        program.set_enabled_debug_info_finders([])
        vmlinux = None if self._folder is None else self._folder / "vmlinux"
        if vmlinux is not None and vmlinux.is_file():
            program.load_debug_info([vmlinux])
        load_symbols(program)
        return program

    def _load(self, program: "drgn.Program") -> None:
        from drgn import MissingDebugInfoError  # noqa: PLC0415 (an extra)

        with suppress(MissingDebugInfoError):  # those that were found are in use
            program.load_module_debug_info(*program.modules())

    def _find(self, modules: "Sequence[drgn.Module]") -> None:
        for module in modules[:_MOST_MODULES]:
            for path in self._candidates(module):
                if not module.wants_loaded_file() and not module.wants_debug_file():
                    break
                if path.is_file():  # nothing that blocks
                    module.try_file(path)

    def _candidates(self, module: "drgn.Module") -> Iterator[Path]:
        name = module.name
        if self._folder is not None:
            yield self._folder / name.lstrip("/")
            yield self._folder / Path(name).name
        elif name.startswith("/"):
            yield Path(name)
        build = None if module.build_id is None else module.build_id.hex()
        if build:
            for folder in (self._folder, DEBUG_FOLDER):
                if folder is not None:
                    for below in ("", "usr/lib/debug"):
                        yield folder / below / ".build-id" / build[:2] / f"{build[2:]}.debug"


def _known(trace: "Iterable[drgn.StackFrame]") -> Iterator["drgn.StackFrame"]:
    """Yield the frames of a trace as far as drgn knows where they are."""
    for frame in trace:
        try:
            _ = frame.pc
        except LookupError:
            return
        yield frame


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep drgn's log from stderr: what a core lacks is no news, and its words are not checked."""
    log = logging.getLogger("drgn")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _by_addresses(
    program: "drgn.Program", addresses: Sequence[int], frames: Frames, *, is_first: bool = True
) -> list[StackFrame]:
    """Return the frames at addresses, all but the first one return addresses.

    drgn takes all for return addresses, which are looked up as the byte before.
    """
    found: list[StackFrame] = []
    for number, address in enumerate(addresses):
        shift = int(is_first and number == 0)
        trace = program.stack_trace_from_pcs([address + shift])
        found += [_frame(each, frames, shift) for each in trace]
    return found


def _frame(frame: "drgn.StackFrame", frames: Frames, shift: int = 0) -> StackFrame:
    try:
        place = frame.source()
        source = one_line(f"{place.filename}:{place.line}") if place.filename else None
    except LookupError:
        source = None
    pc = frame.pc - shift
    known = frames(pc)
    return replace(known, symbol=_function(frame, pc) or known.symbol, source=source)


def _function(frame: "drgn.StackFrame", pc: int) -> str | None:
    """Return the function of a frame; one that was inlined into it has no address of its own."""
    if frame.is_inline:
        return None if frame.function_name is None else one_line(f"{frame.function_name} (inlined)")
    try:
        found = frame.symbol()
    except LookupError:
        return None if frame.function_name is None else one_line(frame.function_name)
    return one_line(f"{frame.function_name or found.name}+{pc - found.address:#x}")
