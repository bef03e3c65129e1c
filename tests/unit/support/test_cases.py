"""The loop over cases inside a test: nothing that fails is lost, and no empty table passes."""

import pytest

from tests.support.cases import check_each


def test_check_each_calls_the_check_with_every_case() -> None:
    seen: list[int] = []

    check_each([1, 2, 3], seen.append)

    assert seen == [1, 2, 3]


def test_check_each_with_failures_goes_on_and_names_each() -> None:
    def check(number: int) -> None:
        assert number % 2 == 0

    with pytest.raises(pytest.fail.Exception) as caught:
        check_each(range(5), check, lambda number: f"case-{number}")

    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 5 cases fail"
    assert [line.split(":")[0] for line in lines if line.startswith("case-")] == [
        "case-1", "case-3",
    ]  # fmt: skip


def test_check_each_with_an_exception_that_never_comes_fails() -> None:
    def check(_: int) -> None:
        with pytest.raises(ValueError, match="never"):
            pass

    with pytest.raises(pytest.fail.Exception, match="1 of 1 cases fail"):
        check_each([1], check)


def test_check_each_with_many_failures_shows_ten_and_counts_the_rest() -> None:
    def check(_: int) -> None:
        raise ValueError("planted")

    with pytest.raises(pytest.fail.Exception) as caught:
        check_each(range(25), check)

    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert "ValueError: planted" in lines[1]
    assert lines[-1] == "... and 15 more"


def test_check_each_without_cases_fails() -> None:
    with pytest.raises(AssertionError, match="there are no cases"):
        check_each([], lambda _: None)
