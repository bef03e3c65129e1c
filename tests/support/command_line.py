"""The command line in this process, with what it prints."""

import pytest

from tagalong.cli.app import invoke


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `tagalong ARGUMENTS`; return its status, its standard output and its errors."""
    status = invoke([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err
