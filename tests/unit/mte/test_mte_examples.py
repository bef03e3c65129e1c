"""The examples in the docstrings are true."""

import doctest
from types import ModuleType

import pytest

from tagalong.mte import checks, pointers, registers, tags, version


@pytest.mark.parametrize(
    "module", [checks, pointers, registers, tags, version], ids=lambda m: m.__name__
)
def test_docstring_examples_run_as_shown(module: ModuleType) -> None:
    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0
