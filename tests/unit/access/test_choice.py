"""auto takes the best that works and says why; what does not work is refused by name."""

from collections.abc import Iterator

import pytest

from tagalong.access import ACCESS_NAMES, STRATEGIES, Need, choose, why_not
from tagalong.errors import HostError, UsageError
from tests.support.fake_host import FakeHost


@pytest.fixture
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


def test_names_are_those_of_the_issue() -> None:
    names = {"ioctl", "alias", "prctl", "match", "sp", "tco", "kernel"}

    assert set(STRATEGIES) == names
    assert list(ACCESS_NAMES) == ["auto", *STRATEGIES]


def test_auto_takes_ioctl_where_everything_works(host: FakeHost) -> None:
    choice = choose("auto", host)

    assert choice.strategy.name == "ioctl"
    assert choice.reason == (
        "never faults, needs no mapping with PROT_MTE and no state of the thread"
    )


@pytest.mark.parametrize(
    ("missing", "chosen"),
    [
        ({Need.COPY_TAGS}, "alias"),
        ({Need.COPY_TAGS, Need.SHARED_MEMORY}, "tco"),
        ({Need.PROT_MTE}, "ioctl"),
    ],
)
def test_auto_passes_over_what_lacks_something_and_says_what(
    host: FakeHost, missing: set[Need], chosen: str
) -> None:
    host.missing = dict.fromkeys(missing, "it is not there")

    choice = choose("auto", host)

    assert choice.strategy.name == chosen
    if chosen != "ioctl":
        assert "; not ioctl: needs KVM_ARM_MTE_COPY_TAGS: it is not there" in choice.reason


def test_name_that_is_none_is_refused(host: FakeHost) -> None:
    with pytest.raises(
        UsageError, match="there is no access strategy 'fast'; choose one of auto, ioctl"
    ):
        choose("fast", host)


def test_strategy_that_lacks_something_is_refused_with_all_reasons(host: FakeHost) -> None:
    host.missing = {Need.PROT_MTE: "EINVAL", Need.SHARED_MEMORY: "RAM is anonymous"}

    with pytest.raises(HostError) as caught:
        choose("alias", host)

    assert str(caught.value) == (
        "access strategy 'alias' does not work here: "
        "needs a mapping of guest RAM with PROT_MTE: EINVAL; "
        "needs guest RAM in shared memory, for a second mapping: RAM is anonymous"
    )
    assert why_not("ioctl", host) is None


def test_auto_where_nothing_works_names_every_obstacle(host: FakeHost) -> None:
    host.missing = {Need.ARM64: "this host is a toaster"}

    with pytest.raises(HostError, match="no access strategy works here: not ioctl: needs an arm64"):
        choose("auto", host)
