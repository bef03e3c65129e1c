"""The passt processes of this host, and what keeps each of them in."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NOBODY = 65534

_NAME = "passt"
_NAMESPACES = ("user", "mnt", "ipc", "uts", "pid")


@dataclass(frozen=True)
class PasstProcess:
    """A passt: `apart` are its namespaces that are not ours, `sees` the files at its root."""

    user: int
    capabilities: int
    apart: frozenset[str]
    sees: tuple[str, ...]

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return what the process `pid` is allowed."""
        folder = Path("/proc", str(pid))
        words = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        return cls(
            user=int(words["Uid"].split()[1]),
            capabilities=int(words["CapEff"], 16),
            apart=frozenset(
                name for name in _NAMESPACES
                if os.readlink(folder / "ns" / name) != os.readlink(f"/proc/self/ns/{name}")
            ),
            sees=tuple(os.listdir(folder / "root")),
        )  # fmt: skip


def passt_processes(parent: int) -> list[PasstProcess]:
    """Return those that `parent` has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
        except OSError:  # it has ended
            continue
        name, _, rest = status.partition("(")[2].rpartition(")")
        if name.startswith(_NAME) and int(rest.split()[1]) == parent:
            found.append(PasstProcess.of(int(folder.name)))
    return found
