"""The guest's time where it follows the host's clock."""

from tagalong.soft.native import NativeMachine


class HostClock:
    """Makes the interpreter's counter follow the host's clock while the machine runs.

    Implements machine.lifecycle.GuestClock.
    """

    def __init__(self, native: NativeMachine) -> None:
        self._native = native

    def stop(self) -> None:
        """Stop the time, now that all vCPUs are stopped. Does nothing if it is stopped."""
        self._native.follow_host_clock(follows=False)

    def start(self) -> None:
        """Continue from where the time stopped. Does nothing if it runs."""
        self._native.follow_host_clock(follows=True)
