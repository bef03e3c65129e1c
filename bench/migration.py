"""A migration of random RAM and tags to another process, and a plain copy of the same bytes.

The plain copy is what two Python processes reach with sendall and recv_into over loopback,
without checksums, tags or any protocol, into memory that is just as untouched.
"""

import mmap
import multiprocessing
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from tagalong.migrate import (
    MigrationOptions,
    listen,
    migrate_to,
    parse_address,
    receive_from,
)
from tagalong.soft import SoftMachine

_BATCH_BYTES = 1 << 20
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Sample:
    """One migration and one plain copy, one after the other."""

    migration_gb_per_s: float
    plain_gb_per_s: float
    downtime_ms: float
    tags_share: float

    @property
    def ratio(self) -> float:
        """Return the migration's rate as a share of the plain copy's."""
        return self.migration_gb_per_s / self.plain_gb_per_s


def _receive_machine(ready: Connection) -> None:
    with listen(parse_address("tcp:127.0.0.1:0")) as listener:
        ready.send(str(listener.address))
        arrival = receive_from(listener, SoftMachine.from_description)
        arrival.machine.close()


def _receive_bytes(ready: Connection, size_bytes: int) -> None:
    target = memoryview(mmap.mmap(-1, size_bytes))
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready.send(server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            done = 0
            while done < size_bytes:
                done += peer.recv_into(target[done : done + _BATCH_BYTES])
            peer.sendall(b"!")


def _random_machine(ram_bytes: int) -> SoftMachine:
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    region = machine.memory.regions[0]
    random = np.random.default_rng(1)
    region.data[:] = np.frombuffer(random.bytes(region.data.size), np.uint8)
    region.tags[:] = np.frombuffer(random.bytes(region.tags.size), np.uint8)
    return machine


def _migrate(machine: SoftMachine) -> tuple[float, float, float]:
    """Return the rate in GB/s, the downtime in ms and the tags' share of the data."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_receive_machine, args=(theirs,))
    process.start()
    uri = ours.recv()
    began = time.perf_counter()
    report = migrate_to(uri, machine, MigrationOptions())
    duration = time.perf_counter() - began
    process.join()
    figures = report.to_json()
    wire, data = figures["tag_bytes_wire"], figures["data_bytes"]
    assert isinstance(wire, int)
    assert isinstance(data, int)
    return data / duration / 1e9, report.downtime.total_s * 1e3, wire / data


def _copy(machine: SoftMachine) -> float:
    """Return the rate in GB/s of sending the data plane and nothing else."""
    data = machine.memory.regions[0].data
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_receive_bytes, args=(theirs, data.size))
    process.start()
    port = ours.recv()
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for offset in range(0, data.size, _BATCH_BYTES):
            sock.sendall(data[offset : offset + _BATCH_BYTES].data)
        sock.recv(1)
    duration = time.perf_counter() - began
    process.join()
    return data.size / duration / 1e9


def measure(ram_bytes: int) -> Sample:
    """Migrate a fresh machine and copy as much; both destinations start untouched."""
    machine = _random_machine(ram_bytes)
    plain = _copy(machine)
    rate, downtime_ms, tags_share = _migrate(machine)
    machine.close()
    return Sample(rate, plain, downtime_ms, tags_share)
