"""The figures that are guarded; the worker measures them with what every release has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guarded:
    """One figure: what the worker calls it, what people do, and the worst accepted ratio."""

    key: str
    name: str
    unit: str
    bound: float


GUARDED = (
    Guarded("move_2048", "2 GiB over 2 connections", "GB/s", 0.95),
    Guarded("move_256", "0.25 GiB over 1 connection", "GB/s", 0.93),
    Guarded("fixed", "migration of an idle guest, 64 MiB", "ms", 1.10),
    Guarded("dump", "dump of 0.5 GiB, tmpfs", "GB/s", 0.95),
    Guarded("restore", "restore to the first instruction", "ms", 1.10),
    Guarded("info", "tagalong info FILE", "s", 1.10),
)
"""A rate may be 5 % lower, a time of milliseconds 10 % longer, noise besides."""
