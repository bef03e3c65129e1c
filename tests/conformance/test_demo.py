"""The demo with its default options succeeds on every machine.

Its control experiment, without the tags, is in tests/demo; test_migration has it on every machine.
"""

import json

from tests.support.vm_processes import tagalong


def demo(machine: str, *options: str) -> tuple[int, dict[str, object]]:
    """Run the demo and return its exit status and its report."""
    result = tagalong("demo", "--machine", machine, "--json", *options, timeout_s=240)
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return result.returncode, report


def test_demo_moves_the_guest_and_nothing_fails(machine_name: str) -> None:
    status, report = demo(machine_name)

    assert (status, report["verified"], report["guest_failures"]) == (0, True, 0)
