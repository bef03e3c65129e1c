"""Guests go from a host with pages of 4 KiB to one with 16 KiB and back: streams and snapshots."""

import gzip
import json
from typing import Any

import pytest

from tests.support.lab_command import lab

SCRIPT = """
mkdir /tmp/from /tmp/to && tar -xz -C /tmp/from && cd /tagalong &&
python3 -m tests.support.page_route /tmp/from /tmp/to && tar -cz -C /tmp/to .
"""
# An archive with nothing in it: tar's two blocks of zeros.
NOBODY = gzip.compress(bytes(1024))


def visit(kernel: str, guests: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """Let guests run on a host; return what was seen of each, and those that leave it."""
    run = lab("run", "-i", "--kernel", kernel, "--timeout", "600", "--", "sh", "-c", SCRIPT,
              stdin=guests, seconds=900)  # fmt: skip
    messages = run.stderr.decode()
    assert run.returncode == 0, messages
    return [json.loads(line) for line in messages.splitlines() if line[:1] == "{"], run.stdout


@pytest.mark.timeout(2700)
def test_guests_move_between_hosts_with_pages_of_different_size() -> None:
    none, leaving = visit("7.3", NOBODY)
    there, leaving = visit("7.3-16k", leaving)
    back, _ = visit("7.3", leaving)

    assert none == []
    assert [(guest["name"], guest["here"]) for guest in there] == [("born-4096", 16384)]
    assert [(guest["name"], guest["here"]) for guest in back] == [
        ("born-16384", 4096),
        ("born-4096", 4096),
    ]
    for guest in (*there, *back):
        known = guest["known"]
        assert known["page"] == int(guest["name"].removeprefix("born-"))
        expected = {"page": known["page"], "digest": known["digest"]}
        assert guest["seen"] == [expected, expected], guest["name"]
        assert guest["failures"] == []
