"""What may be sent now: the phase, and what earlier records demand of the next one.

One object serves both directions: a record is judged by the same code before it is sent
and after it was received. So an end may send exactly what its peer accepts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tagalong.binary.layout import MalformedError
from tagalong.wire.codec import (
    CHANNEL,
    HELD_HEAD,
    HELLO,
    MIGRATION_ID_BYTES,
    RESUMED,
    ROUND,
    STREAM_HEADER,
    VERSION,
)
from tagalong.wire.machine_state import STATE_HEAD
from tagalong.wire.records import (
    KNOWN_FEATURES,
    ChannelRecord,
    Commit,
    Feature,
    Held,
    Hello,
    MachineRecord,
    Pages,
    Prepare,
    Record,
    RecordType,
    Resume,
    Resumed,
    Role,
    Round,
    StateRecord,
)
from tagalong.wire.states import TRANSITIONS, Phase, allowed

# A HELLO that asks for anything beyond these is from a newer release.
_OURSELVES = Hello(Role.DESTINATION, bytes(MIGRATION_ID_BYTES), KNOWN_FEATURES)

_WANTED = {
    (True, Role.SOURCE): "the source sends a whole VM, and this end takes the tags of a VM that "
    "another VMM migrates: send it to tagalong run --incoming",
    (True, Role.DESTINATION): "the destination takes whole VMs, and this end sends the tags of a "
    "VM that another VMM migrates: send them to tagalong beside --incoming",
    (False, Role.SOURCE): "the source sends only tags, of a VM that another VMM migrates, and "
    "this end takes whole VMs: send them to tagalong beside --incoming",
    (False, Role.DESTINATION): "the destination takes only tags, of a VM that another VMM "
    "migrates, and this end sends a whole VM: send it to tagalong run --incoming",
}


@dataclass(frozen=True)
class Joining:
    """The migration that a further connection belongs to: a channel, or one to resume.

    `features` are those in use, `rounds` those that have ended, `version` is the stream's.
    """

    migration_id: bytes
    machine: MachineRecord
    features: int
    rounds: int
    version: int = VERSION


class Conversation:
    """The state that both ends share. Errors are MalformedErrors.

    `tags_only`: whether the stream is to carry tags without data; None accepts either.
    """

    def __init__(self, joining: Joining | None = None, *, tags_only: bool | None = False) -> None:
        self.phase = Phase.START
        self.version = joining.version if joining else VERSION
        self.hello: dict[Role, Hello] = {}
        self.features = joining.features if joining else 0  # the bits in use
        self._joining = joining
        self._tags_only = tags_only
        if joining is not None:
            self._tags_only = bool(joining.features & Feature.TAGS_ONLY)
        self._machine = joining.machine if joining else None
        self._round = Round(number=joining.rounds if joining else 0, page_count=0)
        self._pages_in_round = 0
        self._channel = 0
        self._held_until = 0

    def open_stream(self, sender: Role, version: int) -> None:
        """Take in the version that a stream begins with.

        The source speaks first and so chooses it, once for all connections of the migration.
        Raises if it is to be another one.
        """
        if version != self.version and (sender is Role.DESTINATION or self._joining is not None):
            raise MalformedError(
                f"the {sender.name.lower()} speaks version {version:#x} of the stream here, the "
                f"migration began in {self.version:#x}: use the same release of tagalong at both "
                "ends",
                offset=STREAM_HEADER.offsets["version"],
            )
        self.version = version

    @property
    def machine(self) -> MachineRecord:
        """Return the machine that was described. Raises before it was."""
        if self._machine is None:
            raise MalformedError("no MACHINE was sent yet")
        return self._machine

    def require_allowed(self, sender: Role, kind: RecordType) -> None:
        """Raise unless `sender` may send a record of this type now."""
        if (self.phase, sender, kind) in TRANSITIONS:
            return
        possible = ", ".join(each.name for each in allowed(self.phase, sender)) or "nothing"
        raise MalformedError(
            f"the {sender.name.lower()} must not send {kind.name} in {self.phase.name}: "
            f"possible are {possible}"
        )

    def check(self, sender: Role, record: Record) -> None:
        """Raise unless the record agrees with what was said before.

        Offsets count from the payload's start. Nothing changes.
        """
        _CHECKS.get(record.type, _accept_any)(self, sender, record)

    def advance(self, sender: Role, record: Record) -> None:
        """Take in a record that was checked and has been sent or received whole."""
        _EFFECTS.get(record.type, _accept_any)(self, sender, record)
        self.phase = TRANSITIONS[self.phase, sender, record.type]

    def advance_batch(self, sender: Role, page_count: int) -> None:
        """Take in a PAGES record of so many pages, as `advance` does."""
        self._pages_in_round += page_count
        self.phase = TRANSITIONS[self.phase, sender, RecordType.PAGES]

    def _check_hello(self, sender: Role, hello: Hello) -> None:
        if hello.role is not sender:
            raise MalformedError(
                f"the peer is a {hello.role.name.lower()} too: one end must send and the other "
                "must wait for a migration",
                offset=HELLO.offsets["role"],
            )
        if self._joining is not None:
            self._require_migration(hello.migration_id, HELLO.offsets["migration_id"])
        other = self.hello.get(sender.peer)
        if other is not None and hello.migration_id != other.migration_id:
            raise MalformedError(
                f"migration id {hello.migration_id.hex()} answers {other.migration_id.hex()}",
                offset=HELLO.offsets["migration_id"],
            )
        missing = hello.mandatory_features & ~(other or _OURSELVES).offered_features
        if missing:
            raise MalformedError(
                f"the {sender.name.lower()} demands the features {missing:#x}, which this end "
                "does not have: use a newer release of tagalong here",
                offset=HELLO.offsets["mandatory_features"],
            )
        if hello.offered_features & Feature.TAGS_IN_PLACE and not hello.is_tags_only:
            raise MalformedError(
                f"the {sender.name.lower()} offers TAGS_IN_PLACE without TAGS_ONLY: data are never "
                "in place",
                offset=HELLO.offsets["mandatory_features"],
            )
        if self._tags_only is not None and hello.is_tags_only is not self._tags_only:
            raise MalformedError(
                _WANTED[self._tags_only, sender], offset=HELLO.offsets["mandatory_features"]
            )
        for name in ("channels", "reconnect_s"):
            if other is not None and getattr(hello, name) > getattr(other, name):
                raise MalformedError(
                    f"{name} is {getattr(hello, name):#x} where {getattr(other, name):#x} was "
                    "asked for",
                    offset=HELLO.offsets[name],
                )

    def _take_hello(self, sender: Role, hello: Hello) -> None:
        self.hello[sender] = hello
        if sender.peer in self.hello:
            self.features = hello.offered_features & self.hello[sender.peer].offered_features

    def _require_joining(self) -> Joining:
        if self._joining is None:
            raise MalformedError("no migration is under way that this connection could join")
        return self._joining

    def _require_migration(self, given: bytes, offset: int) -> None:
        expected = self._require_joining().migration_id
        if given != expected:
            raise MalformedError(
                f"migration {given.hex()} is not the one under way, {expected.hex()}",
                offset=offset,
            )

    def _check_machine(self, _sender: Role, _machine: MachineRecord) -> None:
        if self._joining is not None:
            raise MalformedError("a connection that resumes describes no machine")

    def _take_machine(self, _sender: Role, machine: MachineRecord) -> None:
        self._machine = machine

    def _check_resume(self, _sender: Role, _resume: Resume) -> None:
        self._require_joining()

    def _take_rounds(self, _sender: Role, record: Resume | Resumed) -> None:
        self._round = Round(record.rounds, 0)

    def _take_pages(self, _sender: Role, pages: Pages) -> None:
        self._pages_in_round += pages.page_count

    def _check_prepare(self, sender: Role, _prepare: Prepare) -> None:
        if self.features & Feature.TAGS_IN_PLACE and self.phase is not Phase.VERIFIED:
            raise MalformedError(
                f"the {sender.name.lower()} sends no tags, as they are in place, and has compared "
                "no digest of them: VERIFY must come before PREPARE"
            )

    def _check_channel(self, sender: Role, channel: ChannelRecord) -> None:
        self._require_migration(channel.migration_id, CHANNEL.offsets["migration_id"])
        if sender is Role.DESTINATION and channel.number != self._channel:
            raise MalformedError(
                f"channel {channel.number:#x} answers channel {self._channel:#x}",
                offset=CHANNEL.offsets["number"],
            )

    def _take_channel(self, _sender: Role, channel: ChannelRecord) -> None:
        self._channel = channel.number

    def _check_held(self, _sender: Role, held: Held) -> None:
        page = self.machine.page_size_bytes
        end = held.first_gpa + held.page_count * page
        inside = any(it.gpa <= held.first_gpa < end <= it.end for it in self.machine.regions)
        if held.first_gpa % page or held.first_gpa < self._held_until or not inside:
            raise MalformedError(
                f"pages [{held.first_gpa:#x}, {end:#x}) must be whole pages of one region, from "
                f"{self._held_until:#x} on",
                offset=HELD_HEAD.offsets["first_gpa"],
            )

    def _take_held(self, _sender: Role, held: Held) -> None:
        self._held_until = held.first_gpa + held.page_count * self.machine.page_size_bytes

    def _check_resumed(self, _sender: Role, resumed: Resumed) -> None:
        # The answer to the last ROUND may have been lost with the connection.
        if not 0 <= resumed.rounds - self._round.number <= 1:
            raise MalformedError(
                f"the destination has {resumed.rounds:#x} rounds, "
                f"the source {self._round.number:#x}",
                offset=RESUMED.offsets["rounds"],
            )

    def _check_round(self, sender: Role, mark: Round) -> None:
        if sender is Role.DESTINATION:
            expected = self._round
        else:
            expected = Round(self._round.number + 1, self._pages_in_round)
        for name in ("number", "page_count"):
            given, wanted = getattr(mark, name), getattr(expected, name)
            if given != wanted:
                raise MalformedError(
                    f"the {sender.name.lower()}'s round has the {name} {given:#x}, not {wanted:#x}",
                    offset=ROUND.offsets[name],
                )

    def _take_round(self, _sender: Role, mark: Round) -> None:
        self._round = mark
        self._pages_in_round = 0

    def _check_state(self, _sender: Role, state: StateRecord) -> None:
        expected = self.machine.vcpu_count
        if len(state.vcpus) != expected:
            raise MalformedError(
                f"a state of {len(state.vcpus):#x} vCPUs for a machine of {expected:#x}",
                offset=STATE_HEAD.offsets["vcpu_count"],
            )
        if (state.gic is None) != (self.machine.gic is None):
            raise MalformedError(
                "one of MACHINE and STATE has a GIC, the other has none",
                offset=STATE_HEAD.offsets["gic_count"],
            )

    def _check_commit(self, _sender: Role, _commit: Commit) -> None:
        if self.phase is Phase.PREPARED and not self.features & Feature.TAGS_ONLY:
            raise MalformedError("COMMIT of a whole VM must not be sent before READY has come")


# One row for each record that depends on earlier ones, or that later ones depend on. Any: the
# type of a record is known only by its number here, and each method names the one it gets.
_Rule = Callable[[Conversation, Role, Any], None]


def _accept_any(_conversation: Conversation, _sender: Role, _record: Record) -> None:
    """Do nothing: the transition table says all there is to say about this record."""


_CHECKS: dict[RecordType, _Rule] = {
    RecordType.HELLO: Conversation._check_hello,
    RecordType.MACHINE: Conversation._check_machine,
    RecordType.STATE: Conversation._check_state,
    RecordType.ROUND: Conversation._check_round,
    RecordType.PREPARE: Conversation._check_prepare,
    RecordType.CHANNEL: Conversation._check_channel,
    RecordType.RESUME: Conversation._check_resume,
    RecordType.HELD: Conversation._check_held,
    RecordType.RESUMED: Conversation._check_resumed,
    RecordType.COMMIT: Conversation._check_commit,
}

_EFFECTS: dict[RecordType, _Rule] = {
    RecordType.HELLO: Conversation._take_hello,
    RecordType.MACHINE: Conversation._take_machine,
    RecordType.PAGES: Conversation._take_pages,
    RecordType.ROUND: Conversation._take_round,
    RecordType.CHANNEL: Conversation._take_channel,
    RecordType.RESUME: Conversation._take_rounds,
    RecordType.HELD: Conversation._take_held,
    RecordType.RESUMED: Conversation._take_rounds,
}
