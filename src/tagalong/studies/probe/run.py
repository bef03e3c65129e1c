"""The probe: everything is tried, nothing is left behind."""

from tagalong.studies.probe.findings import ProbeReport
from tagalong.studies.probe.host import host_findings
from tagalong.studies.probe.kvm import kvm_findings


def probe() -> ProbeReport:
    """Try everything and return what was found. Raises nothing for what the host lacks."""
    return ProbeReport((*host_findings(), *kvm_findings()))
