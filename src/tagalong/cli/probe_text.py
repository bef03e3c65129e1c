"""The findings of a probe in words."""

from tagalong.cli.units import wrapped
from tagalong.studies.probe import ProbeReport


def probe_report(report: ProbeReport) -> str:
    """Return what a host can do, a row for each finding."""
    width = max(len(finding.name) for finding in report.findings)
    rows = []
    for finding in report.findings:
        first = f"{finding.name:{width}}  {finding.answer.value:7}  "
        rows.append(wrapped(finding.detail or "-", first, " " * len(first)))
    return "\n".join(rows)
