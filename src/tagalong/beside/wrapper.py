"""What libvirt can use as <emulator>: QEMU in place of this process, tagalong beside it.

libvirt starts its emulator for two things. To learn what it can do (`-version`, `-machine none`,
`-help`): then QEMU takes this process's place at once, unchanged. And to run a domain: then a
process of ours is put beside first, and QEMU takes this process's place under the library. So
libvirt's child is QEMU itself, with the pid, descriptors and signals that libvirt knows.
"""

import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, NoReturn

from tagalong.beside.command import (
    awaits_migration,
    check_command,
    environment,
    library_path,
    options_of,
    with_monitor,
)
from tagalong.errors import HostError, UsageError

SETTINGS_VARIABLE: Final = "TAGALONG_BESIDE_SETTINGS"
DEFAULT_SETTINGS: Final = Path("/etc/tagalong/beside.toml")

_MAX_BYTES: Final = 1 << 16
_READY_S: Final = 60.0
_ENDS_S: Final = 5.0
_POLL_S: Final = 0.01

_ASKS = frozenset(("-version", "-help", "-h", "-V"))
_NAME = re.compile(r"(?:^|,)guest=([^,]*)|^([^=,]+)(?:,|$)")
_SAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True)
class WrapperSettings:
    """The settings file (TOML): `vmm`, QEMU's program; `folder` for control sockets.

    `incoming`: where a domain that arrives awaits its tags; {name} stands for the domain's name.
    `tls_dir`: a folder with certificates, for that.
    """

    vmm: str = "/usr/bin/qemu-system-aarch64"
    folder: str = "/run/tagalong"
    incoming: str = "tcp:[::]:4455"
    tls_dir: str = ""


def read_settings(path: Path, *, is_required: bool) -> WrapperSettings:
    """Return the settings in a file; the defaults if it is missing and need not be there.

    Raises UsageError naming what is wrong in it.
    """
    try:
        values = tomllib.loads(_content(path))
    except FileNotFoundError:
        if is_required:
            raise UsageError(f"cannot read {path}: it does not exist") from None
        return WrapperSettings()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    known = {each.name for each in fields(WrapperSettings)}
    for name, value in values.items():
        if name not in known or not isinstance(value, str) or "\0" in value:
            raise UsageError(
                f"{path}: {name} is no setting, or no text; there are {', '.join(sorted(known))}"
            )
    return WrapperSettings(**values)


def _content(path: Path) -> str:
    """Return what a file of settings has. Raises OSError, ValueError."""
    # A FIFO without a writer is empty.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    return content.decode()


def settings_path(variables: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the settings file, and whether it was named."""
    named = variables.get(SETTINGS_VARIABLE)
    return (Path(named), True) if named else (DEFAULT_SETTINGS, False)


def runs_a_guest(arguments: Sequence[str]) -> bool:
    """Return whether QEMU is to run a guest on KVM, and not only to say what it can do."""
    options = options_of(arguments)
    words = {re.sub(r"^--", "-", word) for word in arguments}
    machines = [value for option, value in options if option in ("-machine", "-M")]
    if words & _ASKS or "-daemonize" in words or not machines:
        return False
    if any(value.split(",")[0] in ("none", "help", "?") for value in machines):
        return False
    values = [value for option, value in options if option in ("-accel", "-machine", "-M")]
    return any(re.search(r"(^|=|,)kvm\b", value) for value in values) or "-enable-kvm" in words


def guest_name(arguments: Sequence[str]) -> str:
    """Return the guest's name as a file name; of one without a name, this process's number."""
    for option, value in options_of(arguments):
        if option == "-name" and (found := _NAME.search(value)):
            return _SAFE.sub("_", found[1] or found[2] or "") or str(os.getpid())
    return str(os.getpid())


def run_wrapper(arguments: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Let QEMU take this process's place. Raises UsageError or HostError if it cannot."""
    path, is_named = settings_path(variables)
    settings = read_settings(path, is_required=is_named)
    command = [settings.vmm, *arguments]
    if not runs_a_guest(arguments):
        _become(command, variables)
    _run_guest(command, guest_name(arguments), settings, variables)


def _run_guest(
    command: Sequence[str], name: str, settings: WrapperSettings, variables: Mapping[str, str]
) -> NoReturn:
    # Not above: what only asks for QEMU's abilities need not wait for these to be loaded.
    from tagalong.beside.vmm import (  # noqa: PLC0415
        LIBRARY_SUFFIX,
        MONITOR_SUFFIX,
        beside,
        socket_for,
    )

    check_command(command)
    control, holds = Path(settings.folder) / f"{name}.sock", awaits_migration(command)
    _require_free(control, name)
    with ExitStack() as stack:  # leaves only if QEMU cannot be started
        library = stack.enter_context(socket_for(beside(control, LIBRARY_SUFFIX), "socket"))
        monitor = stack.enter_context(socket_for(beside(control, MONITOR_SUFFIX), "monitor"))
        incoming = settings.incoming.replace("{name}", name) if holds else ""
        process = _put_beside(control, incoming, settings)
        if holds:
            _require_beside(process, control)
        for each in (library, monitor):
            os.set_inheritable(each.fileno(), True)
        _become(
            with_monitor(command, monitor.fileno()),
            environment(variables, library_path(), library.fileno(), holds=holds),
        )


def _require_free(control: Path, name: str) -> None:
    """Raise UsageError if a process is beside a domain of that name.

    That of a domain that has just ended, and is started again, ends within a moment.
    """
    from tagalong.socket_files import remove_if_stale  # noqa: PLC0415 (as above)

    until = time.monotonic() + _ENDS_S
    while not remove_if_stale(control):
        if time.monotonic() > until:
            raise UsageError(f"another process listens on {control}: is {name} running already?")
        time.sleep(_POLL_S)


def _put_beside(
    control: Path, incoming: str, settings: WrapperSettings
) -> "subprocess.Popen[bytes]":
    """Start the process beside; it ends when this process, QEMU by then, does."""
    options = ["--control", str(control)]
    if incoming:
        options += ["--incoming", incoming]
        options += ["--tls-dir", settings.tls_dir] if settings.tls_dir else []
    return subprocess.Popen(
        [sys.executable, "-m", "tagalong", "beside", "attach", *options, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _require_beside(process: "subprocess.Popen[bytes]", control: Path) -> None:
    """Wait until the process beside is ready. Raises HostError if it is not.

    A domain that arrives where its tags cannot would be held for ever.
    """
    until = time.monotonic() + _READY_S
    while not control.is_socket():
        status = process.poll()
        if status is not None or time.monotonic() > until:
            process.kill()
            why = "is not ready" if status is None else f"has ended with status {status}"
            raise HostError(
                f"QEMU was not started: the process beside it {why}; its message above says why"
            )
        time.sleep(_POLL_S)


def _become(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], list(command), dict(variables))  # noqa: S606 (as libvirt does)
    except OSError as error:
        raise HostError(f"cannot start {command[0]}: {error.strerror}") from error
