"""Both ends of every kind of address, as a migration needs them.

`transport` moves bytes and knows no protocol. Where an address needs someone who speaks it (a
file that must be answered, a peer that must be told why it is rejected) it is joined here.
"""

from tagalong import wire
from tagalong.errors import HostError, UsageError
from tagalong.migrate.keeper import keep
from tagalong.migrate.transport import connector, listener
from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import Buffers, Channel, Interrupt, never
from tagalong.migrate.transport.refusals import Refused
from tagalong.migrate.transport.tls import TlsCredentials


def connect(
    address: Address,
    *,
    timeout_s: float,
    idle_s: float,
    interrupt: Interrupt = never,
    tls: TlsCredentials | None = None,
) -> Channel:
    """Connect to a destination, or begin to keep the stream where none answers.

    Raises HostError if nothing listens there, no answer comes in `timeout_s`, or a file or a
    command cannot be opened; AuthenticationError if the peer does not prove what `tls` asks of
    it; UsageError if TLS has no meaning. Nothing is left open then.
    """
    if not connector.is_one_way(address):
        return connector.connect(
            address, timeout_s=timeout_s, idle_s=idle_s, interrupt=interrupt, tls=tls
        )
    if tls is not None:
        raise UsageError(f"{address}: there is no peer that TLS could authenticate")
    return keep(address, idle_s=idle_s)


def listen(
    address: Address,
    *,
    tls: TlsCredentials | None = None,
    refused: Refused = listener.ignore,
) -> listener.Listener:
    """Listen at `address`.

    `refused` gets the reason for each peer that is rejected. Raises HostError if that is not
    possible, as when the address is in use, UsageError if TLS has no meaning.
    """
    return listener.listen(address, tls=tls, refused=refused, farewell=_farewell)


def _farewell(error: HostError) -> Buffers:
    connection = wire.Connection(wire.Role.DESTINATION, tags_only=None)
    return connection.send(wire.Abort(wire.AbortReason.HOST, str(error)))
