"""Runs a VMM three times, inside the lab: alone, under our library, and under it beside a process.

    python -m tests.support.library_run PROGRAM

Prints what the VMM prints after a line `=== NAME`. Fails if the VMM does not end as it should, or
if the library does not serve a VMM that is beside us, or serves one that is not.
"""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tagalong.beside.command import environment, library_path
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import VmFlag
from tagalong.errors import HostError

# What tests/programs/vmm ends with.
_STATUS = 42


def run(program: str, name: str, variables: dict[str, str], *descriptors: int) -> None:
    done = subprocess.run(
        [program, program, str(library_path())],
        env=variables, pass_fds=descriptors, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    print(f"=== {name}\n{done.stdout}", end="", flush=True)
    assert done.returncode == _STATUS, f"{name}: {done.returncode}, {done.stderr}"


class Client(threading.Thread):
    """Asks the library for all that it knows, again and again, while the VMM runs.

    For registers the vCPUs are kept out of the guest, which the VMM must not notice, either.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.flags = VmFlag(0)
        self.answers = self.registers = 0

    def run(self) -> None:
        try:
            link = LibraryLink(self._path)
            while True:
                state = link.state()
                link.slots(state.page_bytes)
                link.start_log()
                link.stop_log()
                with suppress(HostError):  # refused while a vCPU is in the guest
                    link.read_registers(0)
                    self.registers += 1
                self.flags |= state.flags
                self.answers += 1
        except HostError:  # the VMM has ended
            return


def main(program: str) -> None:
    preloaded = {**os.environ, "LD_PRELOAD": str(library_path())}
    run(program, "plain", dict(os.environ))
    run(program, "preloaded", preloaded)
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "kvm"
        listener.bind(str(path))
        listener.listen(4)
        client = Client(path)
        client.start()
        number = listener.fileno()
        run(program, "beside", environment(os.environ, library_path(), number, holds=False), number)
        listener.close()
        client.join()
    assert client.flags & VmFlag.HAS_VM, client.flags
    assert client.flags & VmFlag.HAS_MTE, client.flags
    assert client.answers > 1, client.answers
    assert client.registers > 1, client.registers


if __name__ == "__main__":
    main(sys.argv[1])
