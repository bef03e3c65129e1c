"""The VMM's command line: what it gets in addition, and what it must not have.

QEMU's options are read only as far as this needs. What is not understood here is left alone.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from tagalong.errors import HostError, UsageError

LISTENER_VARIABLE: Final = "TAGALONG_BESIDE_FD"
HOLD_VARIABLE: Final = "TAGALONG_BESIDE_HOLD"
LIBRARY: Final = "libtagalong-beside.so"

_MONITOR_ID: Final = "tagalong"
_MACHINE_OPTIONS: Final = ("-M", "-machine")
_REFUSED: Final = (
    (
        ("-accel", *_MACHINE_OPTIONS),
        re.compile(r"dirty-ring-size=[^,]*[1-9]"),
        "KVM's dirty ring tells only the VMM which pages have changed: leave dirty-ring-size out",
    ),
    (
        _MACHINE_OPTIONS,
        re.compile(r"(^|,)mte=(on|true|y)"),
        "QEMU refuses to migrate a VM that it gave tags to: leave mte=on out, the guest has tags "
        "all the same",
    ),
    (
        ("-accel", *_MACHINE_OPTIONS),
        re.compile(r"(^|[=:,])tcg($|[:,])"),
        "under TCG there is no KVM whose tags could be carried: use -accel kvm",
    ),
)


def library_path() -> Path:
    """Return the library that the VMM is started under. Raises HostError if it is missing."""
    path = Path(__file__).parent.parent / "_lib" / LIBRARY
    if not path.exists():
        raise HostError(f"{path} is missing: install tagalong again, or build it (make)")
    return path


def check_command(command: Sequence[str]) -> None:
    """Raise UsageError for a command line that cannot be carried, by the option's name."""
    if not command:
        raise UsageError("no command: give it behind --, as in -- qemu-system-aarch64 -M virt ...")
    if "-daemonize" in command or "--daemonize" in command:
        raise UsageError(
            "-daemonize: this process stays beside the VMM and ends with it; leave the option "
            "out, and put `tagalong beside` itself into the background"
        )
    for option, value in options_of(command):
        for names, pattern, reason in _REFUSED:
            if option in names and pattern.search(value):
                raise UsageError(f"{option} {value}: {reason}")


def options_of(command: Sequence[str]) -> list[tuple[str, str]]:
    """Return each option that has a value with that value; QEMU takes -x and --x."""
    return [
        (re.sub(r"^--", "-", option), value)
        for option, value in pairwise(command)
        if option.startswith("-")
    ]


def awaits_migration(command: Sequence[str]) -> bool:
    """Return whether the VMM is to wait for a migration."""
    return any(option == "-incoming" for option, _ in options_of(command))


def with_monitor(command: Sequence[str], descriptor: int) -> list[str]:
    """Return the command with a QMP monitor of ours, which listens on an inherited descriptor."""
    return [
        *command,
        "-chardev", f"socket,id={_MONITOR_ID},fd={descriptor},server=on,wait=off",
        "-mon", f"chardev={_MONITOR_ID},mode=control",
    ]  # fmt: skip


def environment(
    base: Mapping[str, str], library: Path, descriptor: int, *, holds: bool
) -> dict[str, str]:
    """Return the environment of a VMM under the library.

    `descriptor`: the inherited socket on which the library listens. `holds`: no vCPU enters the
    guest before the tags are there.
    """
    preloaded = base.get("LD_PRELOAD")
    result = {
        **base,
        "LD_PRELOAD": f"{library} {preloaded}" if preloaded else str(library),
        LISTENER_VARIABLE: str(descriptor),
    }
    result.pop(HOLD_VARIABLE, None)
    return {**result, HOLD_VARIABLE: "1"} if holds else result
