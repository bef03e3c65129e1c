"""The run states of a VM, by QMP's names, and the only moves between them.

    prelaunch       -> running, finish-migrate
    inmigrate       -> running, paused
    running         -> paused, finish-migrate, shutdown, internal-error
    paused          -> running, finish-migrate, shutdown, internal-error
    finish-migrate  -> prelaunch, running, paused, postmigrate, shutdown, internal-error
    postmigrate     -> paused
    shutdown        ->
    internal-error  ->

`finish-migrate` is the downtime at the source: the guest stands, its last pages are on
their way. From there the VM goes to `postmigrate`, where the destination owns it for good,
or back to the state it was frozen in. Out of `postmigrate` leads only x-reclaim, for a
hand-over whose end nobody saw. The names are those of QEMU's qapi/run-state.json.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from tagalong.errors import RunStateError


class VmState(Enum):
    """What a VM is doing; the values are QMP's."""

    PRELAUNCH = "prelaunch"
    INMIGRATE = "inmigrate"
    RUNNING = "running"
    PAUSED = "paused"
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal-error"


# A paused VM can turn out to be shut down: the guest was quicker than the `stop`.
_ENDS = frozenset({VmState.SHUTDOWN, VmState.INTERNAL_ERROR})

TRANSITIONS: Mapping[VmState, frozenset[VmState]] = MappingProxyType(
    {
        VmState.PRELAUNCH: frozenset({VmState.RUNNING, VmState.FINISH_MIGRATE}),
        VmState.INMIGRATE: frozenset({VmState.RUNNING, VmState.PAUSED}),
        VmState.RUNNING: frozenset({VmState.PAUSED, VmState.FINISH_MIGRATE}) | _ENDS,
        VmState.PAUSED: frozenset({VmState.RUNNING, VmState.FINISH_MIGRATE}) | _ENDS,
        VmState.FINISH_MIGRATE: frozenset(
            {VmState.PRELAUNCH, VmState.RUNNING, VmState.PAUSED, VmState.POSTMIGRATE}
        )
        | _ENDS,
        VmState.POSTMIGRATE: frozenset({VmState.PAUSED}),
        VmState.SHUTDOWN: frozenset(),
        VmState.INTERNAL_ERROR: frozenset(),
    }
)


def check_transition(current: VmState, wanted: VmState) -> None:
    """Raise RunStateError unless the table allows the move from `current` to `wanted`."""
    if wanted not in TRANSITIONS[current]:
        raise RunStateError(f"a VM that is {current.value} cannot become {wanted.value}")
