"""Boots the lab's machine, relays its input and output, and reports how it ended.

A result from the lab is a result or none. PID 1 in the lab writes the command's exit status to
a virtio port of its own, with the number of bytes it wrote to the other ports; the run ends when
all of them have arrived. A machine that ends without that report was lost, whatever else it
printed: an error of its own, neither a pass nor a failure of the command.
"""

import io
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket, socketpair

from tagalong.errors import LabError, LabTimeoutError, LostMachineError, UsageError
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.qemu import EmulatorOptions, Qemu, Wiring, command_line
from tagalong.lab.relay import Relay, Sink
from tagalong.lab.tools import ending_with_us

_OWN_FILES = ("init.sh", "granules.py")
_TERMINAL = "terminal"
_COUNTED = ("stdout", "stderr")
_SHOWN_LINES = 60
_CHUNK_BYTES = 1 << 30

# RAM holds the archive and its unpacked files, and the kernel gives half of RAM to the root.
_RAM_PER_ROOT = 4
_END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LabImage:
    """Everything that a machine is booted from: an emulator, a kernel, cpio archives."""

    qemu: Qemu
    kernel: Path
    archives: tuple[Path, ...]


@dataclass(frozen=True)
class Streams:
    """The sinks of a command's output, and the descriptor of its input, if any."""

    stdout: Sink
    stderr: Sink
    stdin_fd: int | None = None


@dataclass(frozen=True)
class Terminal:
    """The host's terminal, in raw mode, to which a shell in the lab is connected."""

    input_fd: int
    output: Sink
    columns: int = 80
    lines: int = 24
    kind: str = "dumb"


def run(system: LabImage, script: str, options: EmulatorOptions, streams: Streams) -> int:
    """Boot, run the shell script `script`, and return its exit status.

    Its output goes to `streams` as it arrives. Raises LostMachineError if the machine ends
    without a status, LabTimeoutError if it exceeds `options.timeout_s`, LabError if QEMU does
    not start. In every case the machine has ended.
    """
    with _Boot(system, options, {"lab/command": script}) as boot:
        boot.add_output("stdout", streams.stdout)
        boot.add_output("stderr", streams.stderr)
        if streams.stdin_fd is not None:
            boot.relay.add_input(streams.stdin_fd, boot.port("stdin"))
        boot.start()
        return boot.status()


def shell(system: LabImage, options: EmulatorOptions, terminal: Terminal) -> int:
    """Boot, connect `terminal` to a shell, and return the shell's exit status.

    Raises as `run` does, and KeyboardInterrupt at Ctrl-].
    """
    script = (
        f"stty columns {terminal.columns} rows {terminal.lines}\n"
        f"export TERM={shlex.quote(terminal.kind)} PS1='lab:\\w# '\nexec busybox sh\n"
    )
    with _Boot(system, options, {"lab/shell": script}) as boot:
        boot.add_output(_TERMINAL, terminal.output)
        boot.relay.add_input(terminal.input_fd, boot.port(_TERMINAL))
        boot.start()
        return boot.status()


class _Boot:
    """One machine, from its wiring to its end. Leaving the `with` block kills it."""

    def __init__(
        self, system: LabImage, options: EmulatorOptions, files: Mapping[str, str]
    ) -> None:
        self._system = system
        self._options = options
        self._files = files
        self._ends: dict[str, tuple[socket, socket]] = {}
        self._status = bytearray()
        self._received: dict[str, int] = {}
        self._stack = ExitStack()
        self.relay = Relay()

    def __enter__(self) -> "_Boot":
        self._stack.callback(self.relay.close)
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tagalong-lab-"))
        self._console = Path(folder, "console")
        self._complaints = self._stack.enter_context(tempfile.TemporaryFile())
        self.add_output("status", self._status.extend)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def port(self, name: str) -> socket:
        """Return the host's end of the port `name`."""
        if name not in self._ends:
            pair = socketpair(AF_UNIX, SOCK_STREAM)
            for end in pair:
                self._stack.callback(end.close)
            self._ends[name] = pair
        return self._ends[name][0]

    def add_output(self, name: str, sink: Sink) -> None:
        """Call `sink` with the bytes that the machine writes to the port `name`."""
        self._received[name] = 0

        def count(data: bytes) -> None:
            self._received[name] += len(data)
            sink(data)

        self.relay.add_output(self.port(name), count)

    def start(self) -> None:
        """Start QEMU, which inherits the machine's ends of the ports."""
        self._check_ram()
        theirs = {name: pair[1] for name, pair in self._ends.items()}
        ports = {name: end.fileno() for name, end in theirs.items()}
        terminal = ports.pop(_TERMINAL, None)
        files = {**self._files, "lab/ports": "\n".join(ports)}
        with _initrd(self._system.archives, files) as initrd:
            wiring = Wiring(
                self._system.kernel, f"/proc/self/fd/{initrd}", self._console, ports, terminal
            )
            command = command_line(self._system.qemu, self._options, wiring)
            self._process = self._launch(
                command, (initrd, *(end.fileno() for end in theirs.values()))
            )
        for end in theirs.values():
            end.close()

    def _check_ram(self) -> None:
        root_bytes = sum(archive.stat().st_size for archive in self._system.archives)
        if self._options.ram_bytes < root_bytes * _RAM_PER_ROOT:
            raise UsageError(
                f"cannot boot the lab with {self._options.ram_bytes >> 20} MiB of RAM: its root "
                f"file system takes {root_bytes} bytes and needs {_RAM_PER_ROOT} times as many; "
                "give more with --ram"
            )

    def status(self) -> int:
        """Relay bytes until the machine reports a status, and return it."""
        deadline = time.monotonic() + self._options.timeout_s
        while not self._is_complete():
            if self.relay.is_over:
                raise self._lost()
            if not self.relay.turn(deadline - time.monotonic()):
                raise LabTimeoutError(
                    f"the lab's machine had no result within {self._options.timeout_s:g} s",
                    console=self._console_text(),
                )
        return int(self._status.split()[0])

    def _is_complete(self) -> bool:
        """Return True if the status has arrived, and all output written before it.

        "7 300 20" is status 7 after 300 bytes to stdout and 20 to stderr. Those bytes may
        arrive later than the status, because each port is a queue of its own.
        """
        if not self._status.endswith(b"\n"):
            return False
        # A shell on a terminal reports a status without counts.
        written = dict(zip(_COUNTED, map(int, self._status.split()[1:]), strict=False))
        return all(self._received[name] >= count for name, count in written.items())

    def _launch(
        self, command: Sequence[str], descriptors: Sequence[int]
    ) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            ending_with_us(command),
            stdin=subprocess.DEVNULL, stdout=self._complaints, stderr=self._complaints,
            pass_fds=descriptors,
            # The terminal's Ctrl-C must not reach QEMU; this process ends it.
            start_new_session=True,
        )  # fmt: skip
        self._stack.callback(_end, process)
        return process

    def _lost(self) -> LabError:
        """Return the error for a machine that ended without a result."""
        status = self._process.wait(_END_TIMEOUT_S)
        console = self._console_text()
        if status > 0 and not console:
            return LabError(f"QEMU did not start: {self._complaint()}")
        how = f"; QEMU ended with status {status}: {self._complaint()}" if status else ""
        return LostMachineError(f"the lab's machine ended without a result{how}", console=console)

    def _console_text(self) -> str:
        try:
            text = self._console.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-_SHOWN_LINES:])

    def _complaint(self) -> str:
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()
        return said.splitlines()[-1] if said else "it printed no message"


@contextmanager
def _initrd(archives: Sequence[Path], files: Mapping[str, str]) -> Iterator[int]:
    """Yield a memfd with all archives concatenated, so that no file needs cleaning up."""
    descriptor = os.memfd_create("initrd")
    try:
        for archive in archives:
            with archive.open("rb") as source:
                while os.sendfile(descriptor, source.fileno(), None, _CHUNK_BYTES):
                    pass
        os.write(descriptor, _own_archive(files))
        yield descriptor
    finally:
        os.close(descriptor)


def _own_archive(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    writer = CpioWriter(buffer)
    for name in _OWN_FILES:
        data = Path(__file__).with_name(name).read_bytes()
        writer.add_file("init" if name == "init.sh" else f"lab/{name}", data, permissions=0o755)
    for path, text in files.items():
        writer.add_file(path, text.encode())
    writer.close()
    return buffer.getvalue()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
