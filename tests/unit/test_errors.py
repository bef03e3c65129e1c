"""Errors with their causes, in one line."""

from tagalong.errors import HostError, MigrationError, with_causes


def chained(error: Exception, *causes: Exception) -> Exception:
    inner: Exception = error
    for cause in causes:
        inner.__cause__ = cause
        inner = cause
    return error


def test_with_causes_alone_is_the_text() -> None:
    assert with_causes(MigrationError("no route")) == "no route"


def test_with_causes_adds_what_each_cause_adds() -> None:
    error = chained(MigrationError("no route"), HostError("connect"), OSError(111, "refused"))

    assert with_causes(error) == "no route: connect: [Errno 111] refused"


def test_with_causes_repeats_nothing() -> None:
    error = chained(MigrationError("cannot connect: refused"), ConnectionError("refused"))

    assert with_causes(error) == "cannot connect: refused"


def test_with_causes_is_one_line_and_never_empty() -> None:
    assert with_causes(chained(MigrationError("a\nb"), EOFError())) == "a b: EOFError"


def test_with_causes_does_not_repeat_what_the_system_said() -> None:
    cause = FileNotFoundError(2, "No such file or directory", "/x")
    error = chained(MigrationError("/x: cannot be opened: No such file or directory"), cause)

    assert with_causes(error) == "/x: cannot be opened: No such file or directory"
