"""The speed of two Python processes with send and recv_into, into populated memory."""

import mmap
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from bench.migrate.sample import Sample

_BATCH_BYTES = 1 << 20
_SPAWN = multiprocessing.get_context("spawn")


def copy(data: NDArray[np.uint8], connections: int) -> Sample:
    """Copy `data` to another process over so many TCP connections."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_receive, args=(theirs, data.size, connections))
    process.start()
    port = ours.recv()
    cpu_s, began = time.process_time(), time.perf_counter()
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    _in_threads(_send, list(zip(socks, _parts(data, connections), strict=True)))
    for sock in socks:
        sock.recv(1)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    for sock in socks:
        sock.close()
    sample = Sample(data.size, seconds, cpu_s, ours.recv())
    process.join()
    return sample


def _parts(data: NDArray[np.uint8], count: int) -> list[memoryview]:
    return [part.data for part in np.array_split(data, count)]


def _in_threads(function: Callable[..., None], arguments: Sequence[tuple[object, ...]]) -> None:
    threads = [threading.Thread(target=function, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(sock: socket.socket, data: memoryview) -> None:
    for offset in range(0, len(data), _BATCH_BYTES):
        sock.sendall(data[offset : offset + _BATCH_BYTES])


def _receive(ready: Connection, size_bytes: int, connections: int) -> None:
    target = np.frombuffer(mmap.mmap(-1, size_bytes, mmap.MAP_SHARED), np.uint8)
    target[:: mmap.PAGESIZE] = 1
    with socket.create_server(("127.0.0.1", 0)) as server:
        ready.send(server.getsockname()[1])
        socks = [server.accept()[0] for _ in range(connections)]
    cpu_s = time.process_time()
    _in_threads(_fill, list(zip(socks, _parts(target, connections), strict=True)))
    ready.send(time.process_time() - cpu_s)


def _fill(sock: socket.socket, target: memoryview) -> None:
    with sock:
        done = 0
        while done < len(target):
            done += sock.recv_into(target[done : done + _BATCH_BYTES])
        sock.sendall(b"!")
