"""One migration, or copy, measured."""

from dataclasses import dataclass

Figures = dict[str, float | int | None]
"""The medians of a contestant, by name."""


@dataclass(frozen=True)
class Sample:
    """`seconds` from the order until the destination has all; processor time of both ends.

    `data_bytes` and `tag_bytes`: of pages, as they were sent. `wire_bytes`: all of guest RAM with
    its tags, where they cannot be told apart.
    """

    ram_bytes: int
    seconds: float
    source_cpu_s: float
    destination_cpu_s: float
    downtime_ms: float | None = None
    tag_bytes: int | None = None
    data_bytes: int | None = None
    wire_bytes: int | None = None

    @property
    def gb_per_s(self) -> float:
        """Return guest RAM a second, in 1e9 bytes."""
        return self.ram_bytes / self.seconds / 1e9

    @property
    def cpu_s_per_gib(self) -> float:
        """Return the processor time of both ends for each GiB of guest RAM."""
        return (self.source_cpu_s + self.destination_cpu_s) / (self.ram_bytes / (1 << 30))
