"""TAGS_IN_PLACE: a stream that carries no pages, and must compare."""

import pytest

from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.wire import (
    Accept,
    Connection,
    Digest,
    Feature,
    Hello,
    NoBytes,
    Pages,
    Prepare,
    Run,
    Runs,
    Verify,
)
from tests.support.wire_session import (
    DESTINATION,
    DIGEST,
    MACHINE,
    MIGRATION_ID,
    PREVIEW,
    RAM,
    SOURCE,
    STATE,
    Pair,
    joined,
)

IN_PLACE = Feature.TAGS_ONLY | Feature.TAGS_IN_PLACE


def copying(granted: int = IN_PLACE) -> Pair:
    """Return both ends of a stream of tags in place, as far as the copying phase."""
    pair = Pair(Connection(SOURCE, tags_only=True), Connection(DESTINATION, tags_only=True))
    pair.say(SOURCE, Hello(SOURCE, MIGRATION_ID, mandatory_features=IN_PLACE))
    pair.say(DESTINATION, Hello(DESTINATION, MIGRATION_ID, mandatory_features=granted))
    pair.say(SOURCE, MACHINE)
    pair.say(SOURCE, PREVIEW)
    pair.say(DESTINATION, Accept())
    return pair


def test_tags_in_place_that_were_compared_may_be_handed_over() -> None:
    pair = copying()

    pair.say(SOURCE, STATE)
    pair.say(SOURCE, Verify())
    pair.say(SOURCE, Digest(DIGEST))
    pair.say(DESTINATION, Digest(DIGEST))

    assert pair.say(SOURCE, Prepare()) == Prepare()
    assert pair.source.features & IN_PLACE == IN_PLACE


def test_tags_in_place_that_were_not_compared_are_refused() -> None:
    pair = copying()
    pair.say(SOURCE, STATE)

    with pytest.raises(LocalProtocolError, match="VERIFY must come before PREPARE"):
        pair.source.send(Prepare())


def test_pages_of_tags_in_place_are_refused() -> None:
    pair = copying()
    batch = Pages(Runs([Run(RAM, 1)]), NoBytes.KEPT, NoBytes.ZERO)
    sender = copying(Feature.TAGS_ONLY)  # one that may send them

    pair.destination.receive_data(joined(sender.source.send(batch)))
    with pytest.raises(RemoteProtocolError, match="pages in a stream whose tags are in place"):
        pair.destination.next_record()


def test_data_in_place_are_refused() -> None:
    pair = Pair(Connection(SOURCE), Connection(DESTINATION))

    with pytest.raises(LocalProtocolError, match="TAGS_IN_PLACE without TAGS_ONLY"):
        pair.source.send(Hello(SOURCE, MIGRATION_ID, mandatory_features=Feature.TAGS_IN_PLACE))
