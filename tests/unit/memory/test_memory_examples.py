"""The examples in the docstrings are true."""

import doctest
from types import ModuleType

import pytest

from tagalong.memory import address, bitmap, guest_memory, region


@pytest.mark.parametrize(
    "module", [address, bitmap, guest_memory, region], ids=lambda m: m.__name__
)
def test_docstring_examples_run_as_shown(module: ModuleType) -> None:
    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0
