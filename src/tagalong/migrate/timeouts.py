"""How long each end of a migration waits for the other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a peer, in seconds.

    connect: until a connection is there. idle: while no byte moves, in or out. record: until a
    record that is awaited, or being sent, is complete. answer: until a record other than KEEPALIVE
    comes. switchover: until a destination that keeps the guest paused has taken all of it and said
    READY, beside the downtime that the operator allows; then again until RUNNING. farewell: for
    last words, which nothing depends on.
    """

    connect_s: float = 10.0
    idle_s: float = 10.0
    record_s: float = 60.0
    answer_s: float = 300.0
    switchover_s: float = 60.0
    farewell_s: float = 1.0
