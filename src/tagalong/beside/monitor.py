"""The VMM's own QMP monitor, for the event loop and for threads.

The monitor is one that this process added to the VMM's command line: the operator's monitors stay
theirs. What the VMM answers is not trusted more than any peer.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

from tagalong.control.client import ControlClient
from tagalong.errors import ControlError
from tagalong.machine.state import GUEST_ID_BYTES
from tagalong.qapi.events import VmEvent
from tagalong.qapi.json_fields import JsonFields, array_of, boolean, fields, integer, text

_ANSWER_S: Final = 60.0

ACTIVE: Final = frozenset(
    ("setup", "active", "pre-switchover", "device", "cancelling", "wait-unplug")
)
"""Statuses of a VMM's migration under way."""

STOPPED_FOR_MIGRATION: Final = frozenset(("finish-migrate", "postmigrate"))
"""Run states that the guest is in from its last instruction here on."""

UPDATE_IN_PLACE: Final = "cpr-transfer"
"""The mode of a migration in which the next VMM gets the guest's memory by its descriptors."""


@dataclass(frozen=True)
class VmmMigration:
    """What the VMM says of its migration; times in milliseconds, None where it says nothing.

    `dirty_syncs`: how often it has looked at its dirty log.
    """

    status: str = "none"
    error: str | None = None
    total_ms: int | None = None
    downtime_ms: int | None = None
    transferred_bytes: int | None = None
    dirty_syncs: int = 0

    @classmethod
    def from_qmp(cls, value: object) -> "VmmMigration":
        """Return what query-migrate answered. Raises ControlError if it makes no sense."""
        members = JsonFields(value, "query-migrate")
        ram = members.read_optional("ram", fields)
        return cls(
            status=members.read_optional("status", text) or "none",
            error=members.read_optional("error-desc", text),
            total_ms=members.read_optional("total-time", integer),
            downtime_ms=members.read_optional("downtime", integer),
            transferred_bytes=ram.read_optional("transferred", integer) if ram else None,
            dirty_syncs=(ram.read_optional("dirty-sync-count", integer) or 0) if ram else 0,
        )


TELLS_WITHIN_S: Final = 0.03
"""From a VMM's event of a stop to the one that says what it is for."""

_URGENT_S: Final = 1.0

HEARD: Final = " heard"
"""What the name of a step has behind it for the time at which its event had come."""

_STOPS: Final = {"STOP": True, "RESUME": False}

# Steps whose time is kept. A VMM can send any names.
_STEPS: Final = ACTIVE | _STOPS.keys() | {"completed", "cancelled", "failed"}


class MigrationNews:
    """What the VMM's events say of its migration, as they come; for one waiting thread.

    `status` is the last one that an event told of since `begin`, None if none has; `dirty_syncs`:
    how often the VMM had looked at its dirty log by then. QEMU tells both with the capability
    `events` only. `has_stopped`: whether the guest has, and was not continued. `hurries`: whether
    the waiting thread is to have the processor for itself once the guest has stopped.
    """

    def __init__(self) -> None:
        self.status: str | None = None
        self.dirty_syncs = 0
        self.has_stopped = False
        self.hurries = False
        self._stopped_at = 0.0
        self._began_s: dict[str, float] = {}
        self._heard_s: dict[str, float] = {}
        self._changed = threading.Condition()
        self._count = 0
        self._seen = 0

    def begin(self) -> None:
        """Forget what was told of earlier migrations."""
        with self._changed:
            self.status = None
            self.dirty_syncs = 0
            self.has_stopped = False
            self.hurries = False
            self._began_s.clear()
            self._heard_s.clear()

    def note(self, event: VmEvent) -> None:
        """Take in an event. From the event loop's thread."""
        status = event.data.get("status") if event.name == "MIGRATION" else None
        syncs = event.data.get("pass") if event.name == "MIGRATION_PASS" else None
        with self._changed:
            if isinstance(syncs, int):
                self.dirty_syncs = syncs
            if isinstance(status, str):
                self.status = status
                self._keep(status, event)
            if event.name in _STOPS:
                self.has_stopped = _STOPS[event.name]
                self._stopped_at = time.monotonic()
                self._keep(event.name, event)
            self._count += 1
            self._changed.notify_all()

    @property
    def is_about_to_tell(self) -> bool:
        """Return whether the VMM, which has stopped its guest, is about to say what for.

        One that stops it for its migration tells of a new status at once, and answers no question
        before that. If it says nothing, the stop was another one.
        """
        is_new = time.monotonic() - self._stopped_at < TELLS_WITHIN_S
        return self.has_stopped and self.status == "active" and is_new

    @property
    def is_urgent(self) -> bool:
        """Return whether other work on the VMM's events has to wait: for a moment only.

        A guest may be stopped for longer, by an operator or for many tags.
        """
        is_new = time.monotonic() - self._stopped_at < _URGENT_S
        return self.hurries and self.has_stopped and is_new

    def _keep(self, name: str, event: VmEvent) -> None:
        if name not in _STEPS:
            return
        self._began_s.setdefault(name, event.time_s)
        self._heard_s.setdefault(f"{name}{HEARD}", time.time())

    def moments_s(self) -> dict[str, float]:
        """Return when the VMM's steps were, and when they were heard of, in seconds since 1970."""
        with self._changed:
            return {**self._began_s, **self._heard_s}

    def wait(self, timeout_s: float) -> None:
        """Wait for an event that came after the last wait, or until time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != self._seen, timeout_s)
            self._seen = self._count

    def ms_between(self, first: str, second: str) -> float | None:
        """Return the time from one status to another by the VMM's own clock, None if not told."""
        with self._changed:
            if first not in self._began_s or second not in self._began_s:
                return None
            return (self._began_s[second] - self._began_s[first]) * 1000


class VmmMonitor:
    """A negotiated connection to the VMM. The methods without `async` are for other threads.

    `news` is what its events say. They raise CommandError with the VMM's reason, ControlError if
    it does not answer.
    """

    def __init__(self, client: ControlClient, loop: asyncio.AbstractEventLoop) -> None:
        self.news = MigrationNews()
        self._client = client
        self._loop = loop

    def reconnected(self, client: ControlClient) -> None:
        """Use another connection from now on: the one before has ended."""
        self._client = client
        self.news.begin()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command in the event loop and return its value."""
        return await self._client.execute(command, arguments, timeout_s=_ANSWER_S)

    async def guest_id(self) -> bytes:
        """Return eight bytes that name the guest, as MachineDescription; none without a UUID."""
        try:
            members = JsonFields(await self.execute("query-uuid"), "query-uuid")
            uuid = UUID(members.read("UUID", text))
        except (ControlError, ValueError):
            return b""
        return sha256(uuid.bytes).digest()[:GUEST_ID_BYTES] if uuid.int else b""

    def ask(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command and wait for its value, in a thread that is not the event loop's."""
        return asyncio.run_coroutine_threadsafe(
            self.execute(command, arguments), self._loop
        ).result()

    def prepare(self, command: str, arguments: Mapping[str, object]) -> "PreparedOrder":
        """Make a command ready that is to be sent without delay, by the calling thread."""
        return PreparedOrder(self._client, self._loop, command, arguments)

    def run_state(self) -> str:
        """Return the VMM's run state."""
        return JsonFields(self.ask("query-status"), "query-status").read("status", text)

    def migration(self) -> VmmMigration:
        """Return what the VMM says of its migration."""
        return VmmMigration.from_qmp(self.ask("query-migrate"))

    def migration_mode(self) -> str:
        """Return how the VMM migrates: "normal" if it knows one way only."""
        members = JsonFields(self.ask("query-migrate-parameters"), "query-migrate-parameters")
        return members.read_optional("mode", text) or "normal"

    def capabilities(self) -> dict[str, bool]:
        """Return the migration capabilities by name."""
        return read_capabilities(self.ask("query-migrate-capabilities"))

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        """Switch migration capabilities on or off."""
        entries = [{"capability": name, "state": state} for name, state in wanted.items()]
        self.ask("migrate-set-capabilities", {"capabilities": entries})

    def parameters(self, names: Iterable[str]) -> dict[str, int]:
        """Return those of the named migration parameters that the VMM has; they are numbers."""
        members = JsonFields(self.ask("query-migrate-parameters"), "query-migrate-parameters")
        return {name: members.read(name, integer) for name in names if name in members}


class PreparedOrder:
    """A command of one thread that leaves without a detour through the event loop.

    Methods raise as VmmMonitor's.
    """

    def __init__(
        self,
        client: ControlClient,
        loop: asyncio.AbstractEventLoop,
        command: str,
        arguments: Mapping[str, object],
    ) -> None:
        self._client = client
        self._loop = loop
        self._command = command
        made = asyncio.run_coroutine_threadsafe(client.prepare(command, arguments), loop)
        self._prepared = made.result()

    def send(self) -> bool:
        """Send it; return whether that was possible."""
        return self._prepared.send()

    def require_answer(self) -> None:
        """Wait for the VMM's answer. Raises CommandError if it refuses."""
        answer = self._client.answered(self._command, self._prepared)
        asyncio.run_coroutine_threadsafe(answer, self._loop).result()

    def close(self) -> None:
        """Forget it, sent or not."""
        self._loop.call_soon_threadsafe(self._prepared.close)


def read_capabilities(value: object) -> dict[str, bool]:
    """Return what query-migrate-capabilities answered. Raises ControlError."""
    entries = array_of(fields)(value, "query-migrate-capabilities")
    return {each.read("capability", text): each.read("state", boolean) for each in entries}
