"""What this host can do for guests with MTE; each answer is found by trying it."""

from tagalong.studies.probe.findings import Answer, ProbeFinding, ProbeReport
from tagalong.studies.probe.run import probe

__all__ = ["Answer", "ProbeFinding", "ProbeReport", "probe"]
