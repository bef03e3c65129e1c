"""The one table that runs the protocol, for both roles and in both directions.

docs/formats/stream.md, section 7, shows it, and a test compares the two. There are no other
transitions.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from tagalong.wire.records import RecordType, Role


class Phase(Enum):
    """The state of a conversation; both ends share it."""

    START = "START"
    HELLO_SENT = "HELLO_SENT"
    AGREED = "AGREED"
    RESUMING = "RESUMING"
    DESCRIBED = "DESCRIBED"
    PREVIEWED = "PREVIEWED"
    COPYING = "COPYING"
    ROUND_ENDED = "ROUND_ENDED"
    STATE_SENT = "STATE_SENT"
    VERIFYING = "VERIFYING"
    DIGEST_SENT = "DIGEST_SENT"
    VERIFIED = "VERIFIED"
    PREPARED = "PREPARED"
    READY = "READY"
    COMMITTED_AHEAD = "COMMITTED_AHEAD"
    COMMITTED = "COMMITTED"
    CHANNEL_SENT = "CHANNEL_SENT"
    ATTACHED = "ATTACHED"
    CHANNEL_ROUND_ENDED = "CHANNEL_ROUND_ENDED"
    DONE = "DONE"
    ABORTED = "ABORTED"

    @property
    def is_final(self) -> bool:
        """Return whether nothing may follow."""
        return self in (Phase.DONE, Phase.ABORTED)


_S = Role.SOURCE
_D = Role.DESTINATION
_Key = tuple[Phase, Role, RecordType]

_PROGRESS: dict[_Key, Phase] = {
    (Phase.START, _S, RecordType.HELLO): Phase.HELLO_SENT,
    (Phase.HELLO_SENT, _D, RecordType.HELLO): Phase.AGREED,
    (Phase.AGREED, _S, RecordType.MACHINE): Phase.DESCRIBED,
    (Phase.AGREED, _S, RecordType.RESUME): Phase.RESUMING,
    (Phase.RESUMING, _D, RecordType.HELD): Phase.RESUMING,
    (Phase.RESUMING, _D, RecordType.RESUMED): Phase.COPYING,
    (Phase.DESCRIBED, _S, RecordType.STATE): Phase.PREVIEWED,
    (Phase.PREVIEWED, _D, RecordType.ACCEPT): Phase.COPYING,
    (Phase.COPYING, _S, RecordType.PAGES): Phase.COPYING,
    (Phase.COPYING, _S, RecordType.ROUND): Phase.ROUND_ENDED,
    (Phase.ROUND_ENDED, _D, RecordType.ROUND): Phase.COPYING,
    (Phase.COPYING, _S, RecordType.STATE): Phase.STATE_SENT,
    (Phase.STATE_SENT, _S, RecordType.VERIFY): Phase.VERIFYING,
    (Phase.VERIFYING, _S, RecordType.DIGEST): Phase.DIGEST_SENT,
    (Phase.DIGEST_SENT, _D, RecordType.DIGEST): Phase.VERIFIED,
    (Phase.STATE_SENT, _S, RecordType.PREPARE): Phase.PREPARED,
    (Phase.VERIFIED, _S, RecordType.PREPARE): Phase.PREPARED,
    (Phase.PREPARED, _D, RecordType.READY): Phase.READY,
    (Phase.READY, _S, RecordType.COMMIT): Phase.COMMITTED,
    # Tags beside another VMM's migration: COMMIT may follow PREPARE at once.
    (Phase.PREPARED, _S, RecordType.COMMIT): Phase.COMMITTED_AHEAD,
    (Phase.COMMITTED_AHEAD, _D, RecordType.READY): Phase.COMMITTED,
    (Phase.COMMITTED, _D, RecordType.RUNNING): Phase.DONE,
    # The other connections of a migration.
    (Phase.START, _S, RecordType.CHANNEL): Phase.CHANNEL_SENT,
    (Phase.CHANNEL_SENT, _D, RecordType.CHANNEL): Phase.ATTACHED,
    (Phase.ATTACHED, _S, RecordType.PAGES): Phase.ATTACHED,
    (Phase.ATTACHED, _S, RecordType.ROUND): Phase.CHANNEL_ROUND_ENDED,
    (Phase.CHANNEL_ROUND_ENDED, _D, RecordType.ROUND): Phase.ATTACHED,
    (Phase.ATTACHED, _S, RecordType.END): Phase.DONE,
}


def _attending() -> Iterator[tuple[Phase, Role]]:
    # Both ends may speak in every phase until the end, with one exception that carries the
    # hand-over: after COMMIT the source is silent. It has given up the right to run, so an ABORT
    # of its own could not be honoured, and whatever else it sent could not matter any more.
    #
    # Post-copy would change that, here and nowhere else: with its feature in use, RUNNING would
    # lead to a phase of its own, in which the destination asks for pages, the source sends them,
    # and neither may send ABORT, for then each end has a part of the VM that its peer lacks.
    # Record types 20 to 31 and feature bit 3 are reserved for it (docs/formats/stream.md, 8c).
    for phase in Phase:
        if not phase.is_final:
            yield phase, _D
            if phase not in (Phase.COMMITTED, Phase.COMMITTED_AHEAD):
                yield phase, _S


def _build() -> dict[_Key, Phase]:
    table = dict(_PROGRESS)
    for phase, sender in _attending():
        table[phase, sender, RecordType.ABORT] = Phase.ABORTED
        # Before both ends have said HELLO nothing else is allowed, not even this.
        if phase not in (Phase.START, Phase.HELLO_SENT, Phase.CHANNEL_SENT):
            table[phase, sender, RecordType.KEEPALIVE] = phase
    return table


TRANSITIONS: Mapping[_Key, Phase] = MappingProxyType(_build())
"""(phase, sender, record type) -> next phase; anything else is not allowed."""


def allowed(phase: Phase, sender: Role) -> list[RecordType]:
    """Return what `sender` may send in `phase`."""
    return [kind for (at, role, kind) in TRANSITIONS if at is phase and role is sender]
