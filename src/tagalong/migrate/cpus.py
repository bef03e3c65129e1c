"""How many connections are right for a migration, and where their threads run."""

import os


def usable_cpus() -> int:
    """Return how many processors this thread may use."""
    return len(os.sched_getaffinity(0))
