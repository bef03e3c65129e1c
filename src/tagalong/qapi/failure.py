"""An error that ended a migration, a snapshot or a dump, as it travels over the control socket.

The client gets one RemoteError whatever class the VM names: a class is no more than a word there,
and making an instance of one that the peer chose would give half-made errors without the numbers
that their code expects. What decides about advice and exit status is looked up by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tagalong.errors import (
    MigrationStage,
    RemoteError,
    TagalongError,
    error_class,
    with_causes,
)
from tagalong.qapi.json_fields import JsonFields, integer, text

_STAGES = {stage.value: stage for stage in MigrationStage}
_EXIT_CODES = range(2, 100)


@dataclass(frozen=True)
class Failure:
    """Why something failed: the text for people, the error's class and exit code, its stage."""

    text: str
    class_name: str
    exit_code: int
    stage: MigrationStage | None = None

    @classmethod
    def of(cls, error: TagalongError) -> "Failure":
        """Return what the control socket says of `error`."""
        if isinstance(error, RemoteError):
            return cls(str(error), error.class_name, error.exit_code, error.stage)
        stage = getattr(error, "stage", None)
        return cls(with_causes(error), type(error).__name__, error.exit_code, stage)

    def to_qmp(self) -> Mapping[str, object]:
        """Return the members that query-migrate and query-dump have after a failure."""
        members: dict[str, object] = {
            "error-desc": self.text,
            "x-error-class": self.class_name,
            "x-exit-code": self.exit_code,
        }
        if self.stage is not None:
            members["x-error-stage"] = self.stage.value
        return members

    @classmethod
    def from_qmp(cls, members: JsonFields, unknown: type[TagalongError]) -> "Failure | None":
        """Return the failure in an answer, None if there is none. Raises ControlError.

        `unknown`: the class whose exit code counts for one that this version does not know.
        """
        if (words := members.read_optional("error-desc", text)) is None:
            return None
        name = members.read_optional("x-error-class", text) or unknown.__name__
        known = error_class(name)
        said = members.read_optional("x-exit-code", integer)
        code = (known or unknown).exit_code
        if known is None and said is not None and said in _EXIT_CODES:
            code = said
        # A stage that this version does not know is as good as none.
        stage = _STAGES.get(members.read_optional("x-error-stage", text) or "")
        return cls(words, name, code, stage)

    def to_error(self) -> RemoteError:
        """Return the error that the client raises."""
        return RemoteError(
            self.text, class_name=self.class_name, exit_code=self.exit_code, stage=self.stage
        )
