"""Migrate a running guest to another machine, tags included, and prove that they arrived.

Both ends are in this process, a thread each; on two hosts each runs one half.
"""

import threading

from tagalong.boot import boot_guest, guest_image_path
from tagalong.machine import MachineDescription
from tagalong.migrate import (
    Arrival,
    MigrationOptions,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.soft import SoftMachine


def build(description: MachineDescription) -> SoftMachine:
    """Make the machine that the source describes; its content arrives afterwards."""
    return SoftMachine.from_description(description)


arrivals: list[Arrival] = []
with listen(parse_address("tcp:127.0.0.1:0")) as listener:
    waiting = threading.Thread(target=lambda: arrivals.append(receive_from(listener, build)))
    waiting.start()

    source = SoftMachine.create(ram_bytes=64 << 20)
    boot_guest(source, guest_image_path("churn").read_bytes(), command_line="working-set=1M")
    source.resume()
    source.wait(0.2)

    # The guest runs until the last pages. `verify` compares digests of memory and tags.
    report = migrate_to(str(listener.address), source, MigrationOptions(verify=True))
    waiting.join()

# The source is paused and must not be resumed: the destination runs the guest now.
(arrival,) = arrivals
assert report.verified
print(f"moved in {len(report.rounds)} rounds, downtime {report.downtime.total_s * 1000:.1f} ms")
print(f"tags: {report.tag_bytes_raw} bytes, sent as {report.tag_bytes_wire}")
print(f"at the destination the guest is {arrival.machine.run_state.value}")
arrival.machine.close()
source.close()
