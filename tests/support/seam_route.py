"""In the lab: a Linux guest that an embedded machine sent into a file runs on KVM, and goes back.

    python3 -m tests.support.seam_route FILE WORDS

Each machine runs until its console shows a line with WORDS; the guest leaves KVM while it runs.
What the machines are in between is printed, a JSON object a line.
"""

import json
import sys

from tagalong import migrate
from tagalong.kvm import KvmMachine
from tagalong.machine import Clock, Machine, MachineDescription
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.soft import SoftMachine
from tests.support.move import move
from tests.support.running_guest import Listener
from tests.support.seen_state import seen_state


class Stop:
    """A machine on the guest's way, from its arrival on."""

    def __init__(self, kind: type[KvmMachine] | type[SoftMachine]) -> None:
        self._kind = kind
        self._accepted: list[str] = []
        self.console = Listener()

    def build(self, description: MachineDescription) -> Machine:
        policy = CpuPolicy(allow_mismatch=True, tell=self._accepted.append)
        return self._kind.from_description(description, policy=policy, console=self.console.hear)

    def take_over(self, machine: Machine, ran: bool) -> None:
        machine.activate()
        report("arrived", ran=ran, accepted=self._accepted, **seen_state(machine))
        if isinstance(machine, SoftMachine):
            machine.use_clock(Clock.HOST)  # an interpreter on an emulator: seconds are too long
        machine.resume()

    def run(self, words: str) -> None:
        self.console.wait_for(words, 1, seconds=600)


def report(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def main(file: str, words: str) -> None:
    kvm, soft = Stop(KvmMachine), Stop(SoftMachine)
    listener = migrate.listen(migrate.parse_address(f"file:{file}"))
    there = migrate.receive_from(listener, kvm.build, take_over=kvm.take_over).machine
    kvm.run(words)
    # What both report has a digest, so the migration need not compare another one.
    options = migrate.MigrationOptions(max_downtime_s=60.0)
    here = move(there, soft.build, options, take_over=soft.take_over)
    report("left", console=kvm.console.lines, **seen_state(there))
    soft.run(words)
    here.pause()
    report("ran", console=soft.console.lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
