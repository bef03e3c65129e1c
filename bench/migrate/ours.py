"""A migration to a process that waits, its memory reserved."""

import multiprocessing
import time
from multiprocessing.connection import Connection

from bench.migrate.guest import TAGS_SHARE, Planes
from bench.migrate.sample import Sample
from tagalong.memory.reserve import reserve
from tagalong.migrate import (
    MigrationOptions,
    TlsCredentials,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.soft import SoftMachine

_SPAWN = multiprocessing.get_context("spawn")


def guest(content: Planes) -> SoftMachine:
    """Return a machine with that content; its guest is idle."""
    machine = SoftMachine.create(ram_bytes=content.ram_bytes)
    (region,) = machine.memory.regions
    content.fill(region.raw_data)
    content.fill_tags(region.raw_tags)
    return machine


def migrate(machine: SoftMachine, options: MigrationOptions, *, ready: bool = True) -> Sample:
    """Migrate a copy of `machine` away; it stays here and may be migrated again."""
    ours, theirs = _SPAWN.Pipe()
    ram_bytes = machine.description.ram_bytes
    process = _SPAWN.Process(target=_receive, args=(theirs, ram_bytes if ready else 0, options.tls))
    process.start()
    uri = ours.recv()
    cpu_s, began = time.process_time(), time.perf_counter()
    report = migrate_to(uri, machine, options)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    destination_cpu_s = ours.recv()
    process.join()
    return Sample(
        ram_bytes,
        seconds,
        cpu_s,
        destination_cpu_s,
        downtime_ms=report.downtime.total_s * 1e3,
        tag_bytes=sum(each.tag_bytes_wire for each in report.rounds),
        data_bytes=sum(each.data_bytes_wire for each in report.rounds),
    )


def _receive(ready: Connection, ram_bytes: int, tls: TlsCredentials | None) -> None:
    if ram_bytes:
        reserve(ram_bytes, lambda: False)
        reserve(ram_bytes // TAGS_SHARE, lambda: False)
    with listen(parse_address("tcp:127.0.0.1:0"), tls=tls) as listener:
        ready.send(str(listener.address))
        cpu_s = time.process_time()
        arrival = receive_from(listener, SoftMachine.from_description)
        ready.send(time.process_time() - cpu_s)
        arrival.machine.close()
