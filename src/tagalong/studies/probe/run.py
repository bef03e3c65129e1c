"""Runs the probe; nothing on the host changes."""

from tagalong.studies.probe.beside import beside_findings
from tagalong.studies.probe.findings import ProbeReport
from tagalong.studies.probe.host import host_findings
from tagalong.studies.probe.kvm import kvm_findings


def probe() -> ProbeReport:
    """Try everything and return the findings. What the host lacks is a finding, not an error."""
    return ProbeReport((*host_findings(), *kvm_findings(), *beside_findings()))
