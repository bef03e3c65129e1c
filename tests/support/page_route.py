"""In the lab: guests arrive from a host with pages of another size, run, and leave again.

    python3 -m tests.support.page_route FROM TO

FROM has the guests of another host, or is empty; TO gets them, and one that began here. A guest is
a stream and a snapshot of the same moment, and what is known about it. Each runs twice: as it
arrives by its stream, and as it is restored from its snapshot.
"""

import json
import mmap
import sys
from pathlib import Path

from tagalong import migrate
from tagalong.kvm import KvmMachine
from tagalong.machine import Machine, MachineDescription, MachinePages
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.snapshot import restore, save
from tests.support.running_guest import MIB, Listener, RunningGuest

CALM = "working-set=1M write-rate=10 report=256"


class Arrival:
    """Builds the machine of a guest that arrives; what of its CPU was accepted, and its console."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.console = Listener()

    def build(self, description: MachineDescription, sources: object = None) -> Machine:
        del sources  # a file of the same moment serves both ways
        policy = CpuPolicy(allow_mismatch=True, tell=self.accepted.append)
        hear = self.console.hear
        return KvmMachine.from_description(description, policy=policy, console=hear)


def seen(machine: Machine) -> dict[str, object]:
    """Return what must be the same on the other host."""
    digest = migrate.memory_digest(MachinePages(machine), lambda: None, has_tags=True)
    return {"page": machine.description.page_size_bytes, "digest": digest.hex()}


def leave(machine: Machine, folder: Path, name: str) -> None:
    """Save a paused machine in both ways."""
    (folder / f"{name}.json").write_text(json.dumps({"host": mmap.PAGESIZE, **seen(machine)}))
    save(machine, folder / f"{name}.core")
    migrate.migrate_to(f"file:{folder / name}.stream", machine)


def begin(folder: Path) -> None:
    """Boot a guest here and let it leave."""
    guest = RunningGuest(KvmMachine.create, "churn", CALM, vcpu_count=2, ram_bytes=16 * MIB)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    guest.machine.pause()
    leave(guest.machine, folder, f"born-{mmap.PAGESIZE}")
    guest.machine.close()


def arrive(known: Path, target: Path) -> None:
    """Run the guest that `known` describes, both times, and let it leave."""
    live, saved = Arrival(), Arrival()
    listener = migrate.listen(migrate.parse_address(f"file:{known.with_suffix('.stream')}"))
    moved = migrate.receive_from(listener, live.build, take_over=lambda *_: None).machine
    restored = restore(known.with_suffix(".core"), saved.build).machine
    states = [seen(moved), seen(restored)]
    for machine, arrival in ((moved, live), (restored, saved)):
        machine.activate()
        machine.resume()
        arrival.console.wait_for("progress", 2)
        machine.pause()
    leave(moved, target, known.stem)
    lines = [*live.console.lines, *saved.console.lines]
    report = {
        "name": known.stem,
        "here": mmap.PAGESIZE,
        "known": json.loads(known.read_text()),
        "seen": states,
        "failures": [line for line in lines if "FAIL" in line],
        "accepted": live.accepted,
    }
    print(json.dumps(report), file=sys.stderr, flush=True)
    moved.close()
    restored.close()


def main(source: str, target: str) -> None:
    for known in sorted(Path(source).glob("*.json")):
        arrive(known, Path(target))
    begin(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
