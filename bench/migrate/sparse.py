"""A large guest that has used little of its RAM: how long, and how much memory at both ends."""

import multiprocessing
import resource
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from tagalong.migrate import MigrationOptions, listen, migrate_to, parse_address, receive_from
from tagalong.soft import SoftMachine

_SPAWN = multiprocessing.get_context("spawn")
_KIB = 1 << 10


@dataclass(frozen=True)
class SparseSample:
    """`grown` are the peaks of both processes above what they had before, in bytes."""

    ram_bytes: int
    used_bytes: int
    seconds: float
    source_grown_bytes: int
    destination_grown_bytes: int


def migrate_sparse(ram_bytes: int, used_bytes: int) -> SparseSample:
    """Migrate a guest of `ram_bytes` that has used `used_bytes`, spread out evenly."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_send, args=(theirs, ram_bytes, used_bytes))
    process.start()
    with listen(parse_address("tcp:127.0.0.1:0")) as listener:
        before = _peak_bytes()
        ours.send(str(listener.address))
        arrival = receive_from(listener, SoftMachine.from_description)
        grown = _peak_bytes() - before
        arrival.machine.close()
    seconds, source_grown = ours.recv()
    process.join()
    return SparseSample(ram_bytes, used_bytes, seconds, source_grown, grown)


def _send(peer: Connection, ram_bytes: int, used_bytes: int) -> None:
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    (region,) = machine.memory.regions
    stretch = 1 << 20
    starts = np.linspace(0, ram_bytes - stretch, used_bytes // stretch).astype(np.int64)
    for start in (starts // stretch * stretch).tolist():
        region.raw_data[start : start + stretch] = 0x5A
    uri = peer.recv()
    before, began = _peak_bytes(), time.perf_counter()
    migrate_to(uri, machine, MigrationOptions())
    peer.send((time.perf_counter() - began, _peak_bytes() - before))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
