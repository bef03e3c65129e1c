"""Words for people; no output here, so that every text can be tested."""

from tagalong.errors import TagalongError
from tagalong.vmm.causes import with_causes


def error_line(error: TagalongError) -> str:
    """Return one line: what failed, then each cause that adds something."""
    return f"tagalong: error: {with_causes(error)}"
