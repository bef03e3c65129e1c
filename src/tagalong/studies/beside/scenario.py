"""Migrates a Linux guest of an unmodified QEMU, again and again, and asks it how it is."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tagalong.control.migration import migrate_vm
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.reports import MigrationResult, VmmReport
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.beside.host import NOTHING_YET, BesideHost, Progress, QemuGuest


@dataclass(frozen=True)
class BesideDemoOptions:
    """What to show. `migrations` in a row, each to a new QEMU; `timeout_s` for each wait."""

    guest: QemuGuest
    migrations: int = 1
    drop_tags: bool = False
    max_downtime_ms: int = 300
    timeout_s: float = 300.0


@dataclass(frozen=True)
class BesideDemoObserver:
    """Where the demo says what it does, and how far a migration is."""

    step: Callable[[str], None]
    progress: Callable[[MigrationInfo], None]


@dataclass
class BesideDemoReport:
    """What was seen: the migrations, the guest's last words before and after, its failures."""

    tags_dropped: bool
    migrations: list[MigrationResult] = field(default_factory=list)
    before: Progress = NOTHING_YET
    after: Progress = NOTHING_YET
    failures: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Return whether the guest ran on at the last destination, and missed nothing."""
        return not self.failures and self.after.checked > self.before.checked

    @property
    def median_own_downtime_ms(self) -> float:
        """Return the VMM's own downtime, without what tags added."""
        return median(each.own_downtime_ms for each in self._vmms) if self._vmms else 0.0

    @property
    def median_tags_ms(self) -> float:
        """Return what tags added to it."""
        return median(each.tags_ms for each in self._vmms) if self._vmms else 0.0

    @property
    def _vmms(self) -> list[VmmReport]:
        return [each.vmm for each in self.migrations if each.vmm is not None]

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes. Keys are stable; new ones may come."""
        return {
            "tags_dropped": self.tags_dropped,
            "migrations": [each.to_json() for each in self.migrations],
            "checked_before": self.before.checked,
            "checked_after": self.after.checked,
            "changed_after": self.after.changed,
            "guest_failure_lines": list(self.failures),
            "median_own_downtime_ms": self.median_own_downtime_ms,
            "median_tags_ms": self.median_tags_ms,
            "succeeded": self.succeeded,
        }


async def run_beside_demo(
    options: BesideDemoOptions, observer: BesideDemoObserver
) -> BesideDemoReport:
    """Run the demo. Raises MachineError if a QEMU does not start, and as `migrate_vm`."""
    report = BesideDemoReport(options.drop_tags)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tagalong-beside-")))
        observer.step("starting QEMU and its Linux guest; a process in it lives on its tags")
        here = BesideHost(options.guest, folder, "host-0")
        stack.callback(here.stop)
        await here.wait_for_reports(2, options.timeout_s)

        def next_host(number: int) -> BesideHost:
            host = BesideHost(options.guest, folder, f"host-{number}", awaits=True)
            stack.callback(host.stop)
            return host

        there = next_host(1)
        for number in range(1, options.migrations + 1):
            await _move(here, there, options, observer, report)
            before, here = here, there
            before.stop()
            if number < options.migrations:  # it starts while the guest is looked at
                there = next_host(number + 1)
            await _look_at(here, options, report)
            report.failures = (*before.failures, *here.failures)
            if report.failures:
                break
    return report


async def _move(
    here: BesideHost,
    there: BesideHost,
    options: BesideDemoOptions,
    observer: BesideDemoObserver,
    report: BesideDemoReport,
) -> None:
    await there.wait_until(
        lambda: "waiting for tags" in there.messages, "waited for tags", options.timeout_s
    )
    report.before = here.progress[-1] if here.progress else NOTHING_YET
    observer.step(f"migrating it to {there.name}, while it changes its tags")
    request = MigrationRequest(
        there.tags_uri,
        settings=MigrationSettings(downtime_limit=options.max_downtime_ms),
        drop_tags=options.drop_tags,
        vmm_uri=there.vmm_uri,
    )
    report.migrations.append(await migrate_vm(here.control, request, observer.progress))


async def _look_at(here: BesideHost, options: BesideDemoOptions, report: BesideDemoReport) -> None:
    """Wait until the guest has checked every granule since it moved, or has failed."""
    seen = here.guest.granules

    def has_seen_all() -> bool:
        progress = here.progress
        has_checked = len(progress) > 1 and progress[-1].checked - progress[0].checked >= seen
        return has_checked or bool(here.failures)

    what = f"checked all of its {seen} granules since it moved"
    await here.wait_until(has_seen_all, what, options.timeout_s)
    if here.progress:
        report.after = here.progress[-1]
