"""Errors without a class of ours, in a thread that works on a VM."""

import pytest

from tagalong.errors import HostError, MigrationError
from tagalong.vmm.bugs import unexpected


def test_what_the_host_lacks_is_a_host_error(caplog: pytest.LogCaptureFixture) -> None:
    cases = {
        "the host refused: not enough memory": MemoryError(),
        "the host refused: File name too long": OSError(36, "File name too long"),
    }

    for words, error in cases.items():
        found = unexpected(error)
        assert (type(found), str(found), found.__cause__) == (HostError, words, error)
    assert caplog.text == ""


def test_anything_else_is_a_bug_that_is_logged_and_fails_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = unexpected(ZeroDivisionError("oops"))

    assert (type(found), str(found)) == (MigrationError, "internal error: ZeroDivisionError: oops")
    assert "bug in tagalong, please report it" in caplog.text
