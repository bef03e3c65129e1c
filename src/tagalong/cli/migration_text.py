"""The report of a migration in words."""

from collections.abc import Iterator

from tagalong.cli.units import count, ms, rate, row, size, wrapped
from tagalong.machine import AccessChoice
from tagalong.migrate import DowntimeParts, MigrationReport
from tagalong.qapi.reports import MigrationResult, VmmReport


def migration_report(result: MigrationResult, uri: str) -> str:
    """Return what happened, what was sent, and where the downtime went."""
    report = result.report
    dirty_rate = rate(report.dirty_rate_bytes_per_s)
    if report.throttle_percent:
        dirty_rate += f", slowed down by {report.throttle_percent} %"
    lines = [
        wrapped(_outcome(report, uri)),
        "",
        *traffic(report),
        row("throughput", rate(report.throughput_bytes_per_s)),
        row("dirty rate", dirty_rate),
        *_downtime(report.downtime, "downtime" if result.vmm is None else "last tags"),
        *vmm_rows(result.vmm),
        verified(report),
        *access(result.access),
    ]
    return "\n".join(lines)


def vmm_rows(vmm: VmmReport | None) -> list[str]:
    """Return rows on the VMM's own migration, if we drove one."""
    if vmm is None:
        return []
    own_ms, tags_ms = vmm.own_downtime_ms, vmm.tags_ms
    share = f" ({tags_ms / own_ms:.0%} more)" if own_ms else ""
    return [
        row("VMM", f"{size(vmm.transferred_bytes)} in {ms(vmm.total_ms / 1000)}"),
        row("downtime", f"{ms(vmm.downtime_ms / 1000)} of the guest"),
        row("", f"the VMM's own {ms(own_ms / 1000)}, for tags {ms(tags_ms / 1000)}{share}"),
    ]


def _outcome(report: MigrationReport, uri: str) -> str:
    if report.one_way:
        state = "runs" if report.was_running else "stays paused"
        return (
            f"The VM is in {uri} and {state} once that is loaded (tagalong run --incoming). "
            "Load it once only."
        )
    return f"The VM has moved to {uri} and {'runs there' if report.was_running else 'is paused'}."


def traffic(report: MigrationReport) -> list[str]:
    """Return rows on memory, data and tags."""
    tags = f"{size(report.tag_bytes_raw)}, sent as {size(report.tag_bytes_wire)}"
    if report.tags_dropped:
        tags = f"{size(report.tag_bytes_raw)}, DROPPED"
    if report.tags_in_place:
        tags = "none sent: the destination has them in place"
    rounds = count(len(report.rounds), "round")
    return [
        row("memory", f"{size(report.ram_bytes)} of RAM, sent in {rounds}"),
        row("data", f"{size(report.data_bytes)}, sent as {size(report.data_bytes_wire)}"),
        row("tags", tags),
    ]


def _downtime(downtime: DowntimeParts, name: str) -> Iterator[str]:
    parts = {
        "stop": downtime.stop_s,
        "last pages": downtime.last_pages_s,
        "last tags": downtime.last_tags_s,
        "state": downtime.state_s,
        "digest": downtime.digest_s,
        "commit": downtime.commit_s,
        "start": downtime.start_s,
    }
    yield row(name, ms(downtime.total_s))
    yield row("", ", ".join(f"{name} {ms(value)}" for name, value in parts.items() if value))


def verified(report: MigrationReport) -> str:
    """Return the row that says whether digests were compared."""
    if report.verified:
        return row("verified", "digests of all memory and tags are equal on both sides")
    return row("verified", "no digests were compared")


def access(choice: AccessChoice | None) -> list[str]:
    """Return a row on the access strategy, if one was asked for."""
    return [] if choice is None else [row("access", f"{choice.name} ({choice.reason})")]
