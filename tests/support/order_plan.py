"""Draws what is done to a migration between two processes: signals, commands, and where.

A plan is a migration over one transport with one or two orders, each for one side, given at one
place of the conversation: before a record of either stream, or after some of its bytes.
"""

import random
from dataclasses import dataclass
from enum import Enum

from tagalong.wire import Role

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL")
QUIT = "quit"

# QMP commands with their arguments. FOLDER and PROXY are replaced by the trial's.
COMMANDS: dict[str, dict[str, object]] = {
    QUIT: {},
    "stop": {},
    "cont": {},
    "migrate_cancel": {},
    "migrate-pause": {},
    "migrate": {"uri": "unix:PROXY", "resume": True},
    "migrate-recover": {"uri": "unix:FOLDER/elsewhere"},
    "migrate-set-parameters": {"max-bandwidth": 1 << 20},
    "x-snapshot": {"protocol": "file:FOLDER/snapshot.core", "detach": True},
    "dump-guest-memory": {"protocol": "file:FOLDER/dump.core", "paging": False, "detach": True},
    "x-dump-cancel": {},
    "x-reclaim": {},
    "query-migrate": {},
}


class Transport(Enum):
    """How the VM travels."""

    UNIX = "unix"
    CHANNELS = "channels"
    RECONNECT = "reconnect"  # the connection is cut at the place, the orders come afterwards
    TCP = "tcp"
    TLS = "tls"
    FILE = "file"
    EXEC = "exec"

    @property
    def is_conversation(self) -> bool:
        """Return whether a destination answers."""
        return self not in (Transport.FILE, Transport.EXEC)

    @property
    def shows_records(self) -> bool:
        """Return whether a proxy can tell one record from the next."""
        return self in (Transport.UNIX, Transport.CHANNELS, Transport.RECONNECT)


@dataclass(frozen=True)
class Order:
    """A signal or a QMP command for one side, `delay_s` after the place was reached."""

    side: Role
    what: str
    delay_s: float = 0.0

    @property
    def ends(self) -> bool:
        """Return whether it asks the process to end."""
        return self.what in SIGNALS or self.what == QUIT

    def __str__(self) -> str:
        late = f" {self.delay_s * 1000:g} ms later" if self.delay_s else ""
        return f"{self.what} at the {self.side.name.lower()}{late}"


@dataclass(frozen=True)
class Plan:
    """A migration and its orders.

    `role`, `number` and `place` are a record and a byte in it; where a transport shows no
    records, `place` counts bytes of `role`'s stream, or microseconds for a transport without a
    conversation. The record passes on `hold_s` after the orders were given.
    """

    transport: Transport
    role: Role
    number: int
    place: int
    orders: tuple[Order, ...]
    hold_s: float = 0.0
    verify: bool = False
    reconnect_s: int = 0

    def __str__(self) -> str:
        where = f"record {self.number} byte {self.place:#x} from the {self.role.name.lower()}"
        orders = ", ".join(map(str, self.orders))
        return f"{self.transport.value}: {orders}; at {where}, held {self.hold_s * 1000:g} ms"


Shape = dict[Role, list[int]]
"""How long each record of each stream is."""


TRANSPORTS = (*Transport, Transport.UNIX, Transport.RECONNECT)
"""Of a row of plans: those with a hand-over in a conversation come more often."""


def draw_plan(draw: random.Random, shape: Shape, transport: Transport | None = None) -> Plan:
    """Draw one plan. `shape` is that of a migration without orders, as for every transport."""
    transport = transport or draw.choice(TRANSPORTS)
    role = draw.choice(list(Role))
    number = draw.randrange(len(shape[role]))
    place = draw.choice([0, 0, draw.randrange(shape[role][number])])
    if transport in (Transport.TCP, Transport.TLS):
        place = draw.randrange(sum(shape[role]))
    if not transport.is_conversation:
        place = draw.randrange(60_000)
    orders = tuple(_draw_order(draw, transport) for _ in range(draw.choice([1, 1, 2])))
    return Plan(
        transport, role, number, place, orders,
        hold_s=draw.choice([0.0, 0.0, 0.005, 0.05]),
        verify=transport.is_conversation and draw.random() < 0.3,
        reconnect_s=2 if transport is Transport.RECONNECT else 0,
    )  # fmt: skip


def _draw_order(draw: random.Random, transport: Transport) -> Order:
    side = draw.choice(list(Role)) if transport.is_conversation else Role.SOURCE
    # An end is what loses a VM; half of all orders ask for one.
    what = draw.choice([*SIGNALS, QUIT]) if draw.random() < 0.5 else draw.choice(list(COMMANDS))
    delay_s = draw.choice([0.0, 0.0, 0.001, 0.02, 0.3 if transport is Transport.RECONNECT else 0.0])
    return Order(side, what, delay_s)


def orders_at_every_record(shape: Shape) -> list[Plan]:
    """Return a plan per record, side and kind of end, with the end well before the record."""
    return [
        Plan(Transport.UNIX, role, number, 0, (Order(side, what),), hold_s=0.05)
        for role, records in shape.items()
        for number in range(len(records))
        for side in Role
        for what in (*SIGNALS, QUIT)
    ]
