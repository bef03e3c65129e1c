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

    assert with_causes(error) == "no route: connect: refused"


def test_with_causes_repeats_nothing() -> None:
    error = chained(MigrationError("cannot connect: refused"), ConnectionError("refused"))

    assert with_causes(error) == "cannot connect: refused"


def test_with_causes_is_one_line_and_never_empty() -> None:
    assert with_causes(chained(MigrationError("a\nb"), EOFError(), TimeoutError())) == "a b"
    assert with_causes(MigrationError()) == "MigrationError"


def test_with_causes_does_not_repeat_what_the_system_said() -> None:
    cause = FileNotFoundError(2, "No such file or directory", "/x")
    error = chained(MigrationError("/x: cannot be opened: No such file or directory"), cause)

    assert with_causes(error) == "/x: cannot be opened: No such file or directory"


def test_with_causes_names_the_file_and_not_the_number_of_a_system_error() -> None:
    error = chained(MigrationError("cannot save"), FileNotFoundError(2, "No such file", "/x\x1b"))

    assert with_causes(error) == "cannot save: No such file: /x\ufffd"


def test_with_causes_shows_nothing_that_steers_a_terminal() -> None:
    hostile = "A\x1b[31mB\u202eC\u2028D\x9bE\ud800"
    shown = "A\ufffd[31mB\ufffdC\ufffdD\ufffdE\ufffd"

    assert with_causes(MigrationError(hostile)) == shown
    assert with_causes(chained(MigrationError("no"), ValueError(hostile))) == f"no: {shown}"
    assert with_causes(chained(MigrationError(f"no: {shown}"), ValueError(hostile))) == (
        f"no: {shown}"
    )


def test_with_causes_does_not_repeat_a_long_cause_that_was_quoted_in_part() -> None:
    cause = ValueError("x" * 10_000)
    error = chained(MigrationError(f"no: {cause}"), cause)

    assert with_causes(error) == f"no: {'x' * 4092}..."
