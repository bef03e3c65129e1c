"""What this host can do for guests with MTE, each item found out by trying it."""

from tagalong.studies.probe.findings import Answer, Finding, Report
from tagalong.studies.probe.run import probe

__all__ = ["Answer", "Finding", "Report", "probe"]
