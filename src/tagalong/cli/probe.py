"""`tagalong probe`: what this host can do."""

import json

import click

from tagalong.cli.probe_text import probe_report
from tagalong.studies.probe import DEFAULT_VMM, probe

_EPILOG = """\b
Examples:
  tagalong probe
  tagalong probe --vmm /opt/qemu/bin/qemu-system-aarch64
  tagalong probe --json | jq .copy_tags_both_ways.answer
\b
Exit status: 0, whatever the answers are.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--vmm",
    default=DEFAULT_VMM,
    show_default=True,
    metavar="PROGRAM",
    help="The QEMU that could run beside tagalong.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, vmm: str, as_json: bool) -> None:
    """Say what this host can do for guests with MTE; each answer is found by trying it.

    Nothing on the host changes. An answer is yes, no, or unknown if it could not be tried.
    """
    report = probe(vmm)
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else probe_report(report))
