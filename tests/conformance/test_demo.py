"""The demo with its default options: it succeeds on every machine, its control experiment fails."""

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


def test_demo_without_the_tags_fails(machine_name: str) -> None:
    status, report = demo(machine_name, "--drop-tags")

    assert (status, report["verified"]) == (1, False)
    assert report["guest_failures"] != 0
