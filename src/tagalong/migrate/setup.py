"""Set-up: both ends agree on the migration, before the guest notices anything.

The source sends its state as of now right behind the description of the machine. What the
destination cannot take, a register or a device, it rejects by name while the guest still runs. One
deadline covers the whole phase, channels included.
"""

from tagalong import wire
from tagalong.errors import MigrationStage
from tagalong.machine import MachineDescription
from tagalong.machine_records import record_of_description, record_of_state
from tagalong.migrate.channel_count import count_to_ask_for
from tagalong.migrate.reconnection import Connect, FurtherConnections
from tagalong.migrate.session import SourceSession, Stopwatch


class SetUp:
    """The first phase; `connect_again` opens further connections, None if there is no way to."""

    def __init__(self, session: SourceSession, connect_again: Connect | None) -> None:
        self._session = session
        self._connect_again = connect_again

    def run(self, migration_id: bytes) -> FurtherConnections | None:
        """Agree with the destination, and open the channels that it grants.

        Returns what opens further connections, None if there can be none. Raises as `Link.send`
        and `Link.receive`: MachineMismatchError if the destination cannot hold the machine.
        """
        session = self._session
        session.monitor.update(stage=MigrationStage.SETUP)
        deadline = session.link.answer_deadline()
        session.link.deadline = deadline
        hello = self._hello(migration_id)
        granted = self._greet(hello)
        self._describe()
        further = self._further(hello, granted)
        session.add_sender(session.link)
        if further is not None:
            further.add_channels(session, rounds=0, deadline=deadline)
        session.senders.set_deadline(float("inf"))
        return further

    def _hello(self, migration_id: bytes) -> wire.Hello:
        session, options = self._session, self._session.options
        may_return = self._connect_again is not None
        channels, is_auto = options.channels, 0
        if channels is None:
            channels = count_to_ask_for(session.machine, session.socket)
            is_auto = wire.Feature.AUTO_CHANNELS
        return wire.Hello(
            wire.Role.SOURCE,
            migration_id,
            compatible_features=wire.SUPPORTED_FEATURES
            | is_auto
            | (wire.Feature.GUEST_ID if session.machine.description.guest_id else 0),
            mandatory_features=_mandatory_features(session.machine.description),
            channels=channels if may_return else 1,
            reconnect_s=options.reconnect_s if may_return else 0,
        )

    def _greet(self, hello: wire.Hello) -> wire.Hello:
        link, watch = self._session.link, Stopwatch()
        link.send(hello)
        granted = link.expect(wire.Hello)
        self._session.estimate.fixed.note_answer(watch.lap())
        return granted

    def _describe(self) -> None:
        machine, link = self._session.machine, self._session.link
        link.send(record_of_description(machine.description))
        watch = Stopwatch()
        link.send(record_of_state(machine.peek_state()))
        self._session.estimate.fixed.state_s = watch.lap()
        link.expect(wire.Accept)

    def _further(self, hello: wire.Hello, granted: wire.Hello) -> FurtherConnections | None:
        if self._connect_again is None:
            return None
        session = self._session
        return FurtherConnections(
            self._connect_again,
            session.machine,
            hello,
            granted,
            session.link.features,
            session.options.timeouts,
        )


def _mandatory_features(description: MachineDescription) -> int:
    if description.has_data:
        return 0
    in_place = wire.Feature.TAGS_IN_PLACE if description.tags_in_place else 0
    return wire.Feature.TAGS_ONLY | in_place
