"""Every error that tagalong raises, split by what the caller can do about it.

    TagalongError                       exit code
    ├── UsageError                       2   ask differently
    ├── HostError                       10   change the host: something is missing or failed
    │   ├── NativeLibraryError          11   build or reinstall the package
    │   ├── AuthenticationError         12   a peer is not who it has to be, or cannot prove it
    │   └── OutputError                 13   standard output cannot be written
    ├── MachineError                    20   look at the guest or its configuration
    │   ├── AddressError                21   no guest RAM there, or misaligned
    │   ├── GuestImageError             22   the guest program cannot be loaded
    │   ├── RunStateError               23   not possible in the machine's present state
    │   ├── StateError                  24   machine state that this machine cannot take
    │   ├── UnsupportedInstructionError 25   the embedded machine stopped
    │   ├── TranslationError            26   the guest's own tables cannot be walked
    │   └── AccessFaultError            29   an access strategy met a fault in guest RAM
    ├── WireError                       30   bytes of a stream, with their offset
    │   ├── LocalProtocolError          31   our own side broke the protocol: a bug here
    │   └── RemoteProtocolError         32   the peer sent what it must not
    ├── MigrationError                  40   the VM did not move and still runs at the source
    │   ├── MachineMismatchError        41   the destination cannot hold this machine
    │   ├── ConvergenceError            42   the guest dirties faster than the channel carries
    │   ├── DigestMismatchError         43   both sides differ: nothing was started
    │   ├── MigrationCancelledError     44   the operator asked for it
    │   ├── HandoverUncertainError      45   the link broke after the commit: look before acting
    │   └── GuestEndedError             46   the guest ended first: nothing is left to move
    ├── ControlError                    50   the control socket
    │   └── CommandError                51   the VM refused a command, with its reason
    ├── RemoteError                  its own   what ended in the VM's process: that error's code
    ├── LabError                        60   the lab, an emulated Arm host
    │   ├── LabSetupError               61   a piece of it cannot be fetched, verified or built
    │   ├── LostMachineError            62   it ended without a result: neither pass nor fail
    │   │   └── LabTimeoutError         63   it was ended because the time was up
    │   └── SelfCheckError              64   this QEMU keeps tags wrongly: believe nothing it says
    └── CoreError                       70   a core file: a snapshot, a dump
        ├── MalformedCoreError          71   its bytes are not what the format allows, or missing
        ├── NotInCoreError              72   the core has no memory at this address
        ├── NoTagsError                 73   the core has no tags for this memory: not even zero
        ├── SnapshotCancelledError      74   the operator asked for it; no file was written
        ├── RestoreError                75   this machine or host cannot take the snapshot
        └── CrashReportError            76   no crash report that is known, or a damaged one

Guest tag check faults are not in this tree: they are the guest's own business and travel
as values (ESR, FAR). Exceptions are for failures of the host and of the tool.
"""

from enum import Enum

from tagalong.printable import one_line


class TagalongError(Exception):
    """Root of all errors raised on purpose; `exit_code` is the command's exit status."""

    exit_code: int = 99


class UsageError(TagalongError):
    """The request itself makes no sense: ask differently."""

    exit_code = 2


class HostError(TagalongError):
    """The host lacks something or a system call failed: change the host."""

    exit_code = 10


class NativeLibraryError(HostError):
    """The native library is missing or is not the one this package was built with."""

    exit_code = 11


class AuthenticationError(HostError):
    """A peer is not the one that it has to be, or cannot prove it: look at the certificates."""

    exit_code = 12


class OutputError(HostError):
    """Standard output is closed, full or broken; the message says what is lost."""

    exit_code = 13


class MachineError(TagalongError):
    """The machine cannot do this: look at the guest or at its configuration."""

    exit_code = 20


class AddressError(MachineError):
    """A gpa range that is not guest RAM, or is not aligned as the operation needs."""

    exit_code = 21


class GuestImageError(MachineError):
    """A guest program that cannot be loaded; the message names the offset in its file."""

    exit_code = 22


class RunStateError(MachineError):
    """An operation that the machine's present run state does not allow."""

    exit_code = 23


class StateError(MachineError):
    """Machine state (registers, devices) that this machine cannot take or give."""

    exit_code = 24


class UnsupportedInstructionError(MachineError):
    """The embedded machine met an allocated instruction that it does not implement.

    The vCPU is at the instruction; nothing of it was executed.
    """

    exit_code = 25

    def __init__(self, *, vcpu: int, pc: int, encoding: int, disassembly: str) -> None:
        self.vcpu = vcpu
        self.pc = pc
        self.encoding = encoding
        self.disassembly = disassembly
        super().__init__(
            f"vCPU {vcpu} at pc {pc:#018x}: instruction {encoding:#010x} ({disassembly}) is "
            "allocated in the architecture but not implemented by the embedded machine"
        )


class TranslationError(MachineError):
    """The guest's stage-1 translation tables are off, or not those of a working guest."""

    exit_code = 26


class AccessFaultError(MachineError):
    """An access strategy took a fault in guest RAM that trying again did not get past.

    With `match`, a running guest changes tags too fast: pause it, or take another strategy.
    """

    exit_code = 29


class WireError(TagalongError):
    """A stream that breaks its format; `offset` is the byte's place from the stream's start.

    `meaning`: what that means for the reader of the message, said before the place.
    """

    exit_code = 30

    def __init__(self, message: str, *, offset: int, meaning: str = "") -> None:
        self.offset = offset
        place = f"stream offset {offset:#x}: {message}"
        super().__init__(f"{meaning} ({place})" if meaning else place)


class LocalProtocolError(WireError):
    """Our own side tried to send what the protocol does not allow now: a bug in tagalong."""

    exit_code = 31


class RemoteProtocolError(WireError):
    """The peer sent what it must not; nothing that it sent is trusted any more."""

    exit_code = 32


class MigrationStage(Enum):
    """How far the source of a migration is; the values are the words shown to people.

    From LAST_PAGES on the guest is paused. In COMMIT the destination says whether it holds
    everything; with COMMITTED the right to run has left, and only the destination can return it.
    VMM is not a stage of ours: another VMM's migration, beside which tags were sent, has failed.
    """

    CONNECT = "connecting"
    SETUP = "setup"
    PRECOPY = "pre-copy"
    RECONNECT = "reconnecting"
    LAST_PAGES = "last pages"
    STATE = "machine state"
    DIGEST = "digest"
    COMMIT = "commit"
    COMMITTED = "committed"
    VMM = "the VMM's migration"


class MigrationError(TagalongError):
    """The migration failed and the VM is still at the source, which can run it.

    `stage` is what the source was at. Every MigrationError that leaves `migrate` or `migrate_to`
    has one; it is None in an error that comes from the destination's side.
    """

    exit_code = 40
    stage: MigrationStage | None = None


class MachineMismatchError(MigrationError):
    """The destination cannot hold the machine that the source describes, or its state."""

    exit_code = 41


class ConvergenceError(MigrationError):
    """The guest dirties memory faster than the channel carries it."""

    exit_code = 42


class DigestMismatchError(MigrationError):
    """Source and destination hold different memory or tags; the destination was not started."""

    exit_code = 43


class MigrationCancelledError(MigrationError):
    """The migration was cancelled on request."""

    exit_code = 44


class HandoverUncertainError(MigrationError):
    """The link broke after the source had given up its right to run.

    The destination may be running the VM. The source stays stopped and refuses to
    continue it; a person has to look at the destination.
    """

    exit_code = 45


class GuestEndedError(MigrationError):
    """The guest powered off or its machine failed before it had moved: nothing is left to move."""

    exit_code = 46


class ControlError(TagalongError):
    """The control socket cannot be reached or does not speak QMP."""

    exit_code = 50


class CommandError(ControlError):
    """A VM refused a QMP command; the message is the VM's own reason."""

    exit_code = 51


class RemoteError(TagalongError):
    """An error that ended something in the VM's process, as its control socket tells it.

    `class_name` names the error's class there; a VM of another version may name one that does not
    exist here. `exit_code` is that class's. `stage` is what a migration's source was at.
    """

    def __init__(
        self, message: str, *, class_name: str, exit_code: int, stage: MigrationStage | None = None
    ) -> None:
        self.class_name = class_name
        self.exit_code = exit_code
        self.stage = stage
        super().__init__(message)


class LabError(TagalongError):
    """The lab, the emulated Arm host, cannot do what was asked of it."""

    exit_code = 60


class LabSetupError(LabError):
    """A piece of the lab cannot be fetched, verified or built; what is complete stays."""

    exit_code = 61


class LostMachineError(LabError):
    """The lab's machine ended without a result: what ran in it has neither passed nor failed.

    `console` is what its kernel said; it comes along as a note.
    """

    exit_code = 62

    def __init__(self, message: str, *, console: str = "") -> None:
        self.console = console
        super().__init__(message)
        self.add_note(f"--- console ---\n{console.rstrip() or '(nothing)'}\n--- end of console ---")


class LabTimeoutError(LostMachineError):
    """The lab's machine was ended because its time was up, with no result until then."""

    exit_code = 63


class SelfCheckError(LabError):
    """The emulator keeps allocation tags wrongly: nothing that runs in it proves anything."""

    exit_code = 64


class CoreError(TagalongError):
    """A core file cannot give what was asked of it."""

    exit_code = 70


class MalformedCoreError(CoreError):
    """Bytes of a core that the format does not allow, or that the file no longer has.

    `offset` is their place in the file; `what` says in which file, if not in the core itself.
    `reason` is the message without both.
    """

    exit_code = 71

    def __init__(self, message: str, *, offset: int, what: str = "core") -> None:
        self.offset = offset
        self.what = what
        self.reason = message
        super().__init__(f"{what} offset {offset:#x}: {message}")


class NotInCoreError(CoreError):
    """The core has no data for an address; `address` is the first one that is missing."""

    exit_code = 72

    def __init__(self, message: str, *, address: int) -> None:
        self.address = address
        super().__init__(f"address {address:#x}: {message}")


class NoTagsError(CoreError):
    """The core has no tags for an address, which is not the same as tags that are zero."""

    exit_code = 73

    def __init__(self, message: str, *, address: int) -> None:
        self.address = address
        super().__init__(f"address {address:#x}: {message}")


class SnapshotCancelledError(CoreError):
    """A snapshot or dump was cancelled on request: no file was written, the VM continues."""

    exit_code = 74


class RestoreError(CoreError):
    """A snapshot that cannot be restored here, with all of its tags; nothing was started."""

    exit_code = 75


class CrashReportError(CoreError):
    """A file that is no crash report of a known form, or one that is damaged at `offset`."""

    exit_code = 76

    def __init__(self, message: str, *, offset: int = 0) -> None:
        self.offset = offset
        super().__init__(f"crash report offset {offset:#x}: {message}")


# --- errors as words ---


def error_class(name: str) -> type[TagalongError] | None:
    """Return the class of that name in this tree, None if there is none."""
    pending: list[type[TagalongError]] = [TagalongError]
    while pending:
        found = pending.pop()
        if found.__name__ == name:
            return found
        pending += found.__subclasses__()
    return None


def with_causes(error: BaseException) -> str:
    """Return the error's text and that of each cause which adds something, in one line.

    All of it may be shown on a terminal, wherever it comes from: see tagalong.printable. A cause
    without words of its own adds nothing.

    >>> with_causes(MigrationError("cannot connect to h:1"))  # from ConnectionRefusedError
    'cannot connect to h:1: Connection refused'
    """
    parts = [_text(error) or type(error).__name__]
    cause = error.__cause__
    while cause is not None:
        # Compared as it is shown: a text that was cleaned on its way up is the same text.
        if not any(_gist(cause)[:_TELLING_CHARACTERS] in part for part in parts):
            parts.append(_text(cause))
        cause = cause.__cause__
    return ": ".join(parts)


# As much of a text says which one it is. The rest may be cut off where it was quoted.
_TELLING_CHARACTERS = 1000


def _text(error: BaseException) -> str:
    """Return an error's own text as it may be shown, empty if it has none."""
    if isinstance(error, OSError) and error.strerror:
        # Its str() begins with the number, which says nothing to people.
        name = "" if error.filename is None else f": {error.filename}"
        return one_line(f"{error.strerror}{name}")
    return one_line(str(error))


def _gist(error: BaseException) -> str:
    """Return the part of an error's text that says it all; where it was said it is not repeated."""
    gist: str | None = None
    if hasattr(error, "verify_message"):  # ssl.SSLCertVerificationError, without importing ssl
        gist = str(error.verify_message)
    elif isinstance(error, OSError):
        gist = error.strerror
    return one_line(gist) if gist else _text(error)
