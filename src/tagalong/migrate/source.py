"""The source of a migration: sends a machine away, and keeps it if anything fails.

    copy        rounds of pages while the guest runs, until little enough remains
    stop        the guest stands; its last pages and its state follow
    verify      on request: both ends' digests are compared
    hand over   PREPARE, READY, COMMIT, RUNNING

Up to COMMIT every failure ends with the guest going on here. COMMIT gives up the right to
run: after it only the destination's ABORT brings the guest back, and silence is
HandoverUncertainError (docs/formats/stream.md, section 8, names every moment).
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from tagalong import wire
from tagalong.errors import (
    DigestMismatchError,
    HandoverUncertainError,
    HostError,
    MigrationCancelledError,
    MigrationError,
    RunStateError,
    TagalongError,
    UsageError,
)
from tagalong.machine import Machine, RunState
from tagalong.memory import PageBitmap
from tagalong.migrate.channel import Channel
from tagalong.migrate.convergence import Estimate
from tagalong.migrate.digest import memory_digest
from tagalong.migrate.link import Link, Timeouts
from tagalong.migrate.page_sender import PageSender, Tally
from tagalong.migrate.report import (
    DowntimeParts,
    MigrationReport,
    Progress,
    RoundReport,
    Stage,
)
from tagalong.migrate.translate import record_of_description, record_of_state
from tagalong.mte import PACKED_RATIO
