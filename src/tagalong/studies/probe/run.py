"""Runs the probe; nothing on the host changes."""

from tagalong.studies.probe.beside import DEFAULT_VMM, beside_findings
from tagalong.studies.probe.findings import ProbeReport
from tagalong.studies.probe.host import host_findings
from tagalong.studies.probe.kvm import kvm_findings


def probe(vmm: str = DEFAULT_VMM) -> ProbeReport:
    """Try everything and return the findings. What the host lacks is a finding, not an error.

    `vmm`: the QEMU that could run beside tagalong, a name on the PATH or a path.
    """
    return ProbeReport((*host_findings(), *kvm_findings(), *beside_findings(vmm)))
