"""passt, the program that gives a guest the network of an ordinary user of the host.

It is started with one end of a socket pair, and ends when the other end is closed. So it never
outlives this process, however that ends.
"""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Final

from tagalong.devices.virtio.link import StreamFrames
from tagalong.errors import HostError

_PROGRAM: Final = "passt"
_END_TIMEOUT_S: Final = 2.0
_MAX_WORDS: Final = 500


class PasstFrames(StreamFrames):
    """Frames over a passt of our own; the connection breaks when it ends."""

    def __init__(
        self, connected: socket.socket, process: subprocess.Popen[bytes], words: IO[bytes]
    ) -> None:
        super().__init__(connected)
        self._process = process
        self._words = words

    def read(self) -> memoryview:
        """As FrameChannel.read; says why passt ended if it did."""
        try:
            return super().read()
        except ConnectionResetError as error:
            raise ConnectionResetError(error.errno, f"passt ended{self._last_words()}") from error

    def close(self) -> None:
        """Close the socket, which ends passt. Safe to call twice."""
        super().close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    def _last_words(self) -> str:
        self._words.seek(0)
        text = self._words.read(_MAX_WORDS).decode(errors="replace").strip()
        return f": {text}" if text else ""


def start_passt(name: str, arguments: Sequence[str] = ()) -> PasstFrames:
    """Start passt for the network card `name` and connect to it.

    Raises HostError if the host has no passt, or cannot start it.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise HostError(
            f"network {name!r} of kind user needs the program passt, which is not here: install "
            "it (Debian: apt install passt), or give --net unix:PATH or --net tap:NAME"
        )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    words = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
    command = (program, "--foreground", "--quiet", "--fd", str(theirs.fileno()), *arguments)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # an interrupt from the terminal is for this process
        )
    except OSError as error:
        ours.close()
        words.close()
        raise HostError(f"cannot start {program}: {error.strerror}") from error
    finally:
        theirs.close()
    return PasstFrames(ours, process, words)
