"""What an operator asks of a snapshot or a dump."""

from dataclasses import dataclass

from tagalong.core import Space
from tagalong.errors import UsageError


@dataclass(frozen=True)
class SaveOptions:
    """What the operator asks for. Raises UsageError for what makes no sense.

    `space`: what the core is keyed by; a snapshot that can be restored is PHYSICAL. `vcpu`:
    whose tables are walked for another space. `live`: let the guest run until little enough
    is left to be written in `max_downtime_s`. `compress`: write the compressed form, after the
    guest went on. `overwrite`: replace a file of that name.
    """

    space: Space = Space.PHYSICAL
    vcpu: int = 0
    live: bool = False
    max_downtime_s: float = 0.3
    compress: bool = False
    overwrite: bool = True

    def __post_init__(self) -> None:
        if self.live and self.space is not Space.PHYSICAL:
            raise UsageError(
                "a live dump of virtual addresses is not possible: the guest changes its tables"
            )
        if not self.max_downtime_s >= 0:
            raise UsageError(f"a downtime of {self.max_downtime_s} s is not possible")
