"""What this host can do for guests with MTE; each answer is found by trying it."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.studies.probe.beside import DEFAULT_VMM
    from tagalong.studies.probe.findings import Answer, ProbeFinding, ProbeReport
    from tagalong.studies.probe.run import probe
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.studies.probe.beside": ("DEFAULT_VMM",),
            "tagalong.studies.probe.findings": ("Answer", "ProbeFinding", "ProbeReport"),
            "tagalong.studies.probe.run": ("probe",),
        },
    )

__all__ = ["DEFAULT_VMM", "Answer", "ProbeFinding", "ProbeReport", "probe"]
