"""How many granules of a VM carry a tag: what x-query-tags answers."""

from dataclasses import dataclass

from tagalong.qapi.json_fields import JsonFields, integer


@dataclass(frozen=True)
class TagCensus:
    """How many granules of 16 bytes a source has, and how many of them a tag other than 0.

    Memory without tags counts in `granules` alone.
    """

    granules: int
    tagged_granules: int

    def to_qmp(self) -> dict[str, object]:
        """Return what x-query-tags answers."""
        return {"granules": self.granules, "tagged-granules": self.tagged_granules}

    @classmethod
    def from_qmp(cls, value: object) -> "TagCensus":
        """Return what x-query-tags said. Raises ControlError if it makes no sense."""
        members = JsonFields(value, "x-query-tags")
        return cls(members.read("granules", integer), members.read("tagged-granules", integer))
