"""Migrates a machine to a destination that lies, and judges how that ends."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tagalong.errors import HandoverUncertainError, MigrationCancelledError, MigrationError
from tagalong.machine import RunState
from tagalong.migrate import MigrationOptions, MigrationReport, Timeouts, migrate_to
from tests.support.fake_machine import RAM, FakeMachine, describe
from tests.support.liar import Conduct, Liar, Moment

HURRIED = Timeouts(connect_s=1.0, idle_s=0.5, record_s=1.0, answer_s=1.5, farewell_s=0.2)
"""Times after which a migration ends by itself."""

PATIENT = Timeouts(connect_s=60.0, idle_s=60.0, record_s=60.0, answer_s=60.0, farewell_s=0.2)
"""Times so long that only a cancellation ends a migration."""

# All waits between two steps of a source, and what a busy host adds to them.
MOST_S = HURRIED.answer_s + HURRIED.record_s + HURRIED.idle_s + 14.0
_AT_ONCE = 12


@dataclass
class Lie:
    """A migration to a liar, and how it ended."""

    moment: Moment
    conduct: Conduct
    cancels: bool = False
    reconnect_s: int = 1
    cuts_every_round: bool = False
    was_reached: bool = False
    reached_at: float = 0.0
    took_s: float = 0.0
    stopped_s: float = 0.0
    state: RunState | None = None
    report: MigrationReport | None = None
    error: Exception | None = None
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = ", cancelled" if self.cancels else ""
        return f"{self.conduct.value} instead of {self.moment.value}{more}"

    def tell(self, folder: Path) -> "Lie":
        """Migrate to the liar."""
        machine = Watched()
        cancel = threading.Event()

        def reached() -> None:
            if not self.was_reached:
                self.was_reached, self.reached_at = True, time.monotonic()
                if self.cancels:
                    threading.Timer(0.1, cancel.set).start()

        path = folder / f"{id(self)}"
        is_channel = self.moment in (Moment.CHANNEL, Moment.END)
        liar = Liar(
            path, self.moment, self.conduct,
            reached=reached, cuts_every_round=self.cuts_every_round,
        )  # fmt: skip
        options = MigrationOptions(
            max_downtime_s=5.0,
            verify=True,
            channels=2 if is_channel else 1,
            reconnect_s=self.reconnect_s if liar.breaks else 0,
            timeouts=PATIENT if self.cancels else HURRIED,
        )
        began = time.monotonic()
        with liar:
            try:
                self.report = migrate_to(f"unix:{path}", machine, options, cancel=cancel)
            except Exception as error:  # noqa: BLE001 (judged later)
                self.error = error
            self.took_s = time.monotonic() - (self.reached_at or began)
        self.state, self.stopped_s = machine.run_state, machine.stopped_s
        machine.close()
        return self

    def judge(self) -> None:
        """Complain about all that is not as promised."""
        if not self.was_reached:
            self.complaints.append("the moment never came")
        if self.took_s > MOST_S:
            self.complaints.append(f"took {self.took_s:.1f} s, {MOST_S:.1f} s are allowed")
        if self.stopped_s > MOST_S:
            self.complaints.append(f"the guest was stopped for {self.stopped_s:.1f} s")
        self.complaints += self._judge_end()

    def _judge_end(self) -> list[str]:
        if self.moment is Moment.END:
            is_moved = self.report is not None and self.state is RunState.PAUSED
            return [] if is_moved else [f"no success: {self.error!r}"]
        if not isinstance(self.error, MigrationError):
            return [f"ended with {self.error!r}"]
        is_uncertain = isinstance(self.error, HandoverUncertainError)
        expected = self.moment is Moment.RUNNING and self.conduct is not Conduct.ABORT
        if is_uncertain != expected:
            return [f"ended with {self.error!r}"]
        if (self.state is RunState.PAUSED) != expected:
            return [f"the guest is {self.state} after {self.error!r}"]
        is_cancelled = isinstance(self.error, MigrationCancelledError)
        if self.cancels and not expected and not is_cancelled:
            return [f"cancelled, and ended with {self.error!r}"]
        return []


class Watched(FakeMachine):
    """A machine that knows for how long its guest was stopped."""

    def __init__(self) -> None:
        self.stopped_s = 0.0
        self._stopped_at = 0.0
        super().__init__(
            describe(0x2_0000),
            guest=lambda it: it.guest_write(RAM + 0x1000, b"again", tags=b"\x12"),
        )
        self.memory.regions[0].raw_data[:0x8000] = 0x5A
        self.resume()

    def pause(self) -> None:
        self._stopped_at = time.monotonic()
        super().pause()

    def resume(self) -> None:
        if self._stopped_at:
            self.stopped_s = max(self.stopped_s, time.monotonic() - self._stopped_at)
        super().resume()


def judged(lies: list[Lie], folder: Path) -> str:
    """Tell all lies, several at once; return what is wrong."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        told = list(pool.map(lambda lie: lie.tell(folder), lies))
    for lie in told:
        lie.judge()
    return "\n".join(f"{lie}: {text}" for lie in told for text in lie.complaints)
