"""After a migration that did not succeed: who has the VM, and what to do next.

What decides is the error's class, the stage that the source was at, and the kind of address; never
the words of a message.
"""

from dataclasses import dataclass

from tagalong.errors import (
    AuthenticationError,
    ConvergenceError,
    DigestMismatchError,
    GuestEndedError,
    HandoverUncertainError,
    MachineMismatchError,
    MigrationCancelledError,
    MigrationStage,
    RemoteError,
    TagalongError,
    UsageError,
    error_class,
)
from tagalong.migrate import Address, ExecAddress, FdAddress, FileAddress, parse_address
from tagalong.qapi.migration import MigrationRequest

_MOVED = "postmigrate"
_HELD = (
    "The guest is paused at the source (postmigrate), whose VMM has handed it over, and held at "
    "the destination until its tags are there. Send them again (tagalong migrate CONTROL URI, "
    "without --vmm-uri), or end the destination and continue the guest at the source (tagalong "
    "cont)."
)
_UNCERTAIN = (
    "The source holds the VM paused, and the destination may be running it. Ask the destination "
    "(query-status): if it has the VM, tell the source to quit; if it has not, the source's copy "
    "is the VM: tell it x-reclaim and cont."
)
_UNCERTAIN_BESIDE = (
    "Ask the process beside the destination (query-migrate): if it has completed, the guest has "
    "its tags there, so end it at the source (tagalong quit); if it waits for tags, send them "
    "again (tagalong migrate CONTROL URI, without --vmm-uri)."
)

_AGAIN = "start a new destination (tagalong run --incoming) and migrate again"
_AGAIN_BESIDE = "start a new destination (tagalong beside --incoming) and migrate again"


@dataclass(frozen=True)
class SourceState:
    """What the source says after the failure.

    `run_state` is None if it does not answer; `shutdown_reason` is why its process ends, by QMP's
    word, None if it has not said that it does.
    """

    run_state: str | None
    shutdown_reason: str | None = None


def next_steps(error: TagalongError, source: SourceState, request: MigrationRequest) -> str:
    """Return two sentences for the operator: where the VM is, and what helps."""
    is_beside = request.vmm_uri is not None
    if issubclass(_class_of(error), HandoverUncertainError):
        return _UNCERTAIN_BESIDE if is_beside else _UNCERTAIN
    if source.shutdown_reason is not None:
        return _after_the_end(error, source.shutdown_reason, is_beside=is_beside)
    if source.run_state == _MOVED:
        return _HELD
    if source.run_state is None and is_beside:
        return (
            "The process beside the VMM does not answer. Its guest is at the source, where it may "
            "be paused, unless it has moved already. Put a new process beside the VMM (tagalong "
            "beside attach): it ends what was under way, lets the guest run, and says where it is."
        )
    if source.run_state is None:
        return (
            "The source does not answer, so where the VM is cannot be told from here. Ask the "
            "destination (query-status): if the VM is not there, start it again."
        )
    nothing = "; nothing was started at the destination" * _has_destination(_address(request.uri))
    return f"The VM is at the source ({source.run_state}){nothing}. {_remedy(error, request)}."


def _class_of(error: TagalongError) -> type[TagalongError]:
    if isinstance(error, RemoteError):
        return error_class(error.class_name) or TagalongError
    return type(error)


def _after_the_end(error: TagalongError, reason: str, *, is_beside: bool) -> str:
    """Return what is left to do when the source's process ended during the migration."""
    if is_beside and not issubclass(_class_of(error), GuestEndedError):
        return (
            f"The VMM at the source has ended ({reason}). Ask the process beside the destination "
            "(query-migrate): if it has completed, the guest may be there; if not, start the guest "
            "again."
        )
    if not isinstance(error, RemoteError):
        return (
            f"The source's process ended ({reason}) without saying how the migration ended. Ask "
            "the destination (query-status): if the VM is not there, start it again."
        )
    if issubclass(_class_of(error), GuestEndedError):
        return "The VM has ended and nothing was started at the destination: nothing is to be done."
    return (
        f"The source's process ended ({reason}), and the VM with it; nothing was started at the "
        "destination. Start the VM again; then migrate it."
    )


# The first class that the error is of decides; `again` is what to do then.
_REMEDIES: tuple[tuple[type[TagalongError], str], ...] = (
    (GuestEndedError, "The VM has ended: nothing is left to move"),
    (UsageError, "Nothing was sent yet: correct the command and migrate again"),
    (MigrationCancelledError, "To move it after all, {again}"),
    (
        ConvergenceError,
        "Allow more downtime (--max-downtime), let the guest be slowed down "
        "(--auto-converge), compress (--compress auto) or use a faster link; then {again}",
    ),
    (
        MachineMismatchError,
        "Give the destination the source's --machine, --ram and --vcpus: {again}",
    ),
    (
        DigestMismatchError,
        "Source and destination differ although every record was whole: report this",
    ),
    (AuthenticationError, "Correct the certificates in --tls-dir; then {again}"),
)


# For a VM that runs beside tagalong, before those above.
_REMEDIES_BESIDE: tuple[tuple[type[TagalongError], str], ...] = (
    (
        ConvergenceError,
        "Allow more downtime (--max-downtime), let the VMM slow its guest down (its own "
        "auto-converge), compress (--compress auto) or use a faster link; then {again}",
    ),
    (
        MachineMismatchError,
        "Give the destination's VMM the source's machine, memory, vCPUs, devices and UUID: {again}",
    ),
)


def _remedy(error: TagalongError, request: MigrationRequest) -> str:
    address, stage = _address(request.uri), getattr(error, "stage", None)
    is_beside = request.vmm_uri is not None or stage is MigrationStage.VMM
    again = _AGAIN_BESIDE if is_beside else _AGAIN
    again = again if _has_destination(address) else "migrate again"
    for kind, remedy in (*(_REMEDIES_BESIDE if is_beside else ()), *_REMEDIES):
        if issubclass(_class_of(error), kind):
            return remedy.format(again=again)
    if stage is MigrationStage.VMM:
        return _remedy_for_vmm(request, again)
    return _remedy_for_one_way(address, again) or _remedy_for_link(stage, request, again)


def _remedy_for_vmm(request: MigrationRequest, again: str) -> str:
    """Return what helps where the VMM's own migration failed."""
    if request.vmm_uri is None:
        return f"Look at what both VMMs print; then {again}"
    return (
        f"See that a VMM waits at {request.vmm_uri} (its own -incoming), and look at what both "
        f"VMMs print; if that one has ended, {again}"
    )


def _remedy_for_one_way(address: Address | None, again: str) -> str | None:
    match address:
        case FileAddress():
            return f"When {address.path} can be written, {again}"
        case ExecAddress():
            return f"Look at what the command printed and how it ended; then {again}"
        case FdAddress():
            return (
                f"Look at the process at the other end of descriptor {address.name}; then {again}"
            )
    return None


def _remedy_for_link(stage: MigrationStage | None, request: MigrationRequest, again: str) -> str:
    """Return what helps where something between the two, or at one of them, failed."""
    if stage is MigrationStage.CONNECT:
        tls = ", and that each side's certificate is one that the other trusts"
        return (
            f"See that a destination waits at {request.uri}{tls * _uses_tls(request)}; then "
            "migrate again"
        )
    if stage is MigrationStage.SETUP:
        return f"{_look_there(request)} If it has ended, {again}"
    return (
        f"Remove the cause (--reconnect SECONDS bridges a link that breaks now and then), {again}"
    )


def _look_there(request: MigrationRequest) -> str:
    if _uses_tls(request):
        return (
            "Look at what the destination prints: does it speak TLS (--tls-dir), and does it admit "
            "the name in this side's certificate (--tls-admit)?"
        )
    return (
        "Look at what the destination prints: does it want TLS (--tls-dir), or speak another "
        "version?"
    )


def _uses_tls(request: MigrationRequest) -> bool:
    return bool(request.settings.tls_creds)


def _address(uri: str) -> Address | None:
    try:
        return parse_address(uri)
    except UsageError:
        return None


def _has_destination(address: Address | None) -> bool:
    return not isinstance(address, FileAddress | ExecAddress | FdAddress)
