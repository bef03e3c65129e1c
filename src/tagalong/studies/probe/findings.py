"""The findings of a probe: an answer per question, and what the answer rests on."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tagalong.errors import TagalongError


class Answer(Enum):
    """Whether the host can do something. UNKNOWN: it could not be tried."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class CannotTryError(Exception):
    """A trial cannot be made because something that it needs is missing; the message says what."""


@dataclass(frozen=True)
class ProbeFinding:
    """The answer to one question. `detail`: a value, or why not."""

    name: str
    answer: Answer
    detail: str


@dataclass(frozen=True)
class ProbeReport:
    """All findings, in the order in which they were tried."""

    findings: tuple[ProbeFinding, ...]

    def __getitem__(self, name: str) -> ProbeFinding:
        """Return a finding by its name. Raises KeyError."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return the report as what `json.dumps` takes; names are stable, new ones may come."""
        return {f.name: {"answer": f.answer.value, "detail": f.detail} for f in self.findings}


def attempt(name: str, trial: Callable[[], str]) -> ProbeFinding:
    """Return the finding of a trial: YES with what it returns, or why it failed."""
    try:
        return ProbeFinding(name, Answer.YES, trial())
    except CannotTryError as reason:
        return ProbeFinding(name, Answer.UNKNOWN, str(reason))
    except (TagalongError, OSError) as error:
        return ProbeFinding(name, Answer.NO, str(error))
