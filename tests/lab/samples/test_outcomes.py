"""Tests with every possible outcome, the last of which takes the machine with it."""

import time
from pathlib import Path

import pytest


def test_passes() -> None:
    assert Path("/dev/kvm").exists()


def test_fails() -> None:
    assert 1 + 1 == 3


def test_is_skipped() -> None:
    pytest.skip("for a reason")


@pytest.mark.xfail(strict=True)
def test_fails_as_expected() -> None:
    raise AssertionError


@pytest.fixture
def broken() -> None:
    raise RuntimeError("a broken fixture")


@pytest.mark.usefixtures("broken")
def test_has_a_broken_fixture() -> None:
    pass


def test_loses_the_machine() -> None:
    Path("/proc/sysrq-trigger").write_text("c")
    time.sleep(60)


def test_comes_too_late() -> None:
    pass
