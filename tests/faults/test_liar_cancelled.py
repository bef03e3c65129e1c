"""A destination that lies does not keep a cancellation, or an end, from coming."""

from pathlib import Path

import pytest

from tagalong.errors import MigrationError
from tagalong.machine import RunState
from tests.support.liar import Conduct, Moment
from tests.support.lie import MOST_S, Lie, judged

ENDLESS = (Conduct.SILENT, Conduct.FLOOD, Conduct.DRIP, Conduct.DRIBBLE)

# After COMMIT nobody can cancel.
CANCELLABLE = [moment for moment in Moment if moment not in (Moment.RUNNING, Moment.END)]

# Where KEEPALIVE is not allowed it ends the migration, cancelled or not.
NO_KEEPALIVE = (Moment.HELLO, Moment.CHANNEL, Moment.RESUME_HELLO)


@pytest.mark.parametrize("conduct", ENDLESS)
def test_liar_at_every_answer_does_not_keep_a_cancellation_from_its_end(
    conduct: Conduct, tmp_path: Path
) -> None:
    keeps_alive = conduct in (Conduct.FLOOD, Conduct.DRIP)
    lies = [
        Lie(moment, conduct, cancels=True, reconnect_s=60)
        for moment in CANCELLABLE
        if not (keeps_alive and moment in NO_KEEPALIVE)
    ]

    wrong = judged(lies, tmp_path)

    assert not wrong, wrong


def test_liar_that_cuts_every_resumed_connection_ends_the_migration(tmp_path: Path) -> None:
    lie = Lie(Moment.RUNNING, Conduct.SILENT, cuts_every_round=True).tell(tmp_path)

    assert isinstance(lie.error, MigrationError)
    assert lie.state is RunState.RUNNING
    assert lie.took_s < MOST_S
