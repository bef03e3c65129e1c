"""What is wanted to be fast, and how fast: the rows of the table of `python -m bench.speed`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a row measures, and what is wanted of it, in words."""

    what: str
    wanted: str


GOALS = {
    1: Goal(
        "2 GiB of random RAM and tags, to QEMU's best of plain, multifd 2 and 4",
        "≥ 1.5 with either congestion control",
    ),
    2: Goal("2 GiB, to plain copies over 1 / 2 / 4 connections", "≥ 0.9 everywhere"),
    3: Goal("0.25 GiB, to plain copies over 1 / 2 / 4 connections", "≥ 0.85"),
    4: Goal(
        "fixed cost of a migration (64 MiB, mostly untouched)", "≤ 5 ms; idle downtime ≤ 1.5 ms"
    ),
    5: Goal("processor time per GiB, to QEMU's best", "≤ 0.7"),
    6: Goal(
        "TLS 1.3 over 1 / 4 connections, to QEMU with tls-creds and multifd",
        "≥ 1.3; ≥ 0.5 of the rate without TLS",
    ),
    7: Goal(
        "files and snapshots, to QEMU's mapped-ram with multifd 2, to cp, and back",
        "≥ 1.3 of QEMU, ≥ 1.0 of cp; loading ≥ 1.0",
    ),
    8: Goal(
        "zstd, to QEMU's multifd-zstd at the same level, RAM of a Linux guest",
        "≥ 1.2 at no worse ratio",
    ),
    9: Goal("coding of tags, to the kernel's run-length scheme", "smaller, and not slower"),
    10: Goal("restore to the first guest instruction", "≤ 1 ms"),
    11: Goal("64 GiB guest that used 64 MiB", "≤ 0.08 s, ≤ 32 MiB beyond what was used"),
    12: Goal("start of `tagalong --help` and `info FILE`", "≤ 0.15 s"),
    13: Goal(
        "race explorer, digest, census, check of 4 GiB",
        "memory bandwidth where all is read, else independent of size",
    ),
}
