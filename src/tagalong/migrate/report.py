"""What a migration costs, as values: while it runs (SendProgress) and at its end (reports)."""

from dataclasses import asdict, dataclass

from tagalong.errors import MigrationStage
from tagalong.mte import PACKED_RATIO

_MS = 1000.0


@dataclass(frozen=True)
class SendProgress:
    """A moment of a migration. `throughput_bytes_per_s` and what follows is None until measured.

    `pages_remaining` are those of the round under way. Rates are in bytes of guest RAM.
    `throttle_percent` is the share of the time in which the guest is paused to slow it down.
    """

    stage: MigrationStage
    round_number: int
    ram_bytes: int
    pages_sent: int
    pages_remaining: int
    bytes_remaining: int
    bytes_sent: int
    throughput_bytes_per_s: float | None = None
    dirty_rate_bytes_per_s: float | None = None
    expected_downtime_s: float | None = None
    throttle_percent: int = 0
    page_size_bytes: int = 4096

    @property
    def step(self) -> object:
        """As progress.Moment."""
        return self.stage, self.round_number


@dataclass(frozen=True)
class RoundReport:
    """One pass over the pages to send; the guest is paused for the last one.

    `data_bytes` is the size of the pages, `data_bytes_wire` what was sent for them; likewise for
    tags. `dirty_pages_left` is what the guest had changed when the round was over.
    """

    number: int
    pages: int
    data_bytes: int
    data_bytes_wire: int
    tag_bytes_raw: int
    tag_bytes_wire: int
    duration_s: float
    dirty_pages_left: int


@dataclass(frozen=True)
class DowntimeParts:
    """Where the downtime went, in seconds; the parts add up to it.

    stop: until the guest was paused and its last changes were known. last_pages: sending those.
    last_tags: reading their tags out of the machine. state: registers and devices. digest: both
    ends' digests. commit: from PREPARE to READY, in which the destination finishes receiving, and
    until all data are on the disks and these are unlocked.
    start: from COMMIT to RUNNING.
    """

    stop_s: float = 0.0
    last_pages_s: float = 0.0
    last_tags_s: float = 0.0
    state_s: float = 0.0
    digest_s: float = 0.0
    commit_s: float = 0.0
    start_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Return the downtime."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class MigrationReport:
    """A migration that succeeded, as its source saw it.

    `tags_dropped`: all tags were sent as zero on purpose (the control experiment). `was_running`:
    the guest runs at the destination; otherwise it was paused and stays so. `throttle_percent`: how
    much the guest was slowed down. `one_way`: it went into a file, a command or a pipe.
    `tags_in_place`: nothing was sent, as the destination had the tags: they were compared.
    """

    migration_id: str
    ram_bytes: int
    rounds: tuple[RoundReport, ...]
    downtime: DowntimeParts
    duration_s: float
    bytes_sent: int
    throughput_bytes_per_s: float
    dirty_rate_bytes_per_s: float
    was_running: bool
    tags_dropped: bool
    throttle_percent: int = 0
    one_way: bool = False
    tags_in_place: bool = False
    source_digest: str | None = None
    destination_digest: str | None = None

    @property
    def verified(self) -> bool:
        """Return whether equal digests were compared."""
        return self.source_digest is not None and self.source_digest == self.destination_digest

    @property
    def data_bytes(self) -> int:
        """Return the data of all pages sent; a page sent twice counts twice."""
        return sum(each.data_bytes for each in self.rounds)

    @property
    def tag_bytes_raw(self) -> int:
        """Return the packed tags of all pages sent: 1/32 of the data."""
        return self.data_bytes // PACKED_RATIO

    @property
    def data_bytes_wire(self) -> int:
        """Return the bytes that the data took on the wire."""
        return sum(each.data_bytes_wire for each in self.rounds)

    @property
    def tag_bytes_wire(self) -> int:
        """Return the bytes that the tags took on the wire."""
        return sum(each.tag_bytes_wire for each in self.rounds)

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes. Keys are stable; new ones may come."""
        return {
            "migration_id": self.migration_id,
            "verified": self.verified,
            "source_digest": self.source_digest,
            "destination_digest": self.destination_digest,
            "tags_dropped": self.tags_dropped,
            "was_running": self.was_running,
            "one_way": self.one_way,
            "tags_in_place": self.tags_in_place,
            "rounds": len(self.rounds),
            "ram_bytes": self.ram_bytes,
            "pages": sum(each.pages for each in self.rounds),
            "data_bytes": self.data_bytes,
            "data_bytes_wire": self.data_bytes_wire,
            "tag_bytes_raw": self.tag_bytes_raw,
            "tag_bytes_wire": self.tag_bytes_wire,
            "bytes_sent": self.bytes_sent,
            "throughput_bytes_per_s": self.throughput_bytes_per_s,
            "dirty_rate_bytes_per_s": self.dirty_rate_bytes_per_s,
            "throttle_percent": self.throttle_percent,
            "duration_ms": self.duration_s * _MS,
            "downtime_ms": self.downtime.total_s * _MS,
            "downtime_parts_ms": {
                name.removesuffix("_s"): value * _MS
                for name, value in asdict(self.downtime).items()
            },
            "round_details": [
                {
                    **{name: value for name, value in asdict(each).items() if name != "duration_s"},
                    "duration_ms": each.duration_s * _MS,
                }
                for each in self.rounds
            ],
        }
