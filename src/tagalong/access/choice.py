"""All strategies, and the choice of the best that works."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tagalong.access.alias import Alias
from tagalong.access.host import Host, Need
from tagalong.access.ioctl import Ioctl
from tagalong.access.kernel import Kernel
from tagalong.access.match import Match
from tagalong.access.names import ACCESS_NAMES, AUTO, IOCTL_REASON
from tagalong.access.prctl import Prctl
from tagalong.access.sp import Sp
from tagalong.access.strategy import Strategy
from tagalong.access.tco import Tco
from tagalong.errors import HostError, UsageError

# From the best to the worst; docs/design/access.md says why.
PREFERENCE: Final[Mapping[type[Strategy], str]] = MappingProxyType(
    {
        Ioctl: IOCTL_REASON,
        Alias: "never faults and needs no state of the thread",
        Tco: "never faults; the thread's checking is off for one copy",
        Kernel: "never faults; a system call per copy, and no pointer to lend",
        Prctl: "never faults; two system calls around each copy switch the thread's checking",
        Sp: "never faults; signals wait for the length of each copy",
        Match: "checking stays on, and faults when the guest changes tags meanwhile",
    }
)

STRATEGIES: Final[Mapping[str, type[Strategy]]] = MappingProxyType(
    {strategy.name: strategy for strategy in PREFERENCE}
)


@dataclass(frozen=True)
class Choice:
    """A strategy, ready to use, and why this one."""

    strategy: Strategy
    reason: str


def choose(name: str, host: Host) -> Choice:
    """Return the strategy `name` on `host`; "auto" is the best of those that work there.

    Raises UsageError for an unknown name, HostError that says what the host lacks for it.
    """
    if name == AUTO:
        return _choose_best(host)
    if name not in STRATEGIES:
        raise UsageError(
            f"there is no access strategy {name!r}; choose one of {', '.join(ACCESS_NAMES)}"
        )
    obstacle = why_not(name, host)
    if obstacle is not None:
        raise HostError(f"access strategy {name!r} does not work here: {obstacle}")
    return Choice(STRATEGIES[name](host), "asked for")


def why_not(name: str, host: Host) -> str | None:
    """Return what `host` lacks for the strategy `name`, None if nothing."""
    return missing(STRATEGIES[name].needs, host)


def missing(needs: Collection[Need], host: Host) -> str | None:
    """Return which of `needs` the host lacks, and why; None if it has all of them."""
    in_order = sorted(needs, key=lambda need: need.name)
    reasons = [f"needs {need.value}: {reason}" for need in in_order if (reason := host.lacks(need))]
    return "; ".join(reasons) or None


def _choose_best(host: Host) -> Choice:
    passed_over: list[str] = []
    for strategy, reason in PREFERENCE.items():
        obstacle = why_not(strategy.name, host)
        if obstacle is None:
            why = "; ".join([reason, *passed_over])
            return Choice(strategy(host), why)
        passed_over.append(f"not {strategy.name}: {obstacle}")
    raise HostError(f"no access strategy works here: {'; '.join(passed_over)}")
