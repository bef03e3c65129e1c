"""Our coding of tags and the kernel's, over the same pages, in turn."""

import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.rows import Figure, Row
from bench.tags import heaps
from bench.tags.heaps import PAGE_TAG_BYTES
from tagalong._native import library

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = Path(__file__).with_name("peer.c")
_BATCH_BYTES = (64 << 20) // 32  # the tags of the largest batch of the stream
_LEAST_NS = 50e6
_LEAST_PAGES = 1024  # or the calls from Python would be what is measured


@dataclass(frozen=True)
class Result:
    """What one coding takes: bytes and nanoseconds per page."""

    bytes_a_page: float
    encode_ns: float
    decode_ns: float


class Ours:
    """Runs of tags, batch by batch: docs/formats/stream.md."""

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        self._batches = np.array_split(packed, range(_BATCH_BYTES, packed.size, _BATCH_BYTES))
        # Where runs do not pay, the tags themselves are sent.
        self._out = [np.empty(each.size + 16, np.uint8) for each in self._batches]
        self._sizes: list[int] = []
        self.decoded = [np.empty_like(each) for each in self._batches]

    def encode(self) -> int:
        """Encode all; return bytes."""
        self._sizes = [
            library().ta_tag_runs_encode(packed.ctypes.data, packed.size, out.ctypes.data, out.size)
            for packed, out in zip(self._batches, self._out, strict=True)
        ]
        return sum(
            size if size > 0 else each.size
            for size, each in zip(self._sizes, self._batches, strict=True)
        )

    def decode(self) -> None:
        """Decode what was encoded."""
        place = ctypes.c_uint64()
        for size, out, packed in zip(self._sizes, self._out, self.decoded, strict=True):
            library().ta_tag_runs_decode(
                out.ctypes.data, size, packed.ctypes.data, packed.size, ctypes.byref(place)
            )


class Kernels:
    """The kernel's scheme, page by page."""

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        self._library = ctypes.CDLL(str(_built()))
        self._library.peer_compress.restype = ctypes.c_size_t
        self._packed, self._pages = packed, ctypes.c_size_t(packed.size // PAGE_TAG_BYTES)
        self._out = np.empty(packed.size, np.uint8)
        self._sizes = np.empty(self._pages.value, np.uint8)
        self.decoded = [np.empty_like(packed)]

    def encode(self) -> int:
        """Encode all; return bytes."""
        size: int = self._library.peer_compress(
            _at(self._packed), self._pages, _at(self._out), _at(self._sizes)
        )
        return size

    def decode(self) -> None:
        """Decode what was encoded."""
        self._library.peer_decompress(
            _at(self._out), _at(self._sizes), self._pages, _at(self.decoded[0])
        )


def _at(array: NDArray[np.uint8]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _built() -> Path:
    """Return the peer as a library, compiled as ours is. Raises SystemExit if it cannot be."""
    target = _ROOT / "build" / "bench" / "peer.so"
    if not target.exists() or target.stat().st_mtime < _SOURCE.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}.so")
        flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fno-sanitize=all"]
        command = [sys.executable, "-m", "ziglang", "cc", *flags, str(_SOURCE), "-o", str(made)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"cannot compile {_SOURCE}")
        made.rename(target)  # two at a time may make it
    return target


def measure(packed: NDArray[np.uint8], runs: int) -> tuple[Result, Result]:
    """Return what ours and the kernel's take for the tags of whole pages; medians of `runs`.

    Times are those of copies of a heap that has few pages. Raises SystemExit if one of them does
    not give the tags back.
    """
    pages = packed.size // PAGE_TAG_BYTES
    sizes = [each(packed).encode() / pages for each in (Ours, Kernels)]
    packed = np.tile(packed, -(-_LEAST_PAGES // pages))
    pages = packed.size // PAGE_TAG_BYTES
    contestants = (Ours(packed), Kernels(packed))
    for each in contestants:
        each.encode()
        each.decode()
        if not np.array_equal(np.concatenate(each.decoded), packed):
            raise SystemExit(f"{type(each).__name__}: the tags are not those that were encoded")
    actions = [action for each in contestants for action in (each.encode, each.decode)]
    samples = [[_ns(action) / pages for action in actions] for _ in range(runs)]
    ours_encode, ours_decode, kernel_encode, kernel_decode = map(
        statistics.median, zip(*samples, strict=True)
    )
    return (
        Result(sizes[0], ours_encode, ours_decode),
        Result(sizes[1], kernel_encode, kernel_decode),
    )


def _ns(action: Callable[[], object]) -> float:
    """Return what one call takes, of as many as take long enough to be measured."""
    times, began = 0, time.perf_counter_ns()
    while (passed := time.perf_counter_ns() - began) < _LEAST_NS:
        action()
        times += 1
    return passed / times


def rows(runs: int) -> Sequence[Row]:
    """Return the row of tags."""
    figures: list[Figure] = []
    for name, pages in (
        ("churn", heaps.churn()), ("crash", heaps.crash()), ("Linux", heaps.linux()),
    ):  # fmt: skip
        ours, kernels = measure(pages, runs)
        for what, unit, mine, theirs in (
            ("bytes", "bytes per page", ours.bytes_a_page, kernels.bytes_a_page),
            ("encoding", "ns per page", ours.encode_ns, kernels.encode_ns),
            ("decoding", "ns per page", ours.decode_ns, kernels.decode_ns),
        ):
            figures += (
                Figure(f"{name}, {what}", mine / theirs, at_most=1.0),
                Figure("ours", mine, unit),
                Figure("kernel's", theirs, unit),
            )
    how = (
        "pages that have tags, of churn's heap, of a crash of a small program, of a Linux guest "
        f"with a heap tagged by glibc; both in C, in turn, medians of {runs} runs"
    )
    return [Row(9, tuple(figures), how)]
