"""The run states of a VM, by QMP's names, and the only transitions between them.

    prelaunch       -> running, finish-migrate, save-vm, internal-error
    inmigrate       -> running, paused
    running         -> paused, finish-migrate, save-vm, shutdown, internal-error
    paused          -> prelaunch, running, finish-migrate, save-vm, shutdown, internal-error
    finish-migrate  -> prelaunch, running, paused, postmigrate, shutdown, internal-error
    save-vm         -> prelaunch, running, paused, shutdown, internal-error
    postmigrate     -> paused
    shutdown        ->
    internal-error  ->

`finish-migrate` is the downtime at the source: the guest is paused and its last pages are sent.
From there the VM enters `postmigrate`, where the destination owns it for good, or returns to the
state it was frozen in. Only x-reclaim leaves `postmigrate`, after a hand-over that the destination
did not confirm. In `save-vm` the guest is paused while it is written to a file; then the VM returns
to the state it was in. A VM that is reset while it is paused is in `prelaunch` again: its new guest
has not run yet. The names are those of QEMU's qapi/run-state.json.
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
    SAVE_VM = "save-vm"
    POSTMIGRATE = "postmigrate"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal-error"


# A paused VM can turn out to be shut down: the guest was quicker than the `stop`.
_ENDS = frozenset({VmState.SHUTDOWN, VmState.INTERNAL_ERROR})

# What stops a guest for a while, whatever it did before.
_STOPS = frozenset({VmState.FINISH_MIGRATE, VmState.SAVE_VM})

TRANSITIONS: Mapping[VmState, frozenset[VmState]] = MappingProxyType(
    {
        VmState.PRELAUNCH: frozenset({VmState.RUNNING, VmState.INTERNAL_ERROR}) | _STOPS,
        VmState.INMIGRATE: frozenset({VmState.RUNNING, VmState.PAUSED}),
        VmState.RUNNING: frozenset({VmState.PAUSED}) | _STOPS | _ENDS,
        VmState.PAUSED: frozenset({VmState.PRELAUNCH, VmState.RUNNING}) | _STOPS | _ENDS,
        VmState.FINISH_MIGRATE: frozenset(
            {VmState.PRELAUNCH, VmState.RUNNING, VmState.PAUSED, VmState.POSTMIGRATE}
        )
        | _ENDS,
        VmState.SAVE_VM: frozenset({VmState.PRELAUNCH, VmState.RUNNING, VmState.PAUSED}) | _ENDS,
        VmState.POSTMIGRATE: frozenset({VmState.PAUSED}),
        VmState.SHUTDOWN: frozenset(),
        VmState.INTERNAL_ERROR: frozenset(),
    }
)


def check_transition(current: VmState, wanted: VmState) -> None:
    """Raise RunStateError unless the table allows the move from `current` to `wanted`."""
    if wanted not in TRANSITIONS[current]:
        raise RunStateError(f"a VM that is {current.value} cannot become {wanted.value}")
