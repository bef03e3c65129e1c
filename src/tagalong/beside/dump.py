"""Writes a core of another VMM's guest: its memory, its tags, and all registers of its vCPUs.

The VMM stops its guest, and lets it run on afterwards if it ran. With `live` it is stopped for its
registers alone: its pages are of different moments then, and the core says so.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final

from tagalong.beside.link import LibraryLink
from tagalong.beside.monitor import ACTIVE, VmmMonitor
from tagalong.beside.outgoing import VmmAccess
from tagalong.beside.pages import BesidePages
from tagalong.errors import RunStateError, TagalongError, UsageError
from tagalong.files import require_file_name
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveKind, SaveRequest
from tagalong.snapshot import SaveProgress, StillMachine, dump_machine
from tagalong.vmm.saving import Save

_ELSEWHERE: Final = {
    "inmigrate": "the VM is not here yet: an incoming migration is awaited",
    "finish-migrate": "the VM is being migrated away",
    "postmigrate": "the VM was migrated away: dump it where it is",
}
_NO_SNAPSHOT: Final = (
    "a snapshot of another VMM's guest could not be restored: its devices are that VMM's. "
    "`tagalong dump` writes a core for debuggers; `tagalong migrate CONTROL file:TAGS --vmm-uri "
    "file:REST` saves the guest so that a new VMM goes on with it (--incoming file:TAGS, -incoming "
    "file:REST)"
)


class SavedBeside:
    """The guest of the VMM beside this process; implements saving.Savable.

    `access` returns how to reach it, or raises why it cannot be dumped now.
    """

    def __init__(self, access: Callable[[], VmmAccess]) -> None:
        self._access = access

    def begin(self, request: SaveRequest) -> Save:
        """As Savable. Raises UsageError for a snapshot, RunStateError, HostError."""
        if request.kind is not SaveKind.DUMP:
            raise UsageError(_NO_SNAPSHOT)
        if request.access is not None:
            raise UsageError(
                f"access {request.access}: the memory of this VM is reached by the library in its "
                "VMM's process only"
            )
        access = self._access()
        return lambda tell, cancelled: _dump(access, request, tell, cancelled)

    def ended(self) -> None:
        """As Savable: the VMM runs its guest on by itself."""


def _dump(
    access: VmmAccess,
    request: SaveRequest,
    tell: Callable[[SaveProgress], None],
    cancelled: threading.Event,
) -> SaveResult:
    require_file_name(request.path)  # before the guest is paused for a file that cannot be
    pause = _Pause(access.monitor)
    began = time.monotonic()
    with closing(LibraryLink(access.library)) as link, closing(pause):
        was_running = pause.begin()
        pages = BesidePages(link)
        state = pages.read_state()
        is_torn = request.live and was_running
        if is_torn:
            pause.close()

        def when_read() -> None:
            pages.require_same(was_paused=not is_torn)
            pause.close()

        machine = StillMachine(pages.description, state, pages, was_running, is_torn)
        report = dump_machine(
            machine, request.path, request.options(),
            progress=tell, cancel=cancelled, when_read=when_read,
        )  # fmt: skip
    return SaveResult(replace(
        report, was_running=was_running, downtime_s=pause.duration_s,
        duration_s=time.monotonic() - began,
    ))  # fmt: skip


class _Pause:
    """Stops the guest by its VMM's monitor, and lets it run on."""

    def __init__(self, monitor: VmmMonitor) -> None:
        self.duration_s = 0.0
        self._monitor = monitor
        self._stopped_at: float | None = None

    def begin(self) -> bool:
        """Return whether the guest ran. Raises RunStateError if it is not, or not only, here."""
        state = self._monitor.run_state()
        if state in _ELSEWHERE:
            raise RunStateError(_ELSEWHERE[state])
        if self._monitor.migration().status in ACTIVE:
            raise RunStateError(
                "the VMM is migrating its guest: dump it at the destination, or cancel that first"
            )
        if state != "running":
            return False
        self._stopped_at = time.monotonic()
        self._monitor.ask("stop")
        return True

    def close(self) -> None:
        """Let the guest run on if it ran and its run state has not changed since.

        Raises what the monitor raises, with a note that it is paused. Safe to call twice.
        """
        if self._stopped_at is None:
            return
        stopped_at, self._stopped_at = self._stopped_at, None
        try:
            if self._monitor.run_state() == "paused":
                self._monitor.ask("cont")
        except TagalongError as error:
            error.add_note("The guest may still be paused: let it run with `tagalong cont`.")
            raise
        self.duration_s = time.monotonic() - stopped_at
