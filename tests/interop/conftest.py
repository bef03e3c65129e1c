"""Debuggers for the tests of cores: a test that needs one that is missing says so."""

import pytest

from tests.support.fetch_debuggers import GDB, LLDB, READELF, DebuggerMissingError


@pytest.fixture(scope="session")
def debuggers() -> None:
    """Skip what needs gdb, lldb and readelf where one of them is missing."""
    for tool in (GDB, LLDB, READELF):
        try:
            tool.find()
        except DebuggerMissingError as error:
            pytest.skip(
                f"missing {tool.program} (python -m tests.support.fetch_debuggers): {error}"
            )
