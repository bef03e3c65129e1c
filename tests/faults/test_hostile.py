"""A peer that means harm: every attack ends in a typed error, soon, and costs little memory."""

import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import xxhash
import zstandard

from tagalong import wire
from tagalong.migrate import UnixAddress
from tagalong.wire import NoBytes, RecordType, Role, Run, Runs
from tests.support.caller import call, greeting
from tests.support.kill_child import HURRIED
from tests.support.kill_run import Child, fork_server

RAM = 0x4000_0000
RAM_BYTES = 0x10_0000
PAGE = 4096
MACHINE = wire.MachineRecord(PAGE, 1, 3, (wire.RegionEntry(RAM, RAM_BYTES),))
STATE = wire.StateRecord(
    (wire.VcpuEntry(wire.Power.ON, {0x6030_0000_0010_0000: 0, 0x6030_0000_0013_C086: 0}),),
    {"console": b""},
)

# Above guest RAM: docs/formats/stream.md, section 5, and what Python itself takes by the way.
MOST_BYTES = 64 << 20
MOST_S = 8.0

Script = Callable[["Peer"], None]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with fork_server() as path:
        yield path


class Peer:
    """A source that knows the protocol well enough to break it."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(5)
        self.connection = wire.Connection(Role.SOURCE)
        self.sequence = 0

    def say(self, *records: wire.Record) -> None:
        for record in records:
            self.sock.sendall(b"".join(bytes(part) for part in self.connection.send(record)))
            self.sequence += 1

    def hear(self) -> wire.Record:
        while True:
            record = self.connection.next_record()
            if not isinstance(record, wire.NeedData | wire.KeepAlive):
                return record
            if isinstance(record, wire.NeedData):
                count = self.sock.recv_into(self.connection.receive_buffer())
                if not count:
                    raise EOFError
                self.connection.received(count)

    def introduce(self) -> "Peer":
        """Say HELLO and hear the answer."""
        self.say(wire.Hello(Role.SOURCE, bytes(16)))
        self.hear()
        return self

    def begin(self) -> "Peer":
        """Come as far as to where pages are sent."""
        self.introduce()
        self.say(MACHINE, STATE)
        assert isinstance(self.hear(), wire.Accept)
        return self

    def raw(self, kind: int, payload: bytes, *, length: int | None = None) -> None:
        """Send any bytes as a record, with the checksum that belongs to them."""
        size = len(payload) if length is None else length
        head = struct.pack("<HHI", kind, 0, size)
        checksum = xxhash.xxh3_64(head + payload, seed=self.sequence).intdigest()
        self.sock.sendall(head + checksum.to_bytes(8, "little") + payload)
        self.sequence += 1

    def pages(
        self, runs: Iterable[tuple[int, int]], *, data: tuple[int, bytes], tags: tuple[int, bytes]
    ) -> None:
        """Send a batch with any runs and any encodings, sealed as it should be."""
        entries = b"".join(struct.pack("<QQ", *run) for run in runs)
        head = struct.pack(
            "<HBBIII", len(entries) // 16, data[0], tags[0], len(tags[1]), len(data[1]), 0
        )
        checked = head + entries + tags[1]
        size = len(checked) + len(data[1]) + 8
        header = struct.pack("<HHI", RecordType.PAGES, 0, size)
        checksum = xxhash.xxh3_64(header + checked, seed=self.sequence).intdigest()
        sealed = checksum.to_bytes(8, "little")
        if data[1]:
            sealed += xxhash.xxh3_64(data[1]).intdigest().to_bytes(8, "little")
        seal = xxhash.xxh3_64(sealed, seed=self.sequence).intdigest()
        self.sock.sendall(header + sealed[:8] + checked + data[1] + seal.to_bytes(8, "little"))
        self.sequence += 1


def attack(server: str, script: Script, role: str = "victim") -> dict[str, object]:
    """Let `script` talk to a destination in a process of its own; return what that told."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        victim = Child(server, role, f"{folder}/in")
        try:
            victim.go()
            assert victim.answer() == {"listens": True}
            peer = Peer(f"{folder}/in")
            with peer.sock, suppress(OSError, EOFError):
                script(peer)
            answer = victim.answer()
        finally:
            victim.kill()
            victim.close()
    assert answer is not None, "the destination died"
    return answer


def silence(peer: Peer) -> None:
    peer.introduce()
    time.sleep(HURRIED.idle_s * 2)


def slow_loris_in_a_batch(peer: Peer) -> None:
    peer.begin()
    peer.raw(RecordType.PAGES, b"", length=0x10_0000)
    for _ in range(200):
        peer.sock.sendall(b"\1")
        time.sleep(HURRIED.idle_s / 4)


def endless_keepalive(peer: Peer) -> None:
    peer.introduce()
    while True:
        peer.say(wire.KeepAlive())


def half_a_state(peer: Peer) -> None:
    peer.introduce()
    peer.say(MACHINE)
    peer.raw(RecordType.STATE, bytes(30 << 20), length=32 << 20)


def huge_lengths(peer: Peer) -> None:
    peer.begin()
    peer.raw(RecordType.PAGES, b"", length=0xFFFF_FFFF)


def huge_machine(peer: Peer) -> None:
    peer.introduce()
    peer.say(wire.MachineRecord(PAGE, 1, 3, (wire.RegionEntry(0, 1 << 51),)), STATE)
    peer.hear()


def machine(*, vcpus: int = 1, regions: int = 1, devices: int = 0) -> bytes:
    head = struct.pack("<IIIIII", PAGE, vcpus, 3, regions, devices, 0)
    return head + struct.pack("<QQ", RAM, RAM_BYTES)


def many_devices(peer: Peer) -> None:
    peer.introduce()
    peer.raw(RecordType.MACHINE, machine(devices=0xFFFF_FFFF))
    peer.hear()


def many_vcpus(peer: Peer) -> None:
    peer.introduce()
    peer.raw(RecordType.MACHINE, machine(vcpus=0xFFFF_FFFF))
    peer.hear()


def many_regions(peer: Peer) -> None:
    peer.introduce()
    peer.raw(RecordType.MACHINE, machine(regions=0xFFFF_FFFF))
    peer.hear()


def tags_bomb(peer: Peer) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))
    assert len(bomb) < PAGE // 32
    peer.begin()
    peer.pages([(RAM, 1)], data=(2, b""), tags=(4, bomb))
    peer.hear()


def data_bomb(peer: Peer) -> None:
    peer.begin()
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    peer.pages([(RAM, 1)], data=(3, bomb), tags=(2, b""))
    peer.hear()


def bomb_that_lies_about_its_size(peer: Peer) -> None:
    peer.begin()
    # A frame of 64 MiB whose header says 4096: its declared size is right, its content is not.
    frame = bytearray(zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26)))
    honest = zstandard.ZstdCompressor(level=1).compress(bytes(PAGE))
    header = zstandard.frame_header_size(honest)
    old = zstandard.frame_header_size(bytes(frame))
    peer.pages([(RAM, 1)], data=(3, honest[:header] + bytes(frame[old:])), tags=(2, b""))
    peer.hear()


def outside_of_ram(peer: Peer) -> None:
    peer.begin()
    peer.pages([(RAM + RAM_BYTES, 1)], data=(2, b""), tags=(2, b""))
    peer.hear()


def address_that_wraps(peer: Peer) -> None:
    peer.begin()
    peer.pages([(RAM, 0xFFFF_FFFF_FFFF_FFFF)], data=(2, b""), tags=(2, b""))
    peer.hear()


def overlapping_runs(peer: Peer) -> None:
    peer.begin()
    peer.pages([(RAM, 2), (RAM + PAGE, 2)], data=(2, b""), tags=(2, b""))
    peer.hear()


def endless_pages(peer: Peer) -> None:
    peer.begin()
    batch = wire.Pages(Runs([Run(RAM, 256)]), (memoryview(bytes(RAM_BYTES)),), NoBytes.ZERO)
    for _ in range(400):
        peer.say(batch)


def endless_scattered_pages(peer: Peer) -> None:
    peer.begin()
    runs = Runs([Run(RAM + number * 2 * PAGE, 1) for number in range(128)])
    data = (memoryview(b"\x5a" * (128 * PAGE)),)
    for _ in range(400):
        peer.say(wire.Pages(runs, data, memoryview(b"\x21" * (128 * PAGE // 32))))


ATTACKS: dict[Script, str] = {
    silence: "the peer sent nothing for 0.5 s",
    slow_loris_in_a_batch: "its time is up",
    endless_keepalive: "its time is up",
    half_a_state: "the stream ends in",
    huge_lengths: "0xffffffff",
    huge_machine: "more than --max-ram allows (64 MiB)",
    many_vcpus: "vcpu_count",
    many_regions: "region_count",
    many_devices: "0xffffffff devices",
    tags_bomb: "declare 0x100000 bytes, not 0x80",
    data_bomb: "compressed data declare 0x4000000 bytes, not 0x1000",
    bomb_that_lies_about_its_size: "compressed data cannot be decompressed",
    outside_of_ram: "0x40100000",
    address_that_wraps: "a run of 0xffffffffffffffff pages",
    overlapping_runs: "where the run before it ends",
    endless_pages: "the stream ends in COPYING",
    endless_scattered_pages: "the stream ends in COPYING",
}
ABOUT_TIME = {silence, slow_loris_in_a_batch, endless_keepalive}


@pytest.mark.parametrize("script", ATTACKS, ids=lambda script: script.__name__)
def test_attack_ends_in_a_typed_error_soon_and_costs_little_memory(
    server: str, script: Script
) -> None:
    answer = attack(server, script, "victim" if script in ABOUT_TIME else "patient victim")

    assert not answer["started"]
    assert answer["error"] in {"MigrationError", "MachineMismatchError"}, answer
    assert answer["cause"] in {"RemoteProtocolError", "HostError", "NoneType"}, answer
    assert ATTACKS[script] in str(answer["text"])
    assert isinstance(answer["took_s"], float)
    assert answer["took_s"] < MOST_S
    assert isinstance(answer["grew_bytes"], int)
    assert answer["grew_bytes"] < RAM_BYTES * 33 // 32 + MOST_BYTES, answer
    print(f"{script.__name__}: {answer}")


# What a source says before COMMIT, and how many answers it waits for after each record.
SAID: list[tuple[wire.Record, int]] = [
    (wire.Hello(Role.SOURCE, bytes(16)), 1),
    (MACHINE, 0),
    (STATE, 1),
    (wire.Pages(Runs([Run(RAM, 4)]), NoBytes.ZERO, NoBytes.ZERO), 0),
    (wire.Round(1, 4), 1),
    (wire.Pages(Runs([Run(RAM, 1)]), (memoryview(b"\x5a" * PAGE),), NoBytes.ZERO), 0),
    (STATE, 0),
    (wire.Prepare(), 1),
]
WAYS = [SAID[:count] for count in range(1, len(SAID) + 1)] + [[*SAID[:-1], (wire.Verify(), 0)]]
FLOODS_AT_ONCE = 6


def keep_alive_after(said: list[tuple[wire.Record, int]], pause_s: float) -> Script:
    def script(peer: Peer) -> None:
        for record, answers in said:
            peer.say(record)
            for _ in range(answers):
                if isinstance(peer.hear(), wire.Abort):
                    return  # on a busy host its hurried limits can pass before it got this far
        while True:
            peer.raw(RecordType.KEEPALIVE, b"")
            time.sleep(pause_s)

    return script


@pytest.mark.parametrize("pause_s", [0.0, 0.05], ids=["flood", "drip"])
def test_keepalives_instead_of_any_record_end_the_wait_and_start_nothing(
    server: str, pause_s: float
) -> None:
    # The first word is HELLO: what comes instead of it only costs a peer its place.
    with ThreadPoolExecutor(FLOODS_AT_ONCE) as pool:
        scripts = [keep_alive_after(said, pause_s) for said in WAYS]
        answers = list(pool.map(lambda script: attack(server, script), scripts))

    for said, answer in zip(WAYS, answers, strict=True):
        where = f"after {said[-1][0].type.name}: {answer}"
        assert not answer["started"], where
        assert answer["error"] == "MigrationError", where
        assert isinstance(answer["took_s"], float)
        assert answer["took_s"] < MOST_S + 10, where


STRAYS = {
    "silent": b"",
    "half a hello": greeting()[:-1],
    "noise": bytes(range(256)) * 4096,
    "a state": greeting()[:16] + struct.pack("<HHIQ", RecordType.STATE, 0, 32 << 20, 0),
}
STRAY_COUNT = 64
STRAYS_MOST_BYTES = 4 << 20


@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS)
def test_stray_peers_before_the_source_cost_little_and_the_source_is_heard(
    server: str, stray: bytes
) -> None:
    with tempfile.TemporaryDirectory(prefix="ta-") as folder, ExitStack() as stack:
        victim = stack.enter_context(closing(Child(server, "victim", f"{folder}/in")))
        stack.callback(victim.kill)
        victim.go()
        assert victim.answer() == {"listens": True}
        for _ in range(STRAY_COUNT):
            peer_before = stack.enter_context(call(UnixAddress(Path(folder) / "in")))
            peer_before.setblocking(False)
            peer_before.send(stray)  # as much as the socket takes
        began = time.monotonic()
        peer = Peer(f"{folder}/in")
        stack.enter_context(peer.sock)
        peer.introduce()
        waited_s = time.monotonic() - began
        peer.say(wire.Abort(wire.AbortReason.CANCELLED, "that was all"))
        answer = victim.answer()

    assert answer is not None, "the destination died"
    assert "the peer ended the migration (CANCELLED): that was all" in str(answer["text"])
    assert isinstance(answer["grew_bytes"], int)
    assert answer["grew_bytes"] < STRAYS_MOST_BYTES, answer
    assert waited_s < MOST_S
    assert not answer["started"]
