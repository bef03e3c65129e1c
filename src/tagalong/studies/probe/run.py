"""The probe: everything is tried, nothing is left behind."""

from tagalong.studies.probe.findings import Report
from tagalong.studies.probe.host import host_findings
from tagalong.studies.probe.kvm import kvm_findings


def probe() -> Report:
    """Try everything and return what was found. Raises nothing for what the host lacks."""
    return Report((*host_findings(), *kvm_findings()))
