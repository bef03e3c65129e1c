"""Long work reports how far it is and learns when to stop; one way for migrations and files."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from tagalong.errors import TagalongError

_REPORT_EVERY_S: Final = 0.1


class Moment(Protocol):
    """How far the work is, as a frozen dataclass."""

    @property
    def step(self) -> object:
        """Return what is reported at once when it changes: a stage, a round."""
        ...


MomentT = TypeVar("MomentT", bound=Moment)

ProgressCallback: TypeAlias = Callable[[MomentT], None]
"""Called with each moment that is reported, in the thread that does the work."""


class CancelToken(Protocol):
    """Tells whether the work is to be cancelled; a threading.Event is one."""

    def is_set(self) -> bool:
        """Return whether it is."""
        ...


class Monitor(Generic[MomentT]):
    """Holds the present `moment`; reports each new step at once, and else ten times a second.

    `cancelled` makes the error that ends the work once `cancel` is set.
    """

    def __init__(
        self,
        moment: MomentT,
        callback: ProgressCallback[MomentT] | None,
        cancel: CancelToken | None,
        cancelled: Callable[[], TagalongError],
    ) -> None:
        self.moment = moment
        self._callback = callback
        self._cancel = cancel
        self._cancelled = cancelled
        self._due = 0.0

    def check_cancelled(self) -> None:
        """Raise the error of cancelled work if `cancel` is set."""
        if self._cancel is not None and self._cancel.is_set():
            raise self._cancelled()

    def note(self, **changed: object) -> None:
        """Change fields of the moment; report nothing and raise nothing."""
        self.moment = replace(self.moment, **changed)  # type: ignore[type-var]

    def update(self, **changed: object) -> None:
        """Change fields of the moment and report it if that is due.

        Raises as `check_cancelled`, with nothing changed, and what the callback raises.
        """
        self.check_cancelled()
        before = self.moment
        self.note(**changed)
        now = time.monotonic()
        if self._callback is not None and (self.moment.step != before.step or now >= self._due):
            self._due = now + _REPORT_EVERY_S
            self._callback(self.moment)
