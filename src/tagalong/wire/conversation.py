"""What may be said now: the phase, and what earlier records demand of the next one.

One object serves both directions: a record is judged by the same code before it is sent
and after it was received. So what one end may send is exactly what the other accepts.
"""

from tagalong.wire.codec import HELLO, MIGRATION_ID_BYTES, ROUND
from tagalong.wire.layout import MalformedError
from tagalong.wire.machine_state import STATE_HEAD
from tagalong.wire.records import (
    Hello,
    Machine,
    Pages,
    Record,
    RecordType,
    Role,
    Round,
    State,
)
from tagalong.wire.states import TRANSITIONS, Phase, allowed

_OURSELVES = Hello(Role.DESTINATION, bytes(MIGRATION_ID_BYTES))


class Conversation:
    """The state that both ends share. Errors are MalformedErrors."""

    def __init__(self) -> None:
        self.phase = Phase.START
        self.hello: dict[Role, Hello] = {}
        self.features = 0  # the bits in use: those that both ends offer
        self._machine: Machine | None = None
        self._round = Round(number=0, page_count=0)
        self._pages_in_round = 0

    @property
    def machine(self) -> Machine:
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
            f"the {sender.name.lower()} may not send {kind.name} in {self.phase.name}: "
            f"possible are {possible}"
        )

    def check(self, sender: Role, record: Record) -> None:
        """Raise unless the record agrees with what was said before.

        Offsets count from the payload's start. Nothing changes.
        """
        if isinstance(record, Hello):
            self._check_hello(sender, record)
        elif isinstance(record, Round):
            self._check_round(sender, record)
        elif isinstance(record, State):
            self._check_state(record)

    def advance(self, sender: Role, record: Record) -> None:
        """Take in a record that was checked and has been sent or received whole."""
        self.phase = TRANSITIONS[self.phase, sender, record.type]
        if isinstance(record, Hello):
            self.hello[sender] = record
            if sender.peer in self.hello:
                other = self.hello[sender.peer]
                self.features = record.offered_features & other.offered_features
        elif isinstance(record, Machine):
            self._machine = record
        elif isinstance(record, Pages):
            self._pages_in_round += record.page_count
        elif isinstance(record, Round):
            self._round = record
            self._pages_in_round = 0

    def _check_hello(self, sender: Role, hello: Hello) -> None:
        if hello.role is not sender:
            raise MalformedError(
                f"the peer is a {hello.role.name.lower()} too: one end must be started to send "
                "and the other to receive",
                offset=HELLO.offsets["role"],
            )
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

    def _check_state(self, state: State) -> None:
        expected = self.machine.vcpu_count
        if len(state.vcpus) != expected:
            raise MalformedError(
                f"a state of {len(state.vcpus):#x} vCPUs for a machine of {expected:#x}",
                offset=STATE_HEAD.offsets["vcpu_count"],
            )
